"""The table of accelerators: how they are found, and that its numbers can be true."""

import jax
import pytest

from dinov3_jax.distributed.chips import CHIPS, chip


def test_a_device_kind_finds_its_chip():
    for name, wanted in CHIPS.items():
        assert [chip(kind) for kind in wanted.kinds] == [wanted] * len(wanted.kinds), name
    kinds = [kind for c in CHIPS.values() for kind in c.kinds]
    assert len(set(kinds)) == len(kinds)


@pytest.mark.parametrize("kind", [jax.devices("cpu")[0].device_kind, "NVIDIA H100 PCIe", ""])
def test_what_is_not_listed_has_no_peak(kind):
    assert chip(kind) is None


def test_machine_balance():
    """FLOP per byte of memory traffic at the peaks, as the performance study has it: a slip of the
    units or of a column shows here."""
    names = ("v5p", "v5e", "v6e", "h100")
    got = [CHIPS[name].flops / CHIPS[name].hbm_bandwidth for name in names]
    assert got == pytest.approx([166, 240, 560, 295], rel=0.01)
    for name, one in CHIPS.items():
        assert 150 < one.flops / one.hbm_bandwidth < 600, name
        assert one.hbm_bandwidth > 2 * one.interconnect > one.hbm_bytes, name  # in a second
