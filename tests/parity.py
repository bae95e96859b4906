"""Every backbone against ``transformers``: ``python -m tests.parity`` writes docs/parity.md.

Random numbers in every parameter, float32 on the CPU. ``python -m tests.parity NAME`` measures one
and prints a JSON object.
"""

import dataclasses
import json
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from configs import base
from dinov3_jax.config import ConvNextConfig
from dinov3_jax.convert.names import from_foreign
from dinov3_jax.convert.official import from_official
from dinov3_jax.models import presets
from dinov3_jax.models.build import backbone
from dinov3_jax.models.model import Model
from dinov3_jax.recipe import from_config_dict

LIMIT = 1e-5  # of the largest value of an output: float32 sums of two frameworks
SIZES = ((64, 64), (64, 96))
# The 7B has its real options; its width and depth do not fit a small machine twice.
_SEVEN = dict(embed_dim=512, depth=4, num_heads=4, untie_global_and_local_cls_norm=True)
VARIANTS = {
    "dinov3_vits16": ("vit_small", {}),
    "dinov3_vits16plus": ("vit_small_plus", {}),
    "dinov3_vitb16": ("vit_base", {}),
    "dinov3_vitl16": ("vit_large", {}),
    "dinov3_vitl16plus": ("vit_large_plus", {}),
    "dinov3_vith16plus": ("vit_huge_plus", {}),
    "dinov3_vit7b16": ("vit_7b", _SEVEN),
    "dinov3_convnext_tiny": ("convnext_tiny", {}),
    "dinov3_convnext_small": ("convnext_small", {}),
    "dinov3_convnext_base": ("convnext_base", {}),
    "dinov3_convnext_large": ("convnext_large", {}),
}
DOCS = pathlib.Path(__file__).parents[1] / "docs" / "parity.md"


def configuration(name: str):
    """The backbone of the released ``name``, float32."""
    arch, changes = VARIANTS[name]
    recipe, convnext = base.get_config(), arch in presets.CONVNEXT_PRESETS
    if convnext:
        recipe.student.update(dict.fromkeys(presets.PRESETS["vit_small"]))
    recipe.student.update(arch=arch, dtype="float32", norm_eps=1e-5, drop_path=0.0, **changes)
    config = presets.complete(from_config_dict(recipe).student)
    # Their layers are the stages' own maps, not those of a patch grid.
    return dataclasses.replace(config, patch_size=None) if convnext else config


def theirs(config):
    """The same network of transformers, in inference mode."""
    import transformers

    if isinstance(config, ConvNextConfig):
        sizes = dict(depths=list(config.stage_depths), hidden_sizes=list(config.stage_dims))
        found = transformers.DINOv3ConvNextConfig(**sizes)
        return transformers.DINOv3ConvNextModel(found).eval()
    gated = config.ffn == "swiglu"
    return transformers.DINOv3ViTModel(
        transformers.DINOv3ViTConfig(
            patch_size=config.patch_size,
            hidden_size=config.embed_dim,
            intermediate_size=presets.ffn_hidden(config),
            num_hidden_layers=config.depth,
            num_attention_heads=config.num_heads,
            num_register_tokens=config.storage_tokens,
            use_gated_mlp=gated,
            hidden_act="silu" if gated else "gelu",
            query_bias=config.qkv_bias,
            value_bias=config.qkv_bias,
            layer_norm_eps=config.norm_eps,
        )
    ).eval()


