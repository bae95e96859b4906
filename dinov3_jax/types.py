"""Shared types and the legend of dimension letters.

B images per global batch · S groups · G global crops (2) · L local crops · H W pixels ·
h w patch grid · N patches · M masked tokens per group · R storage tokens · T all tokens ·
D width · A heads · C head width · K prototypes · Z blocks.
"""

from typing import Any, NamedTuple

import jax

Params = dict[str, Any]


class Features(NamedTuple):
    """What a backbone returns; every field after the final norm, except ``prenorm``."""

    cls: jax.Array  # [n, D]
    storage_tokens: jax.Array  # [n, R, D]
    patch_tokens: jax.Array  # [n, N, D], row-major over the h x w grid
    prenorm: jax.Array  # [n, T, D] before the final norm; of a ConvNeXt [n, N, D], patches alone
