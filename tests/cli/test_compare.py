"""``dinov3 compare``: one row a run, its first evaluation against its last."""

import json

import pytest
from etils import epath

from dinov3_jax.cli import compare
from dinov3_jax.config import ConfigError


def health(cosine, **more):
    names = ("health/cls_patch_cosine", "health/rankme_cls", "health/rankme_patch")
    return {"health/patch_cosine": cosine, **dict.fromkeys(names, 2.0), **more}


def write(folder, name, rows):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"config": {"name": name}}))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return epath.Path(folder)


@pytest.fixture
def runs(tmp_path):
    first = write(
        tmp_path / "first",
        "photos_small",
        [
            {"step": 0, **health(0.91, **{"eval/knn": 12.34})},
            {"step": 10, "loss/total": 3.0},
            {"step": 50, **health(0.5, **{"eval/knn": 40.0})},
            {"step": 100, **health(0.25, **{"eval/knn": 56.78})},
            {"step": 110, "loss/total": 2.0},
        ],
    )
    second = write(tmp_path / "a_longer_name", "photos_small_gram", [{"step": 7, **health(0.125)}])
    return [first, second]


def cells(table):
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in table.splitlines()]


def test_first_and_last_evaluation_of_each_run(runs):
    head, line, first, second = cells(compare.table(runs))
    assert head == ["run", "recipe", "steps", *compare.COLUMNS]
    assert set("".join(line)) == {"-"}
    assert first[:5] == ["first", "photos_small", "100", "12.3 -> 56.8", "0.910 -> 0.250"]
    assert second[:3] == ["a_longer_name", "photos_small_gram", "7"]
    assert second[3] == "-"  # no labels, no k-NN
    assert second[4] == "0.125 -> 0.125"


def test_it_is_an_aligned_markdown_table(runs):
    rows = compare.table(runs).splitlines()
    assert len({len(row) for row in rows}) == 1
    assert len({tuple(i for i, c in enumerate(row) if c == "|") for row in rows}) == 1


def test_an_evaluation_that_was_not_finite_shows_as_such(tmp_path):
    run = write(tmp_path / "run", "x", [{"step": 0, **health(0.5)}, {"step": 9, **health(None)}])
    assert cells(compare.table([run]))[2][4] == "0.500 -> nan"


@pytest.mark.parametrize("rows", [None, [], [{"step": 3, "loss/total": 1.0}]])
def test_a_folder_that_is_no_evaluated_run(tmp_path, rows):
    if rows is not None:
        write(tmp_path, "x", rows)
    with pytest.raises(ConfigError, match="is no workdir of a run that was evaluated"):
        compare.table([epath.Path(tmp_path)])


def test_the_verb_prints_the_table(runs, capsys):
    compare.run([str(run) for run in runs])
    assert capsys.readouterr().out == compare.table(runs) + "\n"


def test_k_nn_that_only_came_with_a_later_start(tmp_path):
    """eval.source may change between two starts of one run."""
    rows = [{"step": 0, **health(0.5)}, {"step": 9, **health(0.4, **{"eval/knn": 30.0})}]
    assert "30.0" in cells(compare.table([write(tmp_path / "run", "x", rows)]))[2][3]
