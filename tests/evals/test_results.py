import csv
import json

import numpy as np
import pytest

from dinov3_jax.config import ConfigError
from dinov3_jax.evals import results
from dinov3_jax.evals.classification.knn import KnnSettings
from dinov3_jax.evals.classification.logistic import LogisticSettings
from dinov3_jax.evals.evaluation import Picture, Result

WHOSE = {"model": "tiny <b>", "weights": "0123456789abcdef"}
KNN, LOGISTIC = KnnSettings("a/<i>folder"), LogisticSettings("folder")


def result(top1=87.256):
    pixels = np.full((40, 60, 3), 200, np.uint8)
    return Result({"top1": top1, "top5": 100.0}, (Picture("wrong: <script>", pixels),))


def write(out, name="knn", settings=KNN, made=None):
    results.write(out, name, settings, made or result(), seconds=1234.5678, **WHOSE)


@pytest.fixture
def out(tmp_path):
    folder = tmp_path / "out"
    assert results.finished(folder, {"knn": KNN}, **WHOSE) == set()
    write(folder)
    return folder


def test_all_files_tell_the_same(out):
    write(out, "logistic", LOGISTIC, Result({"top1": 12.5}))
    entries = json.loads((out / "results.json").read_text())
    assert list(entries) == ["knn", "logistic"]
    assert entries["knn"]["metrics"] == {"top1": 87.256, "top5": 100.0}
    assert entries["knn"]["settings"]["neighbours"] == [10, 20, 100, 200]
    assert entries["knn"] | WHOSE == entries["knn"]
    assert entries["knn"]["seconds"] == 1234.6
    with open(out / "results.csv") as file:
        assert list(csv.reader(file)) == [
            ["evaluation", "metric", "value"],
            ["knn", "top1", "87.256"],
            ["knn", "top5", "100.0"],
            ["logistic", "top1", "12.5"],
        ]


def test_the_page_carries_everything_and_escapes_it(out):
    page = (out / "index.html").read_text()
    assert page.count("data:image/png;base64,") == 1
    assert page.index("87.26") < page.index("id='knn'")
    for text in ("tiny &lt;b&gt;", "a/&lt;i&gt;folder", "wrong: &lt;script&gt;", "1,235"):
        assert text in page
    assert "<script>" not in page
    assert "http" not in page.replace("http-equiv", "")


def test_a_rerun_finds_what_is_done(out):
    wanted = {"knn": KNN, "logistic": LOGISTIC}
    assert results.finished(out, wanted, **WHOSE) == {"knn"}


@pytest.mark.parametrize(
    ("wanted", "whose", "message"),
    [
        ({"knn": KnnSettings("other")}, {}, "data: 'a/<i>folder' there, 'other' now"),
        ({"knn": KnnSettings(KNN.data, crop=28)}, {}, "crop: 224 there, 28 now"),
        ({"logistic": LOGISTIC}, {"weights": "other"}, "weights: '0123456789abcdef' there"),
        ({"knn": KNN}, {"model": "small"}, "model: 'tiny <b>' there, 'small' now.*--out"),
    ],
)
def test_other_things_are_refused(out, wanted, whose, message):
    with pytest.raises(ConfigError, match=message):
        results.finished(out, wanted, **(WHOSE | whose))


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"")
    with pytest.raises(ConfigError, match="holds no results"):
        results.finished(tmp_path, {"knn": KNN}, **WHOSE)


def test_damaged_results_are_said_to_be(out):
    (out / "results.json").write_text("{")
    with pytest.raises(ConfigError, match=r"results\.json is damaged"):
        results.finished(out, {"knn": KNN}, **WHOSE)


@pytest.mark.parametrize("metrics", [{"top1": float("nan")}, {"top5": 1.0}])
def test_a_result_without_its_main_number_is_no_result(out, metrics):
    with pytest.raises(ConfigError, match="wanted finite numbers and top1"):
        write(out, made=Result(metrics))
