"""The forward pass of the tiny model is compiled once, not once a folder of features."""

import functools

import pytest

from dinov3_jax.features import extract, job

_extractor = functools.cache(extract.extractor)


@pytest.fixture(autouse=True)
def _compiled_once(monkeypatch):
    monkeypatch.setattr(job, "extractor", _extractor)
