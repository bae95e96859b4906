"""Is the run learning or collapsing? Numbers that need no label, and what to do about them.

The first half are functions of arrays: they trace under ``jit``, compute in float32 and return
scalars. ``diagnose`` reads the logged numbers and answers in sentences.
"""

import dataclasses
import math
import re

import jax
import jax.numpy as jnp


def rankme(features):
    """Effective number of directions that features [n, D] use, in [1, min(n, D)].

    ``exp(-sum_i p_i ln p_i)`` with ``p_i = s_i / sum_j s_j``, s the singular values of the matrix
    as it is, not centred (RankMe, arXiv 2210.02885, without its 1e-7 offset: 0 ln 0 counts as 0).
    1: all rows on one line. min(n, D): every direction used alike.
    """
    _shape("features", features, 2)
    s = jnp.linalg.svd(features.astype(jnp.float32), compute_uv=False)  # [min(n, D)]
    return jnp.exp(_entropy(s / jnp.maximum(jnp.sum(s), 1e-30)))


def assignment_entropy(targets):
    """Mean over samples of ``-sum_k q_k ln q_k``, in nats, in [0, ln K].

    ``targets``: [n, K] float, rows are probabilities. 0: every target is one-hot. ln K: every
    target is uniform and says nothing about its image.
    """
    _shape("targets", targets, 2)
    return jnp.mean(_entropy(targets.astype(jnp.float32)))


def marginal_entropy(targets):
    """Entropy of the mean target ``q = mean_n targets[n]``, in nats, in [0, ln K].

    ``targets``: [n, K] float, rows are probabilities. It is never below ``assignment_entropy``;
    the difference is what a target tells about which image it came from. 0: one prototype takes
    every image.
    """
    _shape("targets", targets, 2)
    return _entropy(jnp.mean(targets.astype(jnp.float32), axis=0))


def prototypes_used(targets):
    """How many prototypes targets [n, K] fall on: ``(distinct, effective)``, both float32.

    distinct: number of different argmax, 1 to min(n, K). effective: exp(marginal_entropy), 1 to K.
    """
    _shape("targets", targets, 2)
    hit = jnp.zeros(targets.shape[1], jnp.float32).at[jnp.argmax(targets, axis=-1)].set(1.0)
    return jnp.sum(hit), jnp.exp(marginal_entropy(targets))


def mean_patch_cosine(patch_tokens):
    """Mean cosine between two different patches of one image, over pairs and images, in [-1, 1].

    ``patch_tokens``: [n, N, D], N >= 2. With unit tokens u_i of an image and their sum v,
    ``(|v|^2 - sum_i |u_i|^2) / (N (N - 1))``: exact, without the N x N matrix. 1: all patches of
    an image are the same vector. Its lowest possible value is ``-1 / (N - 1)``.
    """
    _shape("patch_tokens", patch_tokens, 3)
    count = patch_tokens.shape[1]
    if count < 2:
        raise ValueError(f"got {count} patch an image, wanted at least 2; use a larger image")
    unit = _unit(patch_tokens)  # [n, N, D]
    total = jnp.sum(jnp.square(jnp.sum(unit, axis=1)), axis=-1)  # [n]
    own = jnp.sum(jnp.square(unit), axis=(1, 2))  # [n]
    return jnp.mean((total - own) / (count * (count - 1)))


def mean_cls_patch_cosine(cls, patch_tokens):
    """Mean cosine between an image's CLS token [n, D] and its patches [n, N, D], in [-1, 1]."""
    _shape("cls", cls, 2)
    _shape("patch_tokens", patch_tokens, 3)
    if (cls.shape[0], cls.shape[1]) != (patch_tokens.shape[0], patch_tokens.shape[2]):
        raise ValueError(
            f"cls is {cls.shape}, patch_tokens is {patch_tokens.shape}; "
            "wanted [n, D] and [n, N, D] of the same images"
        )
    return jnp.mean(jnp.einsum("nd,nid->ni", _unit(cls), _unit(patch_tokens), precision="highest"))


def _entropy(p):
    return -jnp.sum(jax.scipy.special.xlogy(p, p), axis=-1)


def _unit(x):
    x = x.astype(jnp.float32)
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def _shape(name, x, rank):
    if x.ndim != rank or 0 in x.shape:
        raise ValueError(f"{name} has shape {x.shape}, wanted {rank} non-empty dimensions")


