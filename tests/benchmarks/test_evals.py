"""``make evals`` with a fresh tiny model: every evaluation on real images."""

import json
import math
import os
from pathlib import Path

import pytest

from benchmarks.evaldata import flags
from dinov3_jax.cli import eval as verb
from dinov3_jax.evals.suite import EVALUATIONS
from tests.features.models import mesh, vit

ROOT = Path(__file__).parents[2]
PHOTOS = (ROOT / os.environ.get("PHOTOS", "../shared/photos")).resolve()


@pytest.mark.evals
def test_every_evaluation_gives_a_number_and_the_page_names_it(tmp_path, monkeypatch):
    for package in ("skimage", "skvideo"):
        pytest.importorskip(package, reason="pip install -e .[evals]")
    if not (PHOTOS / "grocery/classes.csv").exists():
        pytest.skip(f"there are no photographs in {PHOTOS}; set PHOTOS=FOLDER, as for make evals")
    model = vit(patch_size=14)
    monkeypatch.setattr(verb, "open_model", lambda options: model)
    # One device, as make evals has it: eight share the cores and wait for each other too long.
    monkeypatch.setattr(verb, "make_mesh", lambda *_: mesh(1))
    made = flags(PHOTOS, tmp_path / "data")
    verb.run(["--model=tiny", f"--out={tmp_path / 'out'}", *made])
    found = json.loads((tmp_path / "out/results.json").read_text())
    page = (tmp_path / "out/index.html").read_text()
    assert found.keys() == EVALUATIONS.keys()
    for name, evaluation in EVALUATIONS.items():
        assert math.isfinite(found[name]["metrics"][evaluation.main])
        assert f"<section id='{name}'>" in page
