import numpy as np
from PIL import Image

from benchmarks import evaldata_objects as evaldata
from dinov3_jax.data.benchmarks.boxes import open_boxes
from dinov3_jax.data.benchmarks.foreground import open_foreground
from dinov3_jax.data.benchmarks.video import open_clips
from tests.features.models import write_images


def test_boxes_and_masks_tell_the_same_truth(tmp_path):
    write_images(tmp_path / "photos", 4, 160, 200)
    boxes = open_boxes(evaldata.boxes(tmp_path / "photos", tmp_path, count=3), "any")
    masks = open_foreground(evaldata.masks(tmp_path / "photos", tmp_path, count=3), "any")
    for i in range(3):
        image, alpha = masks[i]
        np.testing.assert_array_equal(image, boxes.image(i))
        ((x0, y0, x1, y1),) = boxes.boxes[i].astype(int)
        assert alpha[y0:y1, x0:x1].sum() == alpha.sum() > 0
        for edge in (alpha[y0], alpha[y1 - 1], alpha[:, x0], alpha[:, x1 - 1]):
            assert edge.any()


def test_clips_move_and_their_masks_with_them(tmp_path):
    write_images(tmp_path / "photos", 4, 160, 200)
    clips = open_clips(evaldata.clips(tmp_path / "photos", tmp_path, count=2, frames=4), "any")
    assert [len(clip) for clip in clips] == [4, 4]
    for clip in clips:
        assert clip.frame(0).shape == (evaldata.SIDE, evaldata.SIDE, 3)
        assert set(np.unique(clip.mask(0))) == {0, 1, 2}
        assert (clip.mask(0) != clip.mask(3)).any()
        with Image.open(clip.masks[0]) as image:
            assert image.mode == "P"
