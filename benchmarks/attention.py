"""What TPU compilers say of attention: python -m benchmarks.attention CHIP WHAT T A C SEQUENCES.

CHIP   v5e, v5p or v6e; none is needed, but libtpu is (see tests/models/test_attention_tpu.py).
WHAT   layer-xla, layer-pallas: estimated cycles of the attention layer (norms and residual apart)
       of width A·C, forward and backward, by HLO operation. Kernels count 0 there.
       kernel: instruction bundles of the kernel's programs times their number.

Compilers charge memory-bound operations about twice what they take; a bundle is one cycle unless
memory stalls it, and a v5p's two cores share the programs.
"""

import dataclasses
import glob
import os
import pathlib
import re
import sys
import tempfile

import jax
from flax import nnx
from jax.experimental import topologies
from jax.sharding import NamedSharding, PartitionSpec as P

from configs import vit7b16_pretrain
from dinov3_jax.config import MeshConfig
from dinov3_jax.distributed.mesh import make_mesh
from dinov3_jax.models import attention_tpu, layers, presets
from dinov3_jax.models.attention import attention
from dinov3_jax.recipe import from_config_dict

CHIPS = {
    "v5e": ("v5e:2x2", "v5litepod-4"),
    "v5p": ("v5p:2x2x1", "v5p-8"),
    "v6e": ("v6e:2x2", "v6e-4"),
}
PREFIX = 5  # CLS and storage tokens, which RoPE does not turn


def compile_for(chip: str, function, shapes: tuple, angles: tuple):
    """``function(*shapes, *angles)`` and its gradient in ``shapes``, compiled for one chip."""
    topology, accelerator = CHIPS[chip]
    os.environ |= {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost"}
    os.environ |= {"TPU_ACCELERATOR_TYPE": accelerator, "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    devices = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices[:1]
    mesh = make_mesh(MeshConfig(1, 1, 1, 1), list(devices))
    place = lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=NamedSharding(mesh, P()))  # noqa: E731

    def run(args, angles, dout):
        out, vjp = jax.vjp(lambda *args: function(*args, *angles), *args)
        return out, vjp(dout)

    with jax.set_mesh(mesh):
        dout = jax.eval_shape(function, *shapes, *angles)
        return jax.jit(run).lower(*jax.tree.map(place, (shapes, angles, dout))).compile()


def layer(chip, implementation, T, A, C, sequences):
    recipe = from_config_dict(vit7b16_pretrain.get_config()).student
    config = dataclasses.replace(recipe, attention=implementation, embed_dim=A * C, num_heads=A)
    module = nnx.eval_shape(lambda: layers.Attention(presets.complete(config), rngs=nnx.Rngs(0)))
    graph, params = nnx.split(module)
    x = jax.ShapeDtypeStruct((2, sequences // 2, T, A * C), "bfloat16")
    sin = jax.ShapeDtypeStruct((2, 1, T - PREFIX, 1, C), config.rope_dtype)
    call = lambda p, x, sin, cos: nnx.merge(graph, p)(x, (sin, cos))  # noqa: E731
    program = compile_for(chip, call, (params, x), (sin, sin)).as_text()
    cycles = [int(n) for n in re.findall(r'"estimated_cycles":"(\d+)"', program)]
    print(f"{chip} layer, {implementation}: {sum(cycles):,} cycles in {len(cycles)} operations")


def kernel(chip, T, A, C, sequences):
    queries, heads, _ = attention_tpu._blocks(T, A, C, 2)
    programs = sequences * A // heads * -(-T // queries)
    qkv = jax.ShapeDtypeStruct((sequences, T, 3, A, C), "bfloat16")
    sin = jax.ShapeDtypeStruct((2, T - PREFIX, C), "float32")
    call = lambda *args: attention(*args, implementation="pallas")  # noqa: E731
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LIBTPU_INIT_ARGS"] = f"--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true"
        compile_for(chip, call, (qkv,), (sin, sin))
        for name in ("attention_forward", "attention_backward"):
            (path,) = glob.glob(f"{folder}/*{name}*schedule-analysis_final_bundles*")
            text = pathlib.Path(path).read_text()
            bundles = int(re.search(r"total scheduled bundles:\s+(\d+)", text)[1])
            print(f"{chip} {name}: {bundles:,} x {programs:,} = {bundles * programs:,} bundles")


if __name__ == "__main__":
    chip, what, *sizes = sys.argv[1:]
    if what == "kernel":
        kernel(chip, *map(int, sizes))
    else:
        layer(chip, what.removeprefix("layer-"), *map(int, sizes))
