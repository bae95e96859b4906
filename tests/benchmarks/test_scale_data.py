import pytest

from benchmarks.scale_data import FILLING, Rates, embedding, level_flop, rows, stages
from dinov3_jax.curation.hierarchy import Level
from dinov3_jax.curation.kmeans import CANDIDATES
from dinov3_jax.distributed.chips import CHIPS


def made(**change):
    given = {
        "images": 7.2e6,
        "kept": 3.6e6,
        "levels": (Level(10), Level(2)),
        "iterations": 10,
        "embedding_flop": 1e9,
        "width": 4,
        "image_bytes": 1e4,
        "rates": Rates(pack=100.0, read=1000.0, utilisation=0.5),
        "chip": CHIPS["v5p"],
    }
    return stages(**given | change)


def test_rates_times_work():
    pack, embed, first, second, kept = made()
    assert (pack.core_hours, kept.core_hours) == pytest.approx((20, 10))
    assert (pack.written, kept.written) == pytest.approx((72e9, 36e9))
    assert embed.core_hours == pytest.approx(2)
    assert embed.chip_hours == pytest.approx(7.2e15 / (459e12 / 2) / 3600)
    assert embed.written == 7.2e6 * 4 * 2
    assert first.name == "level 1: 10"
    assert second.chip_hours < first.chip_hours / 1e5


def test_kmeans_is_2nkd_a_pass():
    passes = 10 + 1 + CANDIDATES + 1
    assert level_flop(1e6, Level(50), width=8, iterations=10) == 2 * 1e6 * 50 * 8 * passes
    # Two fresh clusterings of three members a cluster, then all points to the new centroids.
    more = 2 * 2 * 8 * 50 * (150 * passes + 1e6)
    again = level_flop(1e6, Level(50, resamplings=2, kept=3), width=8, iterations=10)
    assert again == 2 * 1e6 * 50 * 8 * passes + more


def test_a_split_costs_its_factor_and_not_the_product():
    """Of 2 million clusters in 100 against 200 million at once."""
    coarse, split, flat = (
        level_flop(17e9, level, width=1024, iterations=20)
        for level in (Level(2_000_000), Level(2_000_000, split=100), Level(200_000_000))
    )
    assert split - coarse == pytest.approx(FILLING * 2 * 17e9 * 100 * 1024 * (41 + CANDIDATES))
    assert flat / split > 99


def test_prices_are_the_readers():
    found = made()
    assert len(rows(found, core_hour=None, chip_hour=None)[0]) == 4
    *_, total = rows(found, core_hour=2.0, chip_hour=0.0)
    assert total == ["all", "32", "0", "0.11", "64"]


def test_flop_of_an_embedding():
    flop, width = embedding("vit_large", 224)
    # 303 million parameters in 24 blocks times 2 FLOP and 201 tokens, and the attention itself.
    assert flop == pytest.approx(2 * 302e6 * 201 + 24 * 4 * 201**2 * 1024, rel=0.02)
    assert width == 1024
