"""What small real data is made of, in miniature: noise in place of photographs, a wall that both
cameras see in place of the motorcycle, grey and then coloured frames in place of the film."""

import numpy as np
import pytest

from benchmarks import evaldata_stereo, evaldata_video
from benchmarks.evaldata_classes import WNIDS
from benchmarks.evaldata_mosaics import CLASSES
from tests.data.benchmarks.clips import write_folder
from tests.data.benchmarks.retrieval_layouts import write
from tests.features.models import images

H, W = 500, 741


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Two classes of clothing, and the groceries that are asked for by name: three images of each
    in each split."""
    root = tmp_path_factory.mktemp("photos")
    coarse = dict(zip(CLASSES, CLASSES)) | {name: name for name in WNIDS}
    for split in ("train", "val", "test"):
        for kind, classes in (("clothing", "ab"), ("grocery", coarse)):
            for name in classes:
                for i in range(3):
                    write(root / kind / split / name / f"{i}.jpg", seed=i)
    rows = [f"{name},{kind}" for name, kind in coarse.items()]
    (root / "grocery/classes.csv").write_text("\n".join(("class,coarse_class", *rows)))
    return root


@pytest.fixture
def film(monkeypatch, tmp_path_factory):
    """Two shots, of 14 and of 20 frames, and a short one; the level of a frame says its number."""
    numbers = np.arange(40)[:, None, None, None]
    second = (numbers > 13) & (numbers < 34)
    frames = np.broadcast_to(4 * numbers + 60 * second * [1, 0, 1], (40, 272, 320, 3))
    folder = tmp_path_factory.mktemp("film")
    write_folder(folder / "frames", frames.astype(np.uint8))
    monkeypatch.setattr(evaldata_video, "film_file", lambda: str(folder / "frames"))


@pytest.fixture
def pair(monkeypatch):
    """A wall of disparity 20 with a board of 40 before it, and a hole without a known one."""
    disparity = np.full((H, W), 20.0)
    disparity[200:300, 300:400] = 40.0
    disparity[:50, :50] = np.inf
    made = *images(2, H, W), disparity
    monkeypatch.setattr(evaldata_stereo, "pair", lambda: made)
    return made
