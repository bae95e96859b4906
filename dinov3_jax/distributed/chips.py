"""What accelerators can do, from their data sheets: the one table of peaks. Asks no device."""

from typing import NamedTuple


class Chip(NamedTuple):
    """One device as ``jax.devices()`` counts them."""

    kinds: tuple[str, ...]  # its ``device_kind``, by whatever names jax gives it
    flops: float  # peak FLOP/s of dense bfloat16 matmuls with float32 sums
    hbm_bytes: int  # memory on board; a program can have a few percent less
    hbm_bandwidth: float  # bytes/s
    interconnect: float  # bytes/s that leave the chip, all links together; as many come in


_GIB = 1024**3

# TPUs: cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e}, "key specifications". They give the interconnect
# in both directions together, which is halved here; v4: six links of 50 GB/s (Jouppi et al. 2023,
# arXiv 2304.01433, table 4). GPUs: NVIDIA's data sheets of the A100, H100 and H200, SXM boards,
# without sparsity; NVLink is halved in the same way (600 and 900 GB/s).
CHIPS = {
    "v4": Chip(("TPU v4",), 275e12, 32 * _GIB, 1200e9, 300e9),
    "v5e": Chip(("TPU v5 lite", "TPU v5e"), 197e12, 16 * _GIB, 819e9, 200e9),
    "v5p": Chip(("TPU v5", "TPU v5p"), 459e12, 95 * _GIB, 2765e9, 600e9),
    "v6e": Chip(("TPU v6 lite", "TPU v6e"), 918e12, 32 * _GIB, 1638e9, 400e9),
    "a100": Chip(("NVIDIA A100-SXM4-80GB",), 312e12, 80 * _GIB, 2039e9, 300e9),
    "a100-40gb": Chip(("NVIDIA A100-SXM4-40GB",), 312e12, 40 * _GIB, 1555e9, 300e9),
    "h100": Chip(("NVIDIA H100 80GB HBM3",), 989e12, 80 * _GIB, 3350e9, 450e9),
    "h200": Chip(("NVIDIA H200",), 989e12, 141 * _GIB, 4800e9, 450e9),
}


def chip(device_kind: str) -> Chip | None:
    """The chip of a ``device_kind``; None for what is not listed: a CPU, a PCIe board."""
    return next((chip for chip in CHIPS.values() if device_kind in chip.kinds), None)
