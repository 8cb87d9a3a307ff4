"""Intervals against theory, and resampling by subject."""

from __future__ import annotations

import numpy as np
import pytest

from medldm.evaluation.errors import TooFewCasesError
from medldm.evaluation.metrics.bootstrap import bootstrap_interval, bootstrap_mean


def test_interval_of_a_mean_is_about_two_standard_errors() -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, 400)
    estimate = bootstrap_mean(values)
    error = values.std() / np.sqrt(len(values))
    assert estimate.value == pytest.approx(values.mean())
    assert estimate.upper - estimate.lower == pytest.approx(2 * 1.96 * error, rel=0.1)


def test_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(1)
    held = 0
    for trial in range(300):
        values = generator.normal(size=30)
        estimate = bootstrap_interval(
            lambda w, x=values: float(w @ x / w.sum()), [range(30)], level=0.9, n_resamples=200, seed=trial
        )
        held += estimate.lower <= 0 <= estimate.upper
    assert 0.83 <= held / 300 <= 0.95


def test_copies_of_a_subjects_cases_do_not_narrow_the_interval() -> None:
    values = np.random.default_rng(2).normal(size=25)
    once = bootstrap_mean(values, range(25))
    five_scans_each = bootstrap_mean(np.repeat(values, 5), np.repeat(np.arange(25), 5).tolist())
    taken_as_independent = bootstrap_mean(np.repeat(values, 5))
    assert (five_scans_each.lower, five_scans_each.upper) == pytest.approx((once.lower, once.upper))
    assert taken_as_independent.upper - taken_as_independent.lower < 0.6 * (once.upper - once.lower)


def test_basic_interval_mirrors_the_percentile_interval() -> None:
    values = np.random.default_rng(3).exponential(size=40)

    def statistic(w: np.ndarray) -> float:
        return float(w @ values / w.sum()) ** 2

    percentile = bootstrap_interval(statistic, [range(40)])
    basic = bootstrap_interval(statistic, [range(40)], method="basic")
    assert basic.lower == pytest.approx(2 * percentile.value - percentile.upper)
    assert basic.upper == pytest.approx(2 * percentile.value - percentile.lower)


def test_each_set_is_resampled_by_itself() -> None:
    sums: list[tuple[float, float]] = []

    def statistic(u: np.ndarray, v: np.ndarray) -> float:
        sums.append((u.sum(), v.sum()))
        return float(u[0] - v[0])

    bootstrap_interval(statistic, [range(4), range(7)], n_resamples=20)
    assert set(sums) == {(4.0, 7.0)}


def test_same_seed_gives_the_same_interval_and_another_does_not() -> None:
    values = np.random.default_rng(4).normal(size=20)
    assert bootstrap_mean(values, seed=5) == bootstrap_mean(values, seed=5)
    assert bootstrap_mean(values, seed=5) != bootstrap_mean(values, seed=6)


def test_resamples_without_the_cases_a_statistic_needs_are_left_out() -> None:
    def statistic(weights: np.ndarray) -> float:
        if weights[0] == 0:
            raise TooFewCasesError("the one case that shows it was not drawn")
        return float(weights.sum())

    assert bootstrap_interval(statistic, [range(6)]).value == 6
    with pytest.raises(TooFewCasesError, match="most resamples"):
        bootstrap_interval(lambda w: statistic(w) if w.max() == 1 else float("nan"), [range(6)])


def test_what_has_no_interval_is_refused() -> None:
    with pytest.raises(TooFewCasesError, match="1 subject"):
        bootstrap_mean([1.0, 2.0], ["a", "a"])
    with pytest.raises(TooFewCasesError, match="not defined"):
        bootstrap_interval(lambda w: float("nan"), [range(5)])
    with pytest.raises(ValueError, match="at least 20 resamples"):
        bootstrap_interval(lambda w: 0.0, [range(5)], n_resamples=5)
    with pytest.raises(ValueError, match="one finite value"):
        bootstrap_mean([1.0, np.nan])
