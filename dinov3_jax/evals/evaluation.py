"""What an evaluation is: a function of a frozen model, settings and a mesh, and what it returns.

    evaluate(model, settings, mesh) -> Result

``Model`` is the features function and its parameters in one value: ``dinov3_jax.load`` returns one,
and the training loop makes one of the teacher. Settings are a frozen dataclass whose first field is
``data``, a path, and whose defaults are the published protocol.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh

from dinov3_jax.models.model import Model


class Picture(NamedTuple):
    """One picture for the page, with what it shows."""

    caption: str
    pixels: np.ndarray  # uint8 [H, W, 3]


class Result(NamedTuple):
    metrics: dict[str, float]  # finite; percent, unless the protocol has a unit
    pictures: tuple[Picture, ...] = ()


class Evaluation(NamedTuple):
    evaluate: Callable[[Model, Any, Mesh], Result]
    settings: type  # of the second argument
    main: str  # the metric to quote
    about: str  # one line: what is measured, on which layout of data
    alone: bool = False  # it trains on all images in one process, and so does not run on several
