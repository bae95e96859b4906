import ast
import itertools
import math
import re
from pathlib import Path

import jax
import numpy as np
import pytest
from scipy.stats import entropy

from configs.base import get_config
from dinov3_jax.evals import health
from dinov3_jax.recipe import from_config_dict

RNG = np.random.default_rng(0)
FEATURES = RNG.normal(size=(40, 12)).astype(np.float32)
TOKENS = RNG.normal(size=(3, 9, 12)).astype(np.float32)
TARGETS = RNG.dirichlet(np.full(16, 0.3), size=30).astype(np.float32)
# A float32 sum of some hundred terms of order one: 1e-5 relative is ten times its rounding.
FLOAT32 = 1e-5


@pytest.mark.parametrize("rank", [1, 3, 12])
def test_rankme_counts_equal_directions(rank):
    q = (
        np.linalg.qr(RNG.normal(size=(40, rank)))[0]
        @ np.linalg.qr(RNG.normal(size=(12, rank)))[0].T
    )
    # Rounding leaves up to 11 singular values of 1e-7, each adding 1e-7 * 16 nats.
    np.testing.assert_allclose(health.rankme(q.astype(np.float32)), rank, rtol=1e-4)


def test_rankme_is_the_entropy_of_singular_values():
    s = np.linalg.svd(FEATURES, compute_uv=False)
    np.testing.assert_allclose(health.rankme(FEATURES), np.exp(entropy(s)), rtol=FLOAT32)


def test_rankme_is_invariant_to_scale_and_rotation():
    rotation = np.linalg.qr(RNG.normal(size=(12, 12)))[0].astype(np.float32)
    moved = 1e-3 * FEATURES[::-1] @ rotation
    np.testing.assert_allclose(health.rankme(moved), health.rankme(FEATURES), rtol=FLOAT32)


def test_entropies_agree_with_scipy():
    np.testing.assert_allclose(
        health.assignment_entropy(TARGETS),
        entropy(TARGETS, axis=1).mean(),
        rtol=FLOAT32,
    )
    np.testing.assert_allclose(
        health.marginal_entropy(TARGETS), entropy(TARGETS.mean(0)), rtol=FLOAT32
    )
    # Concavity of entropy, with room for the rounding of two sums.
    assert health.marginal_entropy(TARGETS) >= health.assignment_entropy(TARGETS) - FLOAT32


def test_entropies_at_their_ends():
    uniform, one_hot = np.full((5, 8), 1 / 8, np.float32), np.eye(8, dtype=np.float32)
    np.testing.assert_allclose(health.assignment_entropy(uniform), np.log(8), rtol=FLOAT32)
    assert health.assignment_entropy(one_hot) == 0  # 0 ln 0 is 0, not NaN
    np.testing.assert_allclose(health.marginal_entropy(one_hot), np.log(8), rtol=FLOAT32)
    np.testing.assert_allclose(health.prototypes_used(one_hot), (8, 8), rtol=FLOAT32)
    np.testing.assert_allclose(health.prototypes_used(one_hot[[3, 3, 3]]), (1, 1), rtol=FLOAT32)


def test_prototypes_used_counts_distinct_choices():
    distinct, effective = health.prototypes_used(TARGETS)
    assert distinct == len(set(TARGETS.argmax(1)))
    np.testing.assert_allclose(effective, np.exp(entropy(TARGETS.mean(0))), rtol=FLOAT32)


def cosine(a, b):
    return a @ b / (np.linalg.norm(a) * np.linalg.norm(b))


def test_mean_patch_cosine_equals_the_pairwise_mean():
    pairs = [cosine(a, b) for image in TOKENS for a, b in itertools.permutations(image, 2)]
    # Sums of 9 vectors of length 1 cancel to about 0.01: absolute, not relative.
    np.testing.assert_allclose(health.mean_patch_cosine(TOKENS), np.mean(pairs), atol=1e-6)


def test_mean_patch_cosine_at_its_ends():
    same = np.tile(TOKENS[:, :1], (1, 9, 1))
    np.testing.assert_allclose(health.mean_patch_cosine(same), 1, rtol=FLOAT32)
    simplex = (np.eye(4) - 1 / 4)[None].astype(np.float32)
    np.testing.assert_allclose(health.mean_patch_cosine(simplex), -1 / 3, rtol=FLOAT32)
    orthogonal = 5 * np.eye(4, dtype=np.float32)[None]
    assert abs(health.mean_patch_cosine(orthogonal)) < 1e-6  # exact zero but for the square roots


def test_mean_cls_patch_cosine():
    cls = FEATURES[:3]
    pairs = [cosine(c, p) for c, image in zip(cls, TOKENS, strict=True) for p in image]
    np.testing.assert_allclose(health.mean_cls_patch_cosine(cls, TOKENS), np.mean(pairs), atol=1e-6)


def test_all_trace_under_jit():
    @jax.jit
    def everything(features, targets, tokens):
        return (
            health.rankme(features),
            health.assignment_entropy(targets),
            health.marginal_entropy(targets),
            *health.prototypes_used(targets),
            health.mean_patch_cosine(tokens),
            health.mean_cls_patch_cosine(features[:3], tokens),
        )

    for value in everything(FEATURES, TARGETS, TOKENS):
        assert value.shape == ()
        assert value.dtype == np.float32
        assert np.isfinite(value)