@dataclasses.dataclass(frozen=True)
class Threshold:
    """A limit that ``diagnose`` applies and the report draws, and why it is where it is."""

    value: float
    reason: str


THRESHOLDS = {
    "ln_k_margin": Threshold(
        0.01,
        "relative distance of a loss from ln K. Against any target, a uniform prediction costs "
        "exactly ln K; 1 % is 0.11 nats at K = 65536, so a geometric-mean probability of 1.1 / K",
    ),
    "teacher_entropy": Threshold(
        0.99,
        "share of ln K. Then the targets spread over exp(0.99 ln K) prototypes, nine in ten of "
        "K = 65536",
    ),
    "prototypes_used": Threshold(
        2.0,
        "distinct prototypes. With one, every image has the same target: nothing to learn",
    ),
    "rankme_cls": Threshold(
        8.0,
        "directions. Ten classes in general position need nine directions; fewer than eight "
        "cannot hold even a toy problem",
    ),
    "rankme_patch": Threshold(8.0, "directions, as for CLS"),
    "patch_cosine": Threshold(
        0.95,
        "cosine of two patches, an angle of 18 degrees: object and background point the same way",
    ),
    "cls_patch_cosine": Threshold(
        0.95, "cosine, an angle of 18 degrees: patches repeat the image's summary"
    ),
}


def diagnose(
    metrics: dict,
    *,
    prototypes: int,
    ibot_prototypes: int,
    masked_share: float = 0.5,
    warmup: int = 0,
) -> list[str]:
    """Plain-language findings about one set of logged numbers; an empty list is good news.

    Each finding is one string: what was seen, what it means, usual causes, and config overrides to
    paste, in backticks. The most urgent come first. Keys that are absent are not judged.

    Args:
      metrics: newest value of each metric, as in a row of metrics.jsonl (``loss/*``,
        ``health/*``, ``grad_norm/*``, ``step``). Merge the newest training row with the newest
        evaluation row.
      prototypes: K of the DINO head.
      ibot_prototypes: K of the iBOT head.
      masked_share: share of global crops that are masked (``ibot.mask_probability``; 0.5 is its
        value in the base recipe). ``loss/ibot`` averages over all of them, so a student that
        knows nothing sits at this share of ln K.
      warmup: steps before which only non-finite numbers are judged. A fresh network is flat, and
        its loss is ln K: pass the learning rate's warm-up. Without "step" in metrics, all is
        judged.
    """
    findings = [_non_finite(metrics)]
    if metrics.get("step", warmup) >= warmup:
        findings += [
            _loss_at_ln_k(metrics, ("loss/dino_global", "loss/dino_local"), "dino", prototypes, 1),
            _loss_at_ln_k(metrics, ("loss/ibot",), "ibot", ibot_prototypes, masked_share),
            _uniform_teacher(metrics, prototypes),
            _one_prototype(metrics),
            _low_rank(metrics, "health/rankme_cls", "images"),
            _low_rank(metrics, "health/rankme_patch", "patches"),
            _patches_alike(metrics),
            _cls_like_patches(metrics),
        ]
    return [re.sub(r"\s+", " ", finding).strip() for finding in findings if finding]


def _non_finite(metrics):
    bad = [
        name
        for name, value in metrics.items()
        if name.startswith(("loss/", "grad_norm/", "health/"))
        and (value is None or not math.isfinite(value))
    ]
    if bad:
        return f"""Not finite: {", ".join(sorted(bad))}. A step with such a loss or gradient changes
            no parameter, and too many in a row (`log.max_nan_steps`) stop the run. Usual causes: a
            learning rate too high, an overflow in low precision, a gradient clip that is off. If
            it does not pass, go back to a checkpoint from before it. Try, one at a time:
            `--config.optim.lr.peak=5e-4` (half of the base value), `--config.optim.clip=1.0`,
            `--config.student.dtype=float32`."""


