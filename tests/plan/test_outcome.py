"""Waiting for the compiler's process, played by a thread that writes its report."""

import multiprocessing
import threading

import pytest

from dinov3_jax.plan import compile, hlo

MEMORY = "module_0001.jit_step.5.after_optimizations-memory-usage-report.txt"
PROGRAM = "module_0001.jit_step.5.after_optimizations.txt"
TEXTS = {
    MEMORY: "Memory Space: default (color=0)\nTotal bytes: 15823768576 (14.74GiB)\n",
    PROGRAM: "HloModule jit_step\n\nENTRY %main (a: f32[]) -> f32[] {\n  ROOT %a = x\n}\n",
}


@pytest.mark.parametrize("late", [MEMORY, PROGRAM])
@pytest.mark.parametrize("size", [-6, -20])  # 20: in the middle of the total, of the last operation
def test_reports_are_read_when_both_are_whole(tmp_path, late, size):
    for name, text in TEXTS.items():
        (tmp_path / name).write_text(text[:size] if name == late else text)
    rest = threading.Timer(2.0, (tmp_path / late).write_text, [TEXTS[late]])
    rest.start()
    ours, _theirs = multiprocessing.Pipe()
    assert compile._outcome(None, ours, tmp_path, False) == {}
    assert hlo.packed_bytes((tmp_path / MEMORY).read_text()) == 15823768576
    assert hlo.is_whole((tmp_path / PROGRAM).read_text())
    rest.join()


def test_reports_that_are_never_whole_are_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(compile, "_PATIENCE", 0.1)
    (tmp_path / MEMORY).write_text(TEXTS[MEMORY][:50])
    ours, _theirs = multiprocessing.Pipe()
    with pytest.raises(RuntimeError, match=r"lacks 'Total bytes' .* and the end of after_optim"):
        compile._outcome(None, ours, tmp_path, False)


def test_machine_code_is_waited_for(tmp_path):
    for name, text in TEXTS.items():
        (tmp_path / name).write_text(text)
    ours, theirs = multiprocessing.Pipe()
    threading.Timer(1.0, theirs.send, [{"peak_bytes": 7}]).start()
    assert compile._outcome(None, ours, tmp_path, True) == {"peak_bytes": 7}