def test_shape_errors():
    with pytest.raises(ValueError, match=r"features has shape \(3, 9, 12\), wanted 2"):
        health.rankme(TOKENS)
    with pytest.raises(ValueError, match="got 1 patch"):
        health.mean_patch_cosine(TOKENS[:, :1])
    with pytest.raises(ValueError, match="of the same images"):
        health.mean_cls_patch_cosine(FEATURES[:2], TOKENS)


# --- diagnose --------------------------------------------------------------------------------

K, K_IBOT = 4096, 1024
HEALTHY = {
    "step": 1000,
    "loss/total": 9.0,
    "loss/dino_global": 6.0,
    "loss/dino_local": 6.5,
    "loss/ibot": 2.5,
    "loss/koleo": -0.5,
    "grad_norm/backbone": 1.0,
    "health/rankme_cls": 90.0,
    "health/rankme_patch": 120.0,
    "health/teacher_entropy": 3.0,
    "health/prototypes_used": 300.0,
    "health/patch_cosine": 0.4,
    "health/cls_patch_cosine": 0.3,
}
SICK = [
    ({"loss/koleo": math.inf}, "Not finite: loss/koleo"),
    ({"grad_norm/backbone": math.nan}, "Not finite: grad_norm/backbone"),
    ({"loss/dino_global": 8.3178}, r"loss/dino_global = 8.3178.* ln 4096 = 8.3178"),
    ({"loss/dino_local": 8.25}, "loss/dino_local = 8.2500"),
    ({"loss/ibot": 0.5 * math.log(K_IBOT)}, r"loss/ibot = 3.4657.*0.5 x ln 1024"),
    ({"health/teacher_entropy": 8.30}, "teacher is uniform"),
    ({"health/prototypes_used": 1.0}, "One prototype"),
    ({"health/rankme_cls": 1.3}, "RankMe of the images is 1.3"),
    ({"health/rankme_patch": 2.0}, "RankMe of the patches is 2.0"),
    ({"health/patch_cosine": 0.97}, "all alike"),
    ({"health/cls_patch_cosine": 0.97}, "repeat the CLS"),
]


def diagnose(metrics, **options):
    return health.diagnose(metrics, prototypes=K, ibot_prototypes=K_IBOT, **options)


def test_a_healthy_run_has_no_findings():
    assert diagnose(HEALTHY) == []
    assert diagnose({}) == []


@pytest.mark.parametrize(("change", "message"), SICK)
def test_each_sickness_has_one_finding(change, message):
    (finding,) = diagnose(HEALTHY | change)
    assert re.search(message, finding)
    assert "\n" not in finding
    assert "  " not in finding


@pytest.mark.parametrize(("change", "message"), SICK)
def test_overrides_fit_the_recipe(change, message):
    (finding,) = diagnose(HEALTHY | change)
    overrides = re.findall(r"--config\.([\w.]+)=([^\s`]+)", finding)
    assert overrides
    for path, text in overrides:
        config = get_config()  # locked: an unknown key raises
        *sections, key = path.split(".")
        section = config
        for name in sections:
            section = section[name]
        section[key] = (
            text
            if text.isalnum() and not text.isdigit() and text != "True"
            else (ast.literal_eval(text))
        )
        from_config_dict(config)


def test_the_ibot_level_follows_the_masked_share():
    metrics = HEALTHY | {"loss/ibot": math.log(K_IBOT)}
    assert diagnose(metrics) == []
    assert len(diagnose(metrics, masked_share=1.0)) == 1


def test_before_the_warm_up_only_non_finite_counts():
    early = HEALTHY | {
        "step": 99,
        "health/rankme_cls": 1.0,
        "loss/dino_global": math.log(K),
    }
    assert diagnose(early, warmup=100) == []
    assert len(diagnose(early | {"step": 100}, warmup=100)) == 2
    assert len(diagnose(early | {"loss/total": math.nan}, warmup=100)) == 1


def test_a_run_with_everything_wrong_lists_the_urgent_first():
    everything = dict(itertools.chain.from_iterable(change.items() for change, _ in SICK))
    findings = diagnose(HEALTHY | everything)
    assert findings[0].startswith("Not finite")
    assert len(findings) == 9


def test_the_page_on_diagnosing_keeps_up():
    page = (Path(__file__).parents[2] / "docs" / "diagnosing.md").read_text()
    for name, threshold in health.THRESHOLDS.items():
        assert f"{threshold.value:g}" in page or f"{100 * threshold.value:g} %" in page, name
        assert len(threshold.reason) > 20, name
    sections = set(get_config())
    keys = [k for k in re.findall(r"`([a-z_]+(?:\.[a-z_]+)+)", page) if k.split(".")[0] in sections]
    assert len(keys) > 40
    for key in keys:
        config = get_config()
        for part in key.split("."):
            config = config[part]  # raises on a key that base.py lacks