def _loss_at_ln_k(metrics, names, head, prototypes, share):
    level = share * math.log(prototypes)
    flat = f"ln {prototypes}" if share == 1 else f"{share:.3g} x ln {prototypes}"
    margin = THRESHOLDS["ln_k_margin"].value
    stuck = [
        (name, value)
        for name in names
        if (value := _number(metrics, name)) is not None and abs(value / level - 1) < margin
    ]
    if stuck:
        seen = " and ".join(f"{name} = {value:.4f}" for name, value in stuck)
        return f"""{seen}: within {margin:.0%} of {flat} = {level:.4f}, the loss of a
            student that finds all {prototypes} prototypes equally likely. This term has learned
            nothing yet. Normal at the start; after the warm-up it means targets that are the same
            for every image, a learning rate that is too high or nearly zero, or more prototypes
            than the batch can tell apart. Try, one at a time:
            `--config.teacher.temperature.peak=0.04 --config.teacher.temperature.end=0.04` (sharper
            targets), `--config.optim.lr.peak=5e-4` (half of the base value),
            `--config.{head}.head.prototypes={max(prototypes // 4, 2)}` (a quarter of the
            present)."""


def _uniform_teacher(metrics, prototypes):
    value, level = _number(metrics, "health/teacher_entropy"), math.log(prototypes)
    share = THRESHOLDS["teacher_entropy"].value
    if value is not None and value > share * level:
        return f"""The teacher is uniform: its targets have an entropy of {value:.3f} nats, and
            ln {prototypes} = {level:.3f} is the most possible. The student is asked to find all
            prototypes equally likely, whatever the image. Usual causes: the teacher's outputs are
            the same for all images (look at RankMe), or the teacher temperature is too high. Try,
            one at a time: `--config.teacher.temperature.peak=0.04
            --config.teacher.temperature.end=0.04`, `--config.teacher.momentum.peak=0.996` (a
            calmer teacher), `--config.dino.head.prototypes={max(prototypes // 4, 2)}`."""


def _one_prototype(metrics):
    value = _number(metrics, "health/prototypes_used")
    if value is not None and value < THRESHOLDS["prototypes_used"].value:
        return """One prototype takes every image: the targets are constant, the loss falls towards
            0, and nothing about the images is learned. Usual causes: centring by a running mean
            with a small batch, a learning rate too high, crops so much alike that a constant
            answer does well. Try, one at a time: `--config.teacher.centering=sinkhorn`,
            `--config.koleo.weight=0.1`, `--config.optim.lr.peak=5e-4` (half of the base value)."""


def _low_rank(metrics, name, what):
    value = _number(metrics, name)
    limit = THRESHOLDS[name.removeprefix("health/")].value
    if value is not None and value < limit:
        return f"""Features have collapsed: RankMe of the {what} is {value:.1f}, below {limit:g}
            directions ({name}). Most {what} share the same few directions, so little can be told
            apart. (RankMe cannot exceed the number of images it is computed on: with a handful,
            raise `--config.eval.health_images=512` before believing it.) Usual causes: a learning
            rate too high, too small a batch for Sinkhorn, no spreading term. Try, one at a time:
            `--config.optim.lr.peak=5e-4` (half of the base value), `--config.koleo.weight=0.2`,
            `--config.teacher.momentum.peak=0.996`."""


def _patches_alike(metrics):
    value, limit = (
        _number(metrics, "health/patch_cosine"),
        THRESHOLDS["patch_cosine"].value,
    )
    if value is not None and value > limit:
        return f"""The patches of an image are all alike: their mean cosine is {value:.3f}, above
            {limit:g}. Maps made from them show nothing. Usual causes: the patch loss is off, too
            weak, or flat. Try, one at a time: `--config.ibot.weight=1.0`,
            `--config.ibot.mask_probability=0.5`, `--config.optim.lr.peak=5e-4` (half of the base
            value)."""


def _cls_like_patches(metrics):
    value = _number(metrics, "health/cls_patch_cosine")
    limit = THRESHOLDS["cls_patch_cosine"].value
    if value is not None and value > limit:
        return f"""Patches repeat the CLS token: their mean cosine with it is {value:.3f}, above
            {limit:g}. They carry the summary of the image and not its parts, so dense tasks will
            suffer. Usual causes: the global loss outweighs the patch loss, or there is no storage
            token to keep global facts in. Try, one at a time: `--config.ibot.weight=2.0`,
            `--config.student.storage_tokens=4`,
            `--config.student.untie_cls_and_patch_norms=True`."""


def _number(metrics, name):
    """The metric as a finite float; None where absent or not finite (``_non_finite`` tells)."""
    value = metrics.get(name)
    return value if value is not None and math.isfinite(value) else None
