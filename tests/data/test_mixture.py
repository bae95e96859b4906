import collections
import dataclasses

import numpy as np
import pytest
from PIL import Image

from dinov3_jax.config import ConfigError
from dinov3_jax.data import mixture
from dinov3_jax.data.check import check_config
from dinov3_jax.data.sources import open_source
from tests.data.batches import assert_equal, read

WEIGHTS = {"web": 0.7, "seeds": 0.3, "in1k": 0.0}
SIZES = {"web": 7, "seeds": 5, "in1k": 3}


@pytest.fixture(scope="module")
def mixed(make_config, tmp_path_factory):
    """Recipe of three folders of grey images, a tenth of whose steps is pure in1k."""
    root = tmp_path_factory.mktemp("sets")
    for name, size in SIZES.items():
        (root / name).mkdir()
        for i in range(size):
            Image.fromarray(np.full((20, 20), 10 * i, np.uint8)).save(root / name / f"{i}.png")
    entries = tuple((name, "folder", f"{root}/{name}", w) for name, w in WEIGHTS.items())
    return make_config({"data.mixture": entries, "data.homogeneous": (("in1k", 0.1),)})


@pytest.fixture(scope="module")
def source(mixed):
    return open_source(mixed.data)


@pytest.fixture(scope="module")
def steps(source, mixed):
    """[1,000, B] records of the first thousand steps."""
    slots = range(mixed.batch.images)
    return np.array([mixture.records_at(source, mixed, t, slots) for t in range(1000)])


def parts_of(source, records):
    return np.searchsorted(source.ends, records, side="right")


def test_shares_over_a_thousand_steps(source, mixed, steps):
    parts = parts_of(source, steps)
    homogeneous = (parts == 2).all(axis=1)
    assert homogeneous.sum() == 100
    assert not (parts[~homogeneous] == 2).any()
    shares = np.bincount(parts[~homogeneous].reshape(-1)) / parts[~homogeneous].size
    # 7,200 images end inside a block of 1,000: off by less than a hundredth of either share.
    np.testing.assert_allclose(shares, [0.7, 0.3], rtol=0.01)


def test_homogeneous_steps_have_no_period(source, steps):
    (at,) = np.nonzero((parts_of(source, steps) == 2).all(axis=1))
    assert len(set(at % 10)) == 10


def test_counters_count(source, mixed, steps):
    for step in (0, 1, 137, 999):
        counts = np.bincount(parts_of(source, steps[:step]).reshape(-1), minlength=3)
        want = {f"images_seen/{name}": n for name, n in zip(SIZES, counts.tolist())}
        assert mixture.images_seen(mixed, step) == want
    assert mixture.images_seen(dataclasses.replace(mixed, seed=1), 137) != want


def test_a_source_passes_over_all_its_records_before_any_comes_again(source, steps):
    """In the order of the run, over homogeneous and mixed steps alike."""
    records = steps.reshape(-1)
    parts = parts_of(source, records)
    for part, size in enumerate(SIZES.values()):
        own = records[parts == part]
        whole = own[: len(own) // size * size].reshape(-1, size)
        assert (np.sort(whole) == np.arange(size) + source.ends[part] - size).all()
        assert len({tuple(epoch) for epoch in whole}) > 1


def test_both_ways_of_drawing_one_source(source, mixed):
    """Named in ``homogeneous`` and weighted too, its epochs still have every record once."""
    data = dataclasses.replace(mixed.data, homogeneous=(("seeds", 0.5),))
    config = dataclasses.replace(mixed, data=data)
    records = np.concatenate([mixture.records_at(source, config, t, range(8)) for t in range(60)])
    own = records[parts_of(source, records) == 1]
    epochs = own[: len(own) // 5 * 5].reshape(-1, 5)
    assert (np.sort(epochs) == np.arange(7, 12)).all()


def test_resuming_continues(source, mixed):
    whole = read(source, mixed, stop=6)
    assert_equal(read(source, mixed, start=2, stop=6), whole[2:])


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_divide_the_same_batches(source, mixed, hosts):
    each = 4 // hosts
    groups = [range(h * each, (h + 1) * each) for h in range(hosts)]
    parts = [read(source, mixed, groups=g) for g in groups]
    joined = [
        {name: np.concatenate([part[name] for part in step]) for name in step[0]}
        for step in zip(*parts)
    ]
    assert_equal(joined, read(source, mixed))


def test_records_come_from_their_source(source, mixed):
    assert len(source) == 15
    assert [source[i].id for i in (0, 7, 14)] == ["web/0.png", "seeds/0.png", "in1k/2.png"]
    assert source.labels is source[3].label is None
    with pytest.raises(IndexError, match=r"wanted 0\.\.14"):
        source[15]


def test_a_replacement_is_of_the_same_source(source):
    found = {mixture.replacement(source, 8, "x", i) for i in range(100)}
    assert found == set(range(7, 12))


def test_one_source_is_a_mixture_too(mixed):
    """All steps homogeneous: no weight is needed."""
    entries = (*mixed.data.mixture[:1], (*mixed.data.mixture[2][:3], 0.0))
    data = dataclasses.replace(
        mixed.data, mixture=entries, homogeneous=(("web", 0.5), ("in1k", 0.5))
    )
    config = dataclasses.replace(mixed, data=data)
    check_config(config)
    source = open_source(data)
    kinds = collections.Counter(
        tuple(parts_of(source, mixture.records_at(source, config, t, range(8))))
        for t in range(1000)
    )
    assert kinds == {(0,) * 8: 500, (1,) * 8: 500}


def test_quotas():
    assert mixture.quotas([2, 1]) == (667, 333)
    assert mixture.quotas([0.1, 0.2, 0.7]) == (100, 200, 700)
    assert mixture.quotas([1, 1e-9]) == (1000, 0)


ONE = ("a", "folder", "x", 1.0)


@pytest.mark.parametrize(
    ("entries", "homogeneous", "message"),
    [
        (None, (("a", 0.1),), r"data\.mixture is None"),
        ((), None, "wanted at least one"),
        ((ONE, ONE), None, "a name of its own"),
        ((ONE,), (("b", 0.1),), r"wanted names of data\.mixture"),
        ((ONE,), (("a", 1.5),), "a sum of at most 1"),
        ((("a", "folder", "x", -1.0),), (("a", 0.5),), "none below 0"),
        ((("a", "folder", "x", 0.0),), (("a", 0.5),), "a sum above 0"),
        ((ONE, ("b", "folder", "y", 0.0)), None, "'b' of data.mixture is never drawn"),
        ((ONE, ("b", "folder", "y", 1e-4)), None, "'b' has 0.0001, less than half of 1/1000"),
        ((ONE,), (("a", 1e-4),), "'a' has 0.0001"),
    ],
)
def test_mistakes(make_config, entries, homogeneous, message):
    config = make_config({"data.mixture": entries, "data.homogeneous": homogeneous})
    with pytest.raises(ConfigError, match=message):
        check_config(config)


def test_a_path_beside_a_mixture(mixed):
    data = dataclasses.replace(mixed.data, path="x")
    with pytest.raises(ConfigError, match="set one of the two"):
        check_config(dataclasses.replace(mixed, data=data))
