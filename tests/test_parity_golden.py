"""Against outputs of ``transformers`` that were kept; needs neither torch nor a network."""

import json

import numpy as np
import pytest

from tests import parity, parity_golden


@pytest.mark.parametrize("case", parity_golden.CASES)
def test_outputs_equal_those_of_transformers(case):
    config, sizes = parity_golden.CASES[case]
    shapes = json.loads(parity_golden.PATHS[0].read_text())[case]
    kept = np.load(parity_golden.PATHS[1])
    model = parity.our_model(case, config, parity_golden.drawn(shapes))
    for size in sizes:
        prefix = f"{case}/{size[0]}x{size[1]}/"
        arrays = {key.removeprefix(prefix): kept[key] for key in kept if key.startswith(prefix)}
        final = [arrays.pop("final0"), arrays.pop("final1")]
        hidden = [arrays.pop(f"hidden{i}") for i in range(len(arrays))]
        assert parity.error(parity.our_final(model, size), final) <= parity.LIMIT
        got = parity.our_hidden(model, size, len(hidden))
        assert parity.error(got, hidden) <= parity.LIMIT
