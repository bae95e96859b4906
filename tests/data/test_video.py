import cv2
import numpy as np
import pytest
from PIL import Image

from dinov3_jax.data.sources import SourceError
from dinov3_jax.data.video import open_video
from tests.data.benchmarks.clips import write_video


def frames(n=3, height=32, width=48):
    """Plain colours: codecs and palettes keep them nearly."""
    return [np.full((height, width, 3), (40 * i, 200 - 40 * i, 90), np.uint8) for i in range(n)]


def test_a_folder_in_the_order_of_its_numbers(tmp_path):
    for i, frame in enumerate(frames(12)):
        Image.fromarray(frame).save(tmp_path / f"frame{i}.png")
    (tmp_path / "notes.txt").write_text("hello")
    video = open_video(str(tmp_path))
    assert video.rate == 10
    np.testing.assert_array_equal(list(video.frames), frames(12))


def test_a_gif_with_its_own_rate(tmp_path):
    first, *others = map(Image.fromarray, frames())
    first.save(tmp_path / "a.gif", save_all=True, append_images=others, duration=40)
    video = open_video(str(tmp_path / "a.gif"))
    assert video.rate == 25
    np.testing.assert_array_equal(list(video.frames), frames())


def test_a_video_file(tmp_path):
    writer = cv2.VideoWriter(
        str(tmp_path / "a.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 12.5, (48, 32)
    )
    for frame in frames():
        writer.write(frame[..., ::-1])
    writer.release()
    video = open_video(str(tmp_path / "a.avi"))
    assert video.rate == 12.5
    got = np.stack(list(video.frames))
    np.testing.assert_allclose(got, frames(), atol=6)  # levels: lossy; red and blue differ by 90


def test_a_video_file_that_was_cut_off(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (20, 64, 64, 3), np.uint8)
    write_video(tmp_path / "a.avi", noise)  # frames of about one size in bytes
    data = (tmp_path / "a.avi").read_bytes()
    (tmp_path / "a.avi").write_bytes(data[: len(data) * 4 // 10])
    with pytest.raises(SourceError, match=r"a\.avi: only \d of 20 frames can be read"):
        list(open_video(str(tmp_path / "a.avi")).frames)


def test_mistakes(tmp_path):
    with pytest.raises(SourceError, match=r"there is no video nowhere\.mp4"):
        open_video("nowhere.mp4")
    with pytest.raises(SourceError, match="no frames in"):
        open_video(str(tmp_path))
    for name, message in (("a.mp4", "no video that OpenCV can read"), ("a.gif", "cannot be read")):
        (tmp_path / name).write_text("hello")
        with pytest.raises(SourceError, match=message):
            open_video(str(tmp_path / name))


def test_frames_of_several_sizes_are_refused(tmp_path):
    for i, width in enumerate((48, 48, 40)):
        Image.new("RGB", (width, 32)).save(tmp_path / f"{i}.png")
    video = open_video(str(tmp_path))
    assert next(video.frames).shape == next(video.frames).shape == (32, 48, 3)
    with pytest.raises(SourceError, match="frame 2 has 32 x 40 pixels, the first 32 x 48"):
        next(video.frames)
