"""Stops a run that cannot go on, and keeps the evidence."""

import json
import logging
import math

import jax
import numpy as np
from etils import epath

from dinov3_jax.config import TrainConfig
from dinov3_jax.data.sources import Source

_log = logging.getLogger(__name__)


class TrainingError(RuntimeError):
    """Training cannot go on, why, and what to change."""


class Guard:
    """Counts unreadable images and non-finite steps; stops a run that has too many.

    Each of several processes counts and keeps its own share of the images.
    """

    def __init__(self, config: TrainConfig, workdir: epath.Path, source: Source):
        self._config, self._folder, self._source = config, workdir / "nonfinite", source
        self._streak = self._bad = self._seen = 0

    def look(self, step: int, scalars: dict[str, float], records: dict[str, np.ndarray]) -> None:
        self._seen += records["skipped"].size + int(records["skipped"].sum())
        self._bad += int(records["skipped"].sum())
        share, limit = self._bad / self._seen, self._config.data.max_bad_fraction
        if share > limit and self._seen >= min(1000, 2 * self._config.batch.images):
            raise TrainingError(
                f"{self._bad} of {self._seen} images could not be read ({share:.1%}, "
                f"data.max_bad_fraction is {limit:.1%}); the log names them. Mend or remove them, "
                "or raise data.max_bad_fraction"
            )
        finite = math.isfinite(scalars["loss/total"])
        finite &= all(math.isfinite(v) for k, v in scalars.items() if k.startswith("grad_norm"))
        self._streak = 0 if finite else self._streak + 1
        if finite:
            return
        dump = {"step": step, "metrics": {k: repr(v) for k, v in scalars.items()}}
        dump["images"] = [self._source[int(i)].id for i in records["record"]]
        self._folder.mkdir(parents=True, exist_ok=True)
        process = f"_process_{jax.process_index()}" if jax.process_index() else ""
        path = self._folder / f"step_{step}{process}.json"
        path.write_text(json.dumps(dump, indent=1))
        bad = ", ".join(k for k, v in scalars.items() if not math.isfinite(v))
        _log.error("step %d is not finite (%s); parameters kept, details in %s", step, bad, path)
        if self._streak >= self._config.log.max_nan_steps:
            raise TrainingError(
                f"{self._streak} steps in a row were not finite, the last is step {step} ({bad}); "
                f"{self._folder} holds their images and terms. Lower optim.lr or optim.clip, or "
                "take student.dtype=float32; the last checkpoint is healthy"
            )
