import json
import math

import numpy as np
import pytest
from etils import epath

from dinov3_jax.train import metrics


@pytest.fixture
def workdir(tmp_path):
    return epath.Path(tmp_path)


def write(workdir, rows, after=10**6):
    writer = metrics.MetricsWriter(workdir)
    writer.rewind(after)
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


def test_writing_needs_a_place_in_the_run_first(workdir):
    with pytest.raises(RuntimeError, match="rewind"):
        metrics.MetricsWriter(workdir).write(1, {"a": 1.0})


def test_no_file_no_rows(workdir):
    assert metrics.read_metrics(workdir) == []
    write(workdir, [], after=3)
    assert metrics.read_metrics(workdir) == []


def test_the_half_line_of_a_killed_run_is_skipped(workdir):
    write(workdir, [(1, {"a": 1.0})])
    with (workdir / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "a":')
    assert [row["step"] for row in metrics.read_metrics(workdir)] == [1]
    write(workdir, [(2, {"a": 2.0})], after=5)
    assert [row["step"] for row in metrics.read_metrics(workdir)] == [1, 2]


def test_rewind_drops_later_rows_and_keeps_nan(workdir):
    write(workdir, [(i, {"a": math.nan if i == 1 else float(i)}) for i in (1, 2, 3)])
    write(workdir, [], after=2)
    rows = metrics.read_metrics(workdir)
    assert [row["step"] for row in rows] == [1, 2]
    assert math.isnan(rows[0]["a"])
    assert metrics.read_metrics(workdir, before=1)[-1]["step"] == 1
    write(workdir, [(0, {"a": 0.0})], after=0)  # a run that starts afresh
    assert [row["step"] for row in metrics.read_metrics(workdir)] == [0]


def test_a_file_is_replaced_whole_or_not_at_all(workdir, monkeypatch):
    path = workdir / "metrics.jsonl"
    metrics.write_whole(path, "history")

    def full_disk(self, text):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(path), "write_text", full_disk)
    with pytest.raises(OSError, match="No space"):
        metrics.write_whole(path, "")
    monkeypatch.undo()
    assert path.read_text() == "history"


def test_clock_counts_from_where_it_was_restarted(monkeypatch):
    now = iter([0.0, 10.0, 10.0, 12.0, 13.0, 14.0, 14.0])
    monkeypatch.setattr(metrics.time, "perf_counter", lambda: next(now))
    clock = metrics.Clock(64, 5000)
    clock.restart(5001)  # at 10 s: compiled
    with clock.waiting():  # 10 to 12 s
        pass
    rates = {"images_per_second": 64 * 9 / 3.0, "data_wait": 2 / 3, "images_seen": 5010 * 64.0}
    assert clock.rates(5010) == pytest.approx(rates)  # at 13 s; a resumed run counts its own steps


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
    assert "5/10" in capsys.readouterr().err
