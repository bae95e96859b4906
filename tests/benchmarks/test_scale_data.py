import pathlib

import pytest

from benchmarks.scale_data import (
    FILLING,
    FLOAT32,
    Float32,
    Rates,
    embedding,
    level_flop,
    main,
    rows,
    stages,
)
from configs.curation import lvd
from dinov3_jax.curate.recipe import CurationConfig, levels
from dinov3_jax.curation.hierarchy import Level
from dinov3_jax.curation.kmeans import CANDIDATES
from dinov3_jax.distributed.chips import CHIPS
from dinov3_jax.recipe import from_config_dict


def made(**change):
    given = {
        "images": 7.2e6,
        "kept": 3.6e6,
        "seeds": 1e6,
        "dedup_parts": 1,
        "levels": (Level(10), Level(2)),
        "iterations": 10,
        "embedding_flop": 1e9,
        "width": 4,
        "number_bytes": 2,
        "image_bytes": 1e4,
        "rates": Rates(pack=100.0, read=1000.0, utilisation=0.5),
        "chip": CHIPS["v5p"],
        "float32": Float32(1, 6),
    }
    return stages(**given | change)


def test_rates_times_work():
    pack, embed, dedup, first, second, retrieval, kept = made()
    peak = 459e12 / 2 * 3600  # FLOP an hour of bfloat16
    assert (pack.core_hours, kept.core_hours) == pytest.approx((20, 10))
    assert (pack.written, kept.written) == pytest.approx((72e9, 36e9))
    assert embed.core_hours == pytest.approx(2)
    assert embed.chip_hours == pytest.approx(7.2e15 / peak)
    assert embed.written == 7.2e6 * 4 * 2
    assert dedup.chip_hours == pytest.approx(6 * 2 * 7.2e6**2 * 4 / peak)
    assert made(dedup_parts=100)[2].chip_hours == pytest.approx(dedup.chip_hours / 100)
    assert retrieval.chip_hours == pytest.approx(6 * 2 * 1e6 * 7.2e6 * 4 / peak)
    assert first.name == "level 1: 10"
    flop = level_flop(7.2e6, Level(10), width=4, iterations=10)
    assert first.chip_hours == pytest.approx(6 * flop / peak)
    assert first.written == 4 * 7.2e6 + 4 * 4 * 10  # assignments and centroids
    assert second.chip_hours < first.chip_hours / 1e5


def test_every_chip_has_its_float32():
    assert FLOAT32.keys() == CHIPS.keys()


def test_it_speaks_of_the_recipe(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["scale_data", "--pack=343", "--read=550"])
    main()
    said = capsys.readouterr().out
    recipe = from_config_dict(lvd.get_config(), CurationConfig)
    assert f"to {recipe.sample.budget:.3g}; vit_large at {recipe.embed.size} px" in said
    assert f"; {recipe.iterations} iterations; " in said
    for number, level in enumerate(levels(recipe), 1):
        assert f"| level {number}: {level.clusters * level.split:,} |" in said
    # The document shows what the command prints.
    text = (pathlib.Path(__file__).parents[2] / "docs/scale-data.md").read_text()
    for line in filter(None, said.splitlines()):
        assert line in text


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
