"""The data-copying test against scipy's rank sum, and on copies, fresh samples and underfits."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import mannwhitneyu, norm

from medldm.evaluation.errors import TooFewCasesError
from medldm.evaluation.metrics.data_copying import data_copying_test, rank_sum_score


def draw(n: int, *, seed: int, n_features: int = 3) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return generator.normal(size=(n, n_features)) + 6 * np.eye(n_features)[generator.integers(0, 2, n)]


def test_score_is_that_of_the_mann_whitney_test() -> None:
    generator = np.random.default_rng(0)
    synthetic, test = generator.normal(size=40), generator.normal(size=60) + 0.3
    expected = mannwhitneyu(
        synthetic, test, alternative="less", method="asymptotic", use_continuity=False
    ).pvalue
    assert norm.cdf(rank_sum_score(synthetic, test)) == pytest.approx(expected)


def test_score_counts_ties_half_and_has_its_extreme_values() -> None:
    assert rank_sum_score([1, 1], [1, 1, 1]) == 0.0
    assert rank_sum_score([0, 0], [1, 1, 1]) == pytest.approx(-3 / np.sqrt(2 * 3 * 6 / 12))


@pytest.mark.parametrize("n_cells", [1, 2])
def test_copies_lie_far_below_zero_and_underfits_far_above(n_cells: int) -> None:
    train, test = draw(200, seed=1), draw(150, seed=2)
    copies = train[:150] + 0.05 * draw(150, seed=3)
    fresh, wide = draw(150, seed=4), 2 * draw(150, seed=5)
    copied, honest, wide_of_it = (
        data_copying_test(train, test, each, n_cells=n_cells) for each in (copies, fresh, wide)
    )
    assert copied.statistic < -5 and copied.p_value < 1e-6
    assert abs(honest.statistic) < 2.5 and honest.p_value > 0.01
    assert wide_of_it.statistic > 4 and wide_of_it.p_value > 0.999
    assert copied.n_cells == n_cells and copied.n_synthetic_left_out == 0


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


def test_cells_without_enough_cases_are_left_out_and_counted() -> None:
    train, test = draw(200, seed=9), draw(100, seed=10)
    far = np.concatenate([test + 0.1, np.full((5, 3), 50.0)])
    lonely = np.concatenate([train, np.full((3, 3), 50.0)])
    result = data_copying_test(lonely, test, far, n_cells=3)
    assert result.n_synthetic_left_out >= 5 or result.n_cells == 3
    with pytest.raises(TooFewCasesError, match="no cell has 500 test and 500 synthetic"):
        data_copying_test(train, test, far, n_min=500)
    with pytest.raises(ValueError, match="3, 2 and 3 features"):
        data_copying_test(train, test[:, :2], far)
