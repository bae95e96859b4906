"""Waiting for the compiler's process, played by a thread that writes its report."""

import multiprocessing
import threading

import pytest

from dinov3_jax.plan import compile, hlo

NAME = "module_0001.jit_step.5.after_optimizations-memory-usage-report.txt"
REPORT = "Memory Space: default (color=0)\nTotal bytes: 15823768576 (14.74GiB)\n"


def test_a_report_is_read_when_its_total_is_there(tmp_path):
    path = tmp_path / NAME
    path.write_text(REPORT[:50])  # in the middle of the total
    rest = threading.Timer(2.0, path.write_text, [REPORT])
    rest.start()
    ours, _theirs = multiprocessing.Pipe()
    assert compile._outcome(None, ours, tmp_path, False) == {}
    assert hlo.packed_bytes(path.read_text()) == 15823768576
    rest.join()


def test_a_report_that_is_never_whole_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(compile, "_PATIENCE", 0.1)
    (tmp_path / NAME).write_text(REPORT[:50])
    ours, _theirs = multiprocessing.Pipe()
    with pytest.raises(RuntimeError, match="has had no total for"):
        compile._outcome(None, ours, tmp_path, False)


def test_machine_code_is_waited_for(tmp_path):
    (tmp_path / NAME).write_text(REPORT)
    ours, theirs = multiprocessing.Pipe()
    threading.Timer(1.0, theirs.send, [{"peak_bytes": 7}]).start()
    assert compile._outcome(None, ours, tmp_path, True) == {"peak_bytes": 7}
