"""The DINOv3 vision transformer.

patchify -> mask tokens -> [CLS, storage tokens, patches] -> Z blocks (one ``lax.scan``) -> norms.
Positions come from RoPE alone. Source: DINOv3 paper, section 3.2.
"""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from dinov3_jax.config import CompleteVitConfig
from dinov3_jax.distributed.fsdp import gather_layer
from dinov3_jax.distributed.sharding import shard_batch
from dinov3_jax.models import layers, remat, rope
from dinov3_jax.models.attention import platform
from dinov3_jax.models.block import Block
from dinov3_jax.types import Features, Params


class PatchEmbed(nnx.Module):
    """Non-overlapping p x p patches times one matrix: [n, H, W, c] -> [n, h, w, D]."""

    def __init__(self, config: CompleteVitConfig, *, rngs: nnx.Rngs):
        patch, channels = config.patch_size, config.in_channels
        bound = 1.0 / math.sqrt(channels * patch * patch)

        def uniform(shape):
            return jax.random.uniform(rngs.params(), shape, minval=-bound, maxval=bound)

        self.kernel = nnx.Param(uniform((patch, patch, channels, config.embed_dim)))
        self.bias = nnx.Param(uniform((config.embed_dim,)))

    def __call__(self, images: jax.Array) -> jax.Array:
        patch, _, channels, _ = self.kernel.shape
        n, height, width, got = images.shape
        if height % patch or width % patch:
            raise ValueError(
                f"image of {height} x {width} pixels is not a multiple of the patch size {patch}; "
                f"crop it to {height // patch * patch} x {width // patch * patch}"
            )
        if got != channels:
            raise ValueError(f"images have {got} channels, the backbone takes {channels}")
        patches = images.reshape(n, height // patch, patch, width // patch, patch, channels)
        out = jnp.einsum("nhiwjc,ijcd->nhwd", patches, self.kernel[...].astype(images.dtype))
        return out + self.bias[...].astype(images.dtype)


class VisionTransformer(nnx.Module):
    """ViT with RoPE, storage tokens and LayerScale; ``config`` is complete (presets.complete)."""

    def __init__(self, config: CompleteVitConfig, *, rngs: nnx.Rngs):
        dim = config.embed_dim
        self.config = config
        normal = layers.matrix_init
        self.patch_embed = PatchEmbed(config, rngs=rngs)
        self.cls_token = nnx.Param(normal(rngs.params(), (dim,)))
        if config.storage_tokens:
            self.storage_tokens = nnx.Param(normal(rngs.params(), (config.storage_tokens, dim)))
        self.mask_token = nnx.Param(jnp.zeros((dim,), jnp.float32))
        # One Block whose parameters carry a leading axis Z: born by vmap, run by scan.
        graph = nnx.graphdef(nnx.eval_shape(lambda: Block(config, rngs=nnx.Rngs(0))))
        stacked = jax.vmap(lambda key: nnx.state(Block(config, rngs=nnx.Rngs(key))))
        self.blocks = nnx.merge(graph, stacked(jax.random.split(rngs.params(), config.depth)))
        self.norm = layers.norm(config, rngs)
        if config.untie_cls_and_patch_norms:
            self.cls_norm = layers.norm(config, rngs)
        if config.untie_global_and_local_cls_norm:
            self.local_cls_norm = layers.norm(config, rngs)

    def __call__(self, images: jax.Array) -> Features:
        """Inference: float images [n, H, W, c], normalised -> ``Features``. Any H, W of patches."""
        return self.forward((images,))[0]

    def forward(
        self,
        crops: Sequence[jax.Array],
        *,
        masks: Sequence[jax.Array | None] | None = None,
        keys: jax.Array | None = None,
        layout: Params | None = None,
    ) -> tuple[Features, ...]:
        """All crop sizes of one batch through the blocks together, each block's weights read once.

        crops[i] [n_i, H_i, W_i, c] float, image-major, groups contiguous; crops[1] are the local
        crops. masks[i] bool [n_i, N_i]: True patches become the mask token. ``keys`` [S], one a
        group, mean training: stochastic depth, RoPE augmentation (one draw per block, crop size and
        group) and the local crops' own CLS norm; None means inference. ``layout``: how the blocks'
        parameters lie on the devices (``distributed.fsdp``).
        """
        masks = masks or (None,) * len(crops)
        tokens, grids = [], []
        for images, mask in zip(crops, masks, strict=True):
            sequence, grid = self._tokenize(images, mask)
            # Inference has groups of one: axis 0 must be one that devices can share.
            groups = images.shape[0] if keys is None else keys.shape[0]
            tokens.append(sequence.reshape(groups, -1, *sequence.shape[1:]))
            grids.append(grid)
        with jax.named_scope("blocks"):
            tokens = self._run(tuple(tokens), grids, keys, 0, self.config.depth, layout)
        return tuple(
            self._features(x.reshape(-1, *x.shape[2:]), local=keys is not None and i == 1)
            for i, x in enumerate(tokens)
        )

    def intermediate_layers(
        self, images: jax.Array, layers: int | Sequence[int], *, norm: bool = True
    ) -> tuple[Features, ...]:
        """Features after some blocks: the last ``layers`` of them, or 0-based indices.

        Returned in depth order. ``norm=True`` applies the final norm to each, else the fields hold
        the raw tokens.
        """
        depth = self.config.depth
        wanted = range(depth - layers, depth) if isinstance(layers, int) else sorted(set(layers))
        if not wanted or min(wanted) < 0 or max(wanted) >= depth:
            raise ValueError(f"layers {layers} asked of a backbone of {depth} blocks (0-based)")
        x, grid = self._tokenize(images, None)
        tokens, start, outputs = (x[:, None],), 0, []
        for stop in wanted:
            tokens = self._run(tokens, [grid], None, start, stop + 1)
            start = stop + 1
            outputs.append(self._features(tokens[0][:, 0], norm=norm))
        return tuple(outputs)

    def _tokenize(self, images, mask):
        images = images.astype(self.config.dtype)
        with jax.named_scope("patch_embed"):
            patches = self.patch_embed(images)
        n, h, w, dim = patches.shape
        patches = patches.reshape(n, h * w, dim)
        if mask is not None:
            mask_token = self.mask_token[...].astype(patches.dtype)
            patches = jnp.where(mask[..., None], mask_token, patches)
        extra = self.cls_token[...][None]
        if self.config.storage_tokens:
            extra = jnp.concatenate([extra, self.storage_tokens[...]])
        extra = jnp.broadcast_to(extra.astype(patches.dtype), (n, *extra.shape))
        return jnp.concatenate([extra, patches], axis=1), (h, w)  # [n, T, D]

    def _run(self, tokens, grids, keys, start, stop, layout=None):
        """Blocks start..stop over a tuple of token arrays [S, b, T, D]."""
        graph, params = nnx.split(self.blocks)
        params = jax.tree.map(lambda p: p[start:stop], nnx.to_pure_dict(params))
        layout = None if layout is None else layout["blocks"]
        padded = [_whole_registers(x) for x in tokens]
        # None where nothing was added: any T, also one that an export leaves open
        lengths = [None if p is x else x.shape[2] for p, x in zip(padded, tokens)]
        tokens = tuple(padded)

        def body(tokens, layer):
            index, params = layer
            params = gather_layer(params, layout, dtype=self.config.dtype)
            block = nnx.merge(graph, params)
            out = []
            for i, (x, grid, length) in enumerate(zip(tokens, grids, lengths)):
                drop_keys = rope_keys = None
                if keys is not None:
                    drop_keys, rope_keys = _layer_keys(keys, index, crop=i)
                sincos = self.sincos(grid, rope_keys)
                # For evaluations on a mesh; in training each device has images of its own already.
                # Without it the partitioner shards D like the weights: accidental tensor
                # parallelism, which all-reduces every activation.
                x = shard_batch(x)
                out.append(shard_batch(block(x, sincos, drop_keys, length)))
            return tuple(out), None

        def scan(tokens, first, last, policy):
            layers = jax.tree.map(lambda p: p[first - start : last - start], params)
            return jax.lax.scan(
                remat.checkpoint(body, policy), tokens, (jnp.arange(first, last), layers)
            )[0]

        border = min(max(self.config.remat_blocks, start), stop)
        if border > start:
            tokens = scan(tokens, start, border, "full")
        if border < stop:
            tokens = scan(tokens, border, stop, self.config.remat)
        return tuple(x[:, :, :length] for x, length in zip(tokens, lengths))

    def sincos(self, grid: tuple[int, int], keys: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        """sin, cos [S or 1, 1, N, 1, C] in the RoPE dtype; ``keys`` as in ``forward``."""
        config = self.config
        coords = rope.coordinates(*grid, normalize=config.rope_normalize)[None]
        if keys is not None:
            perturb = functools.partial(
                rope.perturb,
                shift=config.rope_shift,
                jitter=config.rope_jitter,
                rescale=config.rope_rescale,
            )
            coords = jax.vmap(perturb, in_axes=(None, 0))(coords[0], keys)  # [S, N, 2]
        angles = rope.angles(coords, rope_periods(config))[:, None, :, None, :]
        return (
            jnp.sin(angles).astype(config.rope_dtype),
            jnp.cos(angles).astype(config.rope_dtype),
        )

    def _features(self, x, *, norm=True, local=False):
        prefix = 1 + self.config.storage_tokens
        head, patches = x[:, :prefix], x[:, prefix:]
        if norm:
            if local and self.config.untie_global_and_local_cls_norm:
                head = self.local_cls_norm(head)
            elif self.config.untie_cls_and_patch_norms:
                head = self.cls_norm(head)
            else:
                head = self.norm(head)
            patches = self.norm(patches)
        return Features(head[:, 0], head[:, 1:], patches, x)


def _whole_registers(x):
    """[S, b, T, D] -> T a multiple of the 8 rows of a TPU's register, on TPUs.

    They are in memory anyway; as a part of the array they let matmuls see tokens of all sequences
    as rows of one matrix.
    """
    rows = -x.shape[2] % 8 if platform() == "tpu" else 0
    return jnp.pad(x, ((0, 0), (0, 0), (0, rows), (0, 0))) if rows else x


def rope_periods(config: CompleteVitConfig) -> jax.Array:
    """float32 [C/4]: those that came with the weights, else exact ones."""
    if config.rope_periods is not None:
        return jnp.asarray(config.rope_periods, jnp.float32)
    return rope.periods(
        config.embed_dim // config.num_heads,
        base=config.rope_base,
        min_period=config.rope_min_period,
        max_period=config.rope_max_period,
    )


def _layer_keys(keys, layer, *, crop):
    """Keys [S] -> (for stochastic depth [S], for RoPE [S]) of one block and crop size."""
    fold = lambda k: jax.random.split(jax.random.fold_in(jax.random.fold_in(k, layer), crop))  # noqa: E731
    return jax.vmap(fold, out_axes=1)(keys)
