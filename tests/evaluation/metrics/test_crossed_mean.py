"""The interval over draws and subjects: closed forms, and coverage by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import t, ttest_1samp

from medldm.evaluation.errors import TooFewCasesError
from medldm.evaluation.metrics.crossed_mean import crossed_mean


def test_one_draw_is_the_t_interval_over_subjects() -> None:
    values = np.random.default_rng(0).normal(1, 2, size=(1, 12))
    found = crossed_mean(values)
    expected = ttest_1samp(values[0], 0).confidence_interval(0.95)
    assert (found.lower, found.upper) == pytest.approx((expected.low, expected.high))
    assert found.value == pytest.approx(values.mean())


def test_draws_that_agree_leave_the_interval_over_subjects() -> None:
    column = np.random.default_rng(1).normal(size=15)
    found, one = crossed_mean(np.stack([column] * 4)), crossed_mean(column[None])
    assert (found.lower, found.upper) == pytest.approx((one.lower, one.upper))


def test_subjects_that_agree_leave_the_interval_over_draws() -> None:
    draws = np.random.default_rng(2).normal(size=5)
    found = crossed_mean(np.repeat(draws[:, None], 9, axis=1))
    half = t.ppf(0.975, 4) * draws.std(ddof=1) / np.sqrt(5)
    assert (found.upper - found.lower) / 2 == pytest.approx(half)


@pytest.mark.parametrize("deviations", [(1.0, 1.0, 1.0), (0.0, 1.0, 0.5), (1.0, 0.1, 0.1), (0.0, 0.0, 1.0)])
def test_the_interval_holds_the_mean_in_about_95_of_100(deviations: tuple[float, float, float]) -> None:
    generator = np.random.default_rng(3)
    n_held, n = 0, 600
    for _ in range(n):
        a, b, e = (generator.normal(size=shape) for shape in ((3, 1), (1, 20), (3, 20)))
        found = crossed_mean(deviations[0] * a + deviations[1] * b + deviations[2] * e)
        n_held += found.lower <= 0 <= found.upper
    assert 0.925 <= n_held / n <= 1.0


def test_scans_of_one_subject_count_as_one() -> None:
    values = np.random.default_rng(4).normal(size=(3, 6))
    twice = crossed_mean(np.repeat(values, 2, axis=1), [name for name in range(6) for _ in range(2)])
    assert twice == crossed_mean(values)


def test_cases_without_a_value_are_left_out() -> None:
    values = np.random.default_rng(5).normal(size=(2, 5))
    gap = np.concatenate([values, [[np.nan], [1.0]]], axis=1)
    assert crossed_mean(gap) == crossed_mean(values)


def test_wrong_tables_are_named() -> None:
    with pytest.raises(TooFewCasesError, match="1 subject"):
        crossed_mean(np.ones((3, 2)), ["a", "a"])
    with pytest.raises(ValueError, match="5 cases"):
        crossed_mean(np.ones((3, 4)), range(5))
