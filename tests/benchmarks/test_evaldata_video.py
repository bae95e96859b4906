import numpy as np

from benchmarks import evaldata_video
from dinov3_jax.data.benchmarks.clips import open_clips


def test_a_shot_is_a_class_and_no_frame_is_in_both_splits(film, tmp_path):
    splits = open_clips(evaldata_video.shots(tmp_path, tmp_path))
    assert splits.classes == ("shot0", "shot1")
    assert np.bincount(splits.train.labels).tolist() == [4, 6]  # of the first 10, and 14, frames
    assert np.bincount(splits.test.labels).tolist() == [1, 2]
    numbers = {}
    for name, clips in (("train", splits.train), ("test", splits.test)):
        seen = np.concatenate([clips.frames(i, evaldata_video.CLIP) for i in range(len(clips))])
        assert seen.shape[1:] == (136, 160, 3)
        numbers[name] = {int(frame[0, 0, 1]) // 4 for frame in seen}
    assert numbers["train"] == {*range(10), *range(14, 28)}
    assert numbers["test"] == {*range(10, 14), *range(28, 34)}
