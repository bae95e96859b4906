import re
import types

import cv2
import numpy as np
import pytest
from PIL import Image

from dinov3_jax.data.benchmarks.clips import Clips, open_clips
from dinov3_jax.data.sources import SourceError
from tests.data.benchmarks.clips import frames, write_clips, write_folder, write_gif, write_video


def test_class_folders_of_frames(tmp_path):
    found = open_clips(write_clips(tmp_path, train=3, test=2, count=5))
    assert found.classes == ("run", "sit")
    assert found.val is None
    assert (len(found.train), len(found.test)) == (6, 4)
    np.testing.assert_array_equal(found.test.labels, [0, 0, 1, 1])
    np.testing.assert_array_equal(found.train.frames(5, 5), frames(5, label=1))


def test_frames_are_evenly_spaced_with_the_first_and_the_last(tmp_path):
    clips = open_clips(write_clips(tmp_path, train=1, test=1, count=9)).train
    red = lambda count: clips.frames(0, count)[:, 0, 0, 0].tolist()  # noqa: E731
    assert red(3) == [0, 32, 64]
    assert red(5) == [0, 16, 32, 48, 64]
    assert len(red(20)) == 20  # some of the 9 come twice
    assert sorted(set(red(20))) == [8 * i for i in range(9)]


def test_a_clip_is_a_folder_a_gif_a_video_or_an_image(tmp_path):
    pictures = frames(5, label=1)
    write_folder(tmp_path / "train" / "a" / "folder", pictures)
    write_gif(tmp_path / "train" / "a" / "gif.gif", pictures)
    write_video(tmp_path / "train" / "a" / "video.avi", pictures)
    Image.fromarray(pictures[2]).save(tmp_path / "train" / "a" / "zimage.png")
    write_folder(tmp_path / "val" / "a" / "folder", pictures)
    found = open_clips(str(tmp_path))
    assert (found.val, len(found.test)) == (None, 1)
    assert not found.train.stills
    assert Clips(found.train.paths[3:], found.train.labels[3:]).stills
    folder, gif, video, image = (found.train.frames(i, 3) for i in range(4))
    np.testing.assert_array_equal(folder, pictures[[0, 2, 4]])
    np.testing.assert_array_equal(gif, folder)
    np.testing.assert_array_equal(image, pictures[[2, 2, 2]])
    # Motion JPEG stores half the colours and rounds: levels come back to a few of 255.
    assert np.abs(video.astype(int) - folder).max() <= 6


def test_lists_of_paths_and_numbers(tmp_path):
    write_folder(tmp_path / "clips" / "with space", frames(2))
    (tmp_path / "train.txt").write_text("clips/with space 0\nclips/with space 2\n")
    (tmp_path / "test.txt").write_text("clips/with space 1\n\n")
    found = open_clips(str(tmp_path))
    assert found.classes == ("0", "1", "2")
    np.testing.assert_array_equal(found.train.labels, [0, 2])
    np.testing.assert_array_equal(found.test.labels, [1])
    assert found.test.frames(0, 2).shape == (2, 16, 16, 3)


def test_bad_data_says_what_was_wanted(tmp_path):
    with pytest.raises(SourceError, match="no splits of clips, wanted"):
        open_clips(str(tmp_path))
    root = tmp_path / "strange"
    write_clips(root, train=1, test=1)
    write_folder(root / "test" / "jump" / "x", frames(2))
    with pytest.raises(SourceError, match=r"test has 1 class.* jump .*train has 2"):
        open_clips(str(root))
    (root / "train" / "loose.gif").touch()
    with pytest.raises(SourceError, match=r"loose\.gif is no class folder"):
        open_clips(str(root))
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "train.txt").write_text("a 0\n")
    for text, message in (
        ("a\n", "line 1 of .* is 'a', wanted a path and a number"),
        ("a -1\n", "is 'a -1'"),
        ("\n", "is empty"),
        ("a 7\n", "test has 1 class"),
    ):
        (lists / "test.txt").write_text(text)
        with pytest.raises(SourceError, match=message):
            open_clips(str(lists))


def test_videos_that_are_damaged_midway(tmp_path, caplog):
    noise = np.random.default_rng(0).integers(0, 256, (20, 64, 64, 3), np.uint8)
    write_video(tmp_path / "whole.avi", noise)  # frames of about one size in bytes
    data = (tmp_path / "whole.avi").read_bytes()
    clips = Clips((str(tmp_path / "cut.avi"),), np.zeros(1, np.int32))
    (tmp_path / "cut.avi").write_bytes(data[: len(data) * 4 // 10])
    with pytest.raises(SourceError, match=r"cut\.avi cannot be read .only \d of 20 frames can be"):
        clips.frames(0, 3)
    assert not caplog.records
    (tmp_path / "cut.avi").write_bytes(data[: len(data) * 8 // 10])
    assert len(clips.frames(0, 3)) == 3
    assert re.search(r"cut\.avi: only 1\d of 20 frames can be read; get it again", caplog.text)
    caplog.clear()
    (tmp_path / "cut.avi").write_bytes(data)
    assert len(clips.frames(0, 3)) == 3
    assert not caplog.records


def test_a_frame_that_is_not_given_is_an_error_with_the_name(tmp_path, monkeypatch):
    whole = cv2.VideoCapture

    def broken(path):
        video = whole(path)
        return types.SimpleNamespace(grab=video.grab, get=video.get, retrieve=lambda: (False, None))

    write_video(tmp_path / "a.avi", frames(4))
    monkeypatch.setattr(cv2, "VideoCapture", broken)
    clips = Clips((str(tmp_path / "a.avi"),), np.zeros(1, np.int32))
    with pytest.raises(SourceError, match=r"a\.avi cannot be read .frame 0 of 4 is damaged"):
        clips.frames(0, 2)


def test_clips_that_cannot_be_read_are_named(tmp_path):
    folder = tmp_path / "train" / "a"
    write_folder(folder / "0empty", [])
    write_folder(folder / "1sizes", [np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5, 3), np.uint8)])
    (folder / "2video.mp4").write_bytes(b"no video")
    (folder / "3notes.txt").write_text("no clip")
    write_folder(tmp_path / "test" / "a" / "x", frames(2))
    clips = open_clips(str(tmp_path)).train
    for index, message in enumerate(
        ("no frames in .*0empty", "1sizes has frames of 2 sizes",
         "2video.mp4 cannot be read .it has no frame", "3notes.txt cannot be read .it is no folder")
    ):  # fmt: skip
        with pytest.raises(SourceError, match=message):
            clips.frames(index, 2)
