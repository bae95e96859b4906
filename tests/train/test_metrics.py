import json
import math

import numpy as np
import pytest
from etils import epath

from dinov3_jax.train import metrics


@pytest.fixture
def workdir(tmp_path):
    return epath.Path(tmp_path)


def write(workdir, rows):
    writer = metrics.MetricsWriter(workdir)
    for step, row in rows:
        writer.write(step, row)
    writer.close()


def test_rows_come_back(workdir):
    write(workdir, [(1, {"loss/total": 2.0}), (2, {"loss/total": 1.5, "lr": 1e-3})])
    first, second = metrics.read_metrics(workdir)
    assert (first["step"], first["loss/total"]) == (1, 2.0)
    assert (second["step"], second["lr"]) == (2, 1e-3)
    assert second["time"] >= first["time"] > 1e9  # seconds since 1970


def test_lines_are_valid_json_whatever_the_numbers(workdir):
    write(workdir, [(1, {"a": math.nan, "b": math.inf, "c": 1.0})])

    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    (line,) = (workdir / "metrics.jsonl").read_text().splitlines()
    row = json.loads(line, parse_constant=refuse)
    assert row["a"] is None
    assert row["b"] is None
    (back,) = metrics.read_metrics(workdir)
    assert math.isnan(back["a"])
    assert math.isnan(back["b"])
    assert back["c"] == 1.0


def test_tensorboard_files_are_written(workdir):
    write(workdir, [(1, {"loss/total": 2.0})])
    assert [p.stat().length > 0 for p in (workdir / "tensorboard").iterdir()] == [True]


def test_other_processes_are_idle(workdir):
    writer = metrics.MetricsWriter(workdir, active=False)
    writer.write(1, {"a": 1.0})
    writer.close()
    assert list(workdir.iterdir()) == []


def test_no_file_no_rows(workdir):
    assert metrics.read_metrics(workdir) == []
    metrics.truncate_metrics(workdir, 3)
    assert list(workdir.iterdir()) == []


def test_the_half_line_of_a_killed_run_is_skipped(workdir):
    write(workdir, [(1, {"a": 1.0})])
    with (workdir / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "a":')
    assert [row["step"] for row in metrics.read_metrics(workdir)] == [1]
    metrics.truncate_metrics(workdir, 5)
    write(workdir, [(2, {"a": 2.0})])
    assert [row["step"] for row in metrics.read_metrics(workdir)] == [1, 2]


def test_truncate_drops_later_rows_and_keeps_nan(workdir):
    write(workdir, [(i, {"a": math.nan if i == 1 else float(i)}) for i in (1, 2, 3)])
    metrics.truncate_metrics(workdir, 2)
    rows = metrics.read_metrics(workdir)
    assert [row["step"] for row in rows] == [1, 2]
    assert math.isnan(rows[0]["a"])
    assert metrics.read_metrics(workdir, before=1)[-1]["step"] == 1
    metrics.truncate_metrics(workdir, 0)
    assert metrics.read_metrics(workdir) == []


def test_window_is_the_mean_since_the_last_row():
    window = metrics.Window()
    for value in (1.0, 2.0, 6.0):
        window.add({"a": value})
    assert window.means() == {"a": 3.0}
    window.add({"a": 5.0})
    assert window.means() == {"a": 5.0}
    assert window.means() == {}


def test_window_counts_what_is_not_finite():
    window = metrics.Window()
    window.add({"a": 1.0, "b": math.nan})
    window.add({"a": math.inf, "b": math.nan})
    row = window.means()
    assert row["a"] == 1.0
    assert np.isnan(row["b"])
    assert row["nonfinite_values"] == 3.0
    window.add({"a": 1.0})
    assert window.means() == {"a": 1.0}


def test_progress_bar_starts_where_the_run_does(capsys):
    with metrics.progress_bar(3, 10) as bar:
        bar.update(2)
        assert (bar.n, bar.total) == (5, 10)
    with metrics.progress_bar(3, 10, active=False) as bar:
        bar.update(1)
    assert capsys.readouterr().err.count("\r") <= 3  # the second one is silent
