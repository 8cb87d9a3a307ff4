"""The data-copying test against scipy's rank sum, and on copies, fresh samples and underfits."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from scipy.stats import mannwhitneyu

from medldm.evaluation.errors import TooFewCasesError
from medldm.evaluation.metrics.data_copying import data_copying_test


def draw(n: int, *, seed: int, n_features: int = 3) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return generator.normal(size=(n, n_features)) + 6 * np.eye(n_features)[generator.integers(0, 2, n)]


def test_statistic_is_that_of_the_mann_whitney_test() -> None:
    train, test, synthetic = draw(50, seed=0), draw(60, seed=11), draw(40, seed=12)
    nearest = [cdist(each, train).min(axis=1) for each in (synthetic, test)]
    expected = mannwhitneyu(*nearest, alternative="less", method="asymptotic", use_continuity=False).pvalue
    assert data_copying_test(train, test, synthetic).p_value == pytest.approx(expected)


def test_ties_count_half_and_the_statistic_has_its_extreme_values() -> None:
    train = [[0.0], [100.0]]
    assert data_copying_test(train, [[1.0]] * 3, [[1.0]] * 2, n_min=2).statistic == 0.0
    copied = data_copying_test(train, [[1.0]] * 3, [[0.0]] * 2, n_min=2)
    assert copied.statistic == pytest.approx(-3 / np.sqrt(2 * 3 * 6 / 12))


def test_copies_lie_far_below_zero_and_underfits_far_above() -> None:
    train, test = draw(200, seed=1), draw(150, seed=2)
    copies = train[:150] + 0.05 * draw(150, seed=3)
    fresh, wide = draw(150, seed=4), 2 * draw(150, seed=5)
    copied, honest, wide_of_it = (data_copying_test(train, test, each) for each in (copies, fresh, wide))
    assert copied.statistic < -5 and copied.p_value < 1e-6
    assert abs(honest.statistic) < 2.5 and honest.p_value > 0.01
    assert wide_of_it.statistic > 4 and wide_of_it.p_value > 0.999


def test_copying_of_a_fifth_shows() -> None:
    train, test = draw(200, seed=6), draw(300, seed=7)
    some = np.concatenate([train[:60] + 1e-3, draw(240, seed=8)])
    assert data_copying_test(train, test, some).p_value < 0.01


def test_p_values_of_honest_samples_are_uniform() -> None:
    p_values = [
        data_copying_test(draw(60, seed=i), draw(40, seed=i + 1000), draw(40, seed=i + 2000)).p_value
        for i in range(500)
    ]
    assert np.mean(np.array(p_values) <= 0.05) == pytest.approx(0.05, abs=0.025)
    assert np.mean(p_values) == pytest.approx(0.5, abs=0.05)


def test_bad_input_is_refused() -> None:
    train, test = draw(200, seed=9), draw(100, seed=10)
    with pytest.raises(TooFewCasesError, match="test has 100 cases; this measure needs at least 500"):
        data_copying_test(train, test, test, n_min=500)
    with pytest.raises(ValueError, match="3, 2 and 3 features"):
        data_copying_test(train, test[:, :2], test)
