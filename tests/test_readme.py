"""The Python of the README works as written."""

import pathlib
import re

import numpy as np
from PIL import Image

from tests.tiny import tiny_config
from tests.train.saved import save_run

README = pathlib.Path(__file__).parents[1] / "README.md"


def test_load_preprocess_call_and_show(tmp_path, monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    save_run(tmp_path / "runs/mine", tiny_config(), [3])
    photo = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)
    Image.fromarray(photo).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(code, names)
    assert names["features"].cls.shape == (1, names["model"].config.embed_dim)
    with Image.open(tmp_path / "pca.png") as picture:
        assert picture.size == (256, 256)
        assert len(picture.getcolors(1 << 16)) > 100  # patches differ
