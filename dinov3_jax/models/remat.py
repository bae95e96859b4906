"""What the backward pass of a block keeps of its forward pass, and what it computes again."""

from collections.abc import Callable

import jax

# What a block marks with ``jax.ad_checkpoint.checkpoint_name``. Bytes per token and block in
# bfloat16, D the width, F the hidden width:
NAMES = (
    "qkv",  # 6 D: queries, keys and values before RoPE
    "attention",  # 2 D: what the last matrix of attention reads
    "proj",  # 2 D: what it writes
    "fc1",  # 2 F, SwiGLU 4 F: hidden layer before its activation
)


def is_known(remat: str) -> bool:
    return remat in ("none", "dots", "full") or all(name in NAMES for name in remat.split("+"))


def checkpoint(body: Callable, remat: str) -> Callable:
    """``body`` of a scan over blocks under the policy ``remat``.

    "none"  keeps everything, on a mesh also whole weights that devices gathered from their parts;
    "full"  keeps the input of each block alone;
    "dots"  keeps what every matmul writes;
    names of ``NAMES`` joined by "+" keep those, and sums: the mean and variance of each token that
            a norm took, 16 bytes a token and block, which take two passes over x to make again.
    """
    if remat == "none":
        return body
    policies = jax.checkpoint_policies
    if remat == "full":
        policy = policies.nothing_saveable
    elif remat == "dots":
        policy = policies.dots_with_no_batch_dims_saveable
    else:
        names = policies.save_only_these_names(*remat.split("+"))
        policy = policies.save_from_both_policies(names, _is_sum)
    # A scan keeps its turns apart: there is nothing that CSE could undo.
    return jax.checkpoint(body, policy=policy, prevent_cse=False)


def _is_sum(primitive, *_, **__):
    return primitive is jax.lax.reduce_sum_p
