"""The layouts are written from a few noise images and read back."""

import numpy as np
import pytest
from PIL import Image

from benchmarks import evaldata_retrieval as evaldata
from dinov3_jax.data.benchmarks.amstertime import open_amstertime
from dinov3_jax.data.benchmarks.copydays import open_copydays
from dinov3_jax.data.benchmarks.met import open_met
from dinov3_jax.data.benchmarks.retrieval import open_retrieval
from dinov3_jax.data.benchmarks.revisited import open_revisited
from tests.data.benchmarks.retrieval_layouts import write


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    root = tmp_path_factory.mktemp("photos")
    for split in ("train", "val", "test"):
        for kind, classes in (("clothing", "ab"), ("grocery", "pqr")):
            for name in classes:
                for i in range(3):
                    write(root / kind / split / name / f"{i}.jpg", seed=i)
    text = "class,class_id,coarse_class,coarse_id\np,0,fruit,0\nq,1,fruit,0\nr,2,milk,1\n"
    (root / "grocery/classes.csv").write_text(text)
    return root


def test_class_folders(photos, tmp_path):
    evaldata.class_folders(photos, tmp_path)
    data = open_retrieval(str(tmp_path))
    assert len(data.queries) == len(data.database) == 6
    assert all(len(rows) == 3 for rows in data.positives)


def test_easy_is_the_product_and_hard_its_kind(photos, tmp_path):
    evaldata.oxford(photos, tmp_path)
    data = open_revisited(str(tmp_path))
    assert [len(rows) for rows in data.easy] == [3, 3, 3]
    assert [len(rows) for rows in data.hard] == [3, 3, 0]
    assert all("_p_" in data.database.files[row] for row in data.easy[0])


def test_half_of_the_queries_are_distractors(photos, tmp_path):
    evaldata.met(photos, tmp_path)
    data = open_met(str(tmp_path), database="MET_database.json")
    assert len(data.database.labels) == 9
    for split, known in ((data.val, 3), (data.test, 6)):
        assert (split.labels >= 0).sum() == (split.labels < 0).sum() == known
        assert split.images[len(split.images) - 1].shape == (20, 28, 3)


def test_copies_and_old_pictures(photos, tmp_path):
    evaldata.copydays(photos, tmp_path / "copydays")
    data = open_copydays(str(tmp_path / "copydays"))
    assert (len(data.originals), len(data.strong)) == (6, 12)
    assert data.strong[0].shape == (14, 19, 3)  # .7 of both sides
    evaldata.amstertime(photos, tmp_path / "amstertime")
    assert len(open_amstertime(str(tmp_path / "amstertime")).old) == 6
    with Image.open(tmp_path / "amstertime/old/0000.jpg") as old:
        assert old.mode == "L"


def test_an_attack_changes_an_image():
    image = Image.fromarray(np.full((20, 30, 3), 128, np.uint8))
    made = evaldata.attack(image, np.random.default_rng(0))
    assert made.size == (21, 14)
    assert len(np.unique(np.asarray(made))) > 1