def draw(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Matrices that keep the scale of what they are given; LayerScale in 0.1..0.7; norms near 1."""
    if name.endswith(("lambda1", "gamma")):
        return rng.uniform(0.1, 0.7, shape).astype(np.float32)
    value = rng.standard_normal(shape, np.float32)
    if "token" not in name and len(shape) > 1:
        return value / np.float32(np.prod(shape[1:]) ** 0.5)
    return np.float32("norm" in name and name.endswith("weight")) + np.float32(0.3) * value


def fill(model, *, seed: int = 0) -> dict[str, np.ndarray]:
    """Draws every parameter of a module of torch; returns them by name, in order of drawing."""
    import torch

    rng, state = np.random.default_rng(seed), {}
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            state[key] = draw(key, tuple(parameter.shape), rng)
            parameter.copy_(torch.from_numpy(state[key]))
    return state


def images(size: tuple[int, int]) -> np.ndarray:
    """Two normal images [2, H, W, 3]."""
    return np.random.default_rng(1).standard_normal((2, *size, 3), np.float32)


def our_model(name: str, config, state: dict) -> Model:
    """``state``: their parameters by their names."""
    state = from_foreign(state)[1].state
    if getattr(config, "untie_global_and_local_cls_norm", False):
        zeros = np.zeros(config.embed_dim, np.float32)  # of training; transformers has none
        state |= {"local_cls_norm.weight": zeros, "local_cls_norm.bias": zeros}
    shapes = nnx.to_pure_dict(nnx.state(nnx.eval_shape(lambda: backbone(config, nnx.Rngs(0)))))
    return Model(name, config, jax.tree.map(jnp.asarray, from_official(state, shapes)))


def their_outputs(model, size: tuple[int, int]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """[last_hidden_state, pooler_output] and every hidden layer [2, T, D]."""
    import torch

    pixels = torch.from_numpy(images(size).transpose(0, 3, 1, 2).copy())
    with torch.no_grad():
        out = model(pixels.to(next(model.parameters()).dtype), output_hidden_states=True)
    final = [x.float().numpy() for x in (out.last_hidden_state, out.pooler_output)]
    hidden = [x.float().numpy() for x in out.hidden_states[1:]]  # the first is before all layers
    return final, [x if x.ndim == 3 else x.reshape(*x.shape[:2], -1).swapaxes(1, 2) for x in hidden]


def our_final(model: Model, size: tuple[int, int]) -> list[np.ndarray]:
    cls, storage, patches, _ = model(jnp.asarray(images(size)))
    tokens = jnp.concatenate([cls[:, None], storage, patches], axis=1)
    return [np.asarray(x, np.float32) for x in (tokens, cls)]


def our_hidden(model: Model, size: tuple[int, int], count: int) -> list[np.ndarray]:
    layers = model.intermediate_layers(jnp.asarray(images(size)), count, norm=False)
    return [np.asarray(layer.prenorm) for layer in layers]


def error(got: list[np.ndarray], wanted: list[np.ndarray]) -> float:
    """The largest difference, of each array's largest value."""
    assert [x.shape for x in got] == [x.shape for x in wanted]
    return float(max(np.abs(a - b).max() / np.abs(b).max() for a, b in zip(got, wanted)))


def measure(name: str) -> dict:
    """Errors of one variant: ``outputs``, ``hidden`` (float32) and of bfloat16 on either side."""
    import torch

    config = configuration(name)
    model = theirs(config)
    state = fill(model)
    count = sum(parameter.numel() for parameter in model.parameters())
    wanted = {size: their_outputs(model, size) for size in SIZES}
    ours = our_model(name, config, state)
    finals = {size: our_final(ours, size) for size in SIZES}
    hidden = max(error(our_hidden(ours, s, len(wanted[s][1])), wanted[s][1]) for s in SIZES)
    half = dataclasses.replace(ours, config=dataclasses.replace(config, dtype="bfloat16"))
    size = SIZES[1]
    their_half = their_outputs(model.to(torch.bfloat16), size)[0]
    return {
        "name": name,
        "parameters": count,
        "outputs": max(error(finals[s], wanted[s][0]) for s in SIZES),
        "hidden": hidden,
        "bf16": error(our_final(half, size), finals[size]),
        "bf16_theirs": error(their_half, wanted[size][0]),
    }


def measure_alone(name: str) -> dict:
    """``measure`` in a process of its own, whose memory goes back."""
    command = [sys.executable, "-m", "tests.parity", name]
    done = subprocess.run(command, capture_output=True, text=True, cwd=DOCS.parents[1])
    if done.returncode:
        raise RuntimeError(f"{name}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def text(rows: list[dict]) -> str:
    import torch
    import transformers

    lines = [
        "# Parity with transformers",
        "",
        "Written by `python -m tests.parity`; `make parity` checks it. Every parameter is random "
        "(norms, LayerScale and",
        "biases too), float32 on the CPU, images of "
        + " and ".join(f"{h} x {w}" for h, w in SIZES)
        + f" pixels. transformers {transformers.__version__}, torch {torch.__version__}, "
        f"jax {jax.__version__}.",
        "",
        "An error is the largest difference of an output, of its largest value. The limit for "
        f"float32 is {LIMIT:.0e}.",
        "`outputs`: `last_hidden_state` and `pooler_output`; `hidden`: the worst of all layers, "
        "before the final norm.",
        "`bf16`: computing in bfloat16 against computing in float32, here and in transformers "
        "(which also rounds the weights).",
        "",
        "| Backbone | Parameters | outputs | hidden | bf16, ours | bf16, theirs |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        errors = " | ".join(
            f"{row[key]:.1e}" for key in ("outputs", "hidden", "bf16", "bf16_theirs")
        )
        lines.append(f"| `{row['name']}` | {row['parameters']:,} | {errors} |")
    sizes = ", ".join(f"{k} {_SEVEN[k]}" for k in ("embed_dim", "depth", "num_heads"))
    lines += [
        "",
        f"`dinov3_vit7b16` is reduced ({sizes}) with its own options: heads 128 wide, no qkv bias,",
        "SwiGLU aligned to 64, a CLS norm of its own for local crops. Counts are those of "
        "transformers, which has no K bias.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    if len(sys.argv) > 1:
        print(json.dumps(measure(sys.argv[1])))
        return
    rows = []
    for name in VARIANTS:
        rows.append(measure_alone(name))
        print(rows[-1], flush=True)
    DOCS.write_text(text(rows))


if __name__ == "__main__":
    main()
