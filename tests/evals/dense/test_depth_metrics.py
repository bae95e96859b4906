import numpy as np
import pytest
from sklearn.linear_model import LinearRegression
from sklearn.metrics import mean_absolute_error, mean_squared_error

from dinov3_jax.evals.dense.depth_metrics import CROPS, align, errors, scored

EXACT = dict(rtol=1e-12)  # float64, a few operations


def depths(n=500, seed=0):
    return np.random.default_rng(seed).uniform(0.5, 9.0, n)


@pytest.mark.parametrize("c", [0.9, 1.1, 1.3, 1.6, 2.5])
def test_a_constant_factor(c):
    d = depths()
    got = errors(c * d, d)
    np.testing.assert_allclose(got["abs_rel"], abs(c - 1), **EXACT)
    np.testing.assert_allclose(got["rmse"], abs(c - 1) * np.sqrt(np.mean(d**2)), **EXACT)
    np.testing.assert_allclose(got["sq_rel"], (c - 1) ** 2 * d.mean(), **EXACT)
    np.testing.assert_allclose(got["log10"], abs(np.log10(c)), **EXACT)
    np.testing.assert_allclose(got["rmse_log"], abs(np.log(c)), **EXACT)
    assert got["silog"] < 1e-5  # 0 up to the root of float64's rounding, times 100
    for i in (1, 2, 3):
        assert got[f"a{i}"] == (100 if max(c, 1 / c) < 1.25**i else 0)


def test_perfect():
    got = errors(depths(), depths())
    assert {name: value for name, value in got.items() if value} == {
        "a1": 100,
        "a2": 100,
        "a3": 100,
    }


def test_scikit_learn_agrees():
    d, p = depths(), depths(seed=1)
    got = errors(p, d)
    np.testing.assert_allclose(got["rmse"] ** 2, mean_squared_error(d, p), **EXACT)
    np.testing.assert_allclose(got["mae"], mean_absolute_error(d, p), **EXACT)
    logs = mean_squared_error(np.log(d), np.log(p))
    np.testing.assert_allclose(got["rmse_log"] ** 2, logs, **EXACT)
    spread = logs - np.mean(np.log(p) - np.log(d)) ** 2
    np.testing.assert_allclose(got["silog"], 100 * np.sqrt(spread), rtol=1e-10)


def test_alignment_recovers_scale_and_shift():
    p = depths()
    np.testing.assert_allclose(align(p, 3.0 * p + 0.5), (3.0, 0.5), rtol=1e-9)
    d = depths(seed=1)
    oracle = LinearRegression().fit(p[:, None], d)
    np.testing.assert_allclose(align(p, d), (oracle.coef_[0], oracle.intercept_), rtol=1e-9)
    assert align(np.full(4, 2.0), np.array([1.0, 2, 3, 4])) == (1.0, 0.5)


def test_crops():
    known = np.ones((480, 640), np.float32)
    eigen = scored(known, crop="eigen", least=0.001, most=10)
    wanted = np.zeros((480, 640), bool)
    wanted[45:471, 41:601] = True
    np.testing.assert_array_equal(eigen, wanted)
    twice = scored(np.ones((960, 1280), np.float32), crop="eigen", least=0.001, most=10)
    np.testing.assert_array_equal(twice, np.kron(wanted, np.ones((2, 2))).astype(bool))
    garg = scored(np.ones((375, 1242), np.float32), crop="garg", least=0.001, most=80)
    rows, columns = (np.flatnonzero(garg.any(axis)) for axis in (1, 0))
    assert (rows[0], rows[-1] + 1, columns[0], columns[-1] + 1) == (153, 371, 44, 1197)
    assert scored(known, crop="none", least=0.001, most=10).all()
    assert set(CROPS) == {"none", "eigen", "garg"}


def test_depths_out_of_range_are_not_scored():
    depth = np.array([[0.0, 0.001, 0.5, 10.0, 12.0]])
    got = scored(depth, crop="none", least=0.001, most=10)
    np.testing.assert_array_equal(got, [[False, False, True, False, False]])


def test_bad_input():
    with pytest.raises(ValueError, match=r"depths are \(2,\) and \(3,\)"):
        errors(np.ones(2), np.ones(3))
    with pytest.raises(ValueError, match="n >= 1"):
        errors(np.ones(0), np.ones(0))
    with pytest.raises(ValueError, match=r"depths start at 1.0 and 0.0 m, wanted positive"):
        errors(np.ones(2), np.array([0.0, 1.0]))
    with pytest.raises(ValueError, match="wanted positive"):
        errors(np.array([np.nan, 1.0]), np.ones(2))
