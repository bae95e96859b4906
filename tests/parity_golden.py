"""Outputs of ``transformers`` for tiny backbones, kept: ``python -m tests.parity_golden``.

tests/goldens/transformers.json lists their parameters in order of drawing, transformers.npz holds
what came out; the numbers of the parameters themselves follow from a seed (``parity.fill``).
"""

import dataclasses
import json

import numpy as np

from tests import parity
from tests.models.modules import student
from tests.models.test_model import CONVNEXT
from tests.regenerate import FOLDER

PATHS = FOLDER / "transformers.json", FOLDER / "transformers.npz"
# Configuration and image sizes.
CASES = {
    "vit_mlp": (student(), ((16, 16), (16, 24))),
    "vit_swiglu": (
        student(ffn="swiglu", ffn_ratio=3.0, ffn_align=64, qkv_bias=False),
        ((16, 16), (16, 24)),
    ),
    "convnext": (dataclasses.replace(CONVNEXT, patch_size=None), ((32, 32), (32, 64))),
}


def drawn(shapes: dict) -> dict[str, np.ndarray]:
    """The parameters of a case, as ``parity.fill`` drew them."""
    rng = np.random.default_rng(0)
    return {name: parity.draw(name, tuple(shape), rng) for name, shape in shapes.items()}


def main() -> None:
    shapes, arrays = {}, {}
    for case, (config, sizes) in CASES.items():
        model = parity.theirs(config)
        shapes[case] = {name: value.shape for name, value in parity.fill(model).items()}
        for size in sizes:
            final, hidden = parity.their_outputs(model, size)
            prefix = f"{case}/{size[0]}x{size[1]}/"
            arrays |= {f"{prefix}final{i}": x for i, x in enumerate(final)}
            arrays |= {f"{prefix}hidden{i}": x for i, x in enumerate(hidden)}
    PATHS[0].write_text(json.dumps(shapes, indent=1) + "\n")
    np.savez_compressed(PATHS[1], **arrays)
    print(f"wrote {len(arrays)} arrays, {PATHS[1].stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
