"""Two models on swapped halves: exactly 0.5 where both saw the same, near 1 where each remembers its half."""

from __future__ import annotations

import numpy as np
import pytest

from medldm.evaluation.errors import NotMeasurableError, TooFewCasesError
from medldm.evaluation.metrics.swapped_halves import swapped_auc


def make_difficulty(n: int, mean: float, *, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, 1, n)


def test_models_that_saw_the_same_cases_have_exactly_a_half() -> None:
    first, second = make_difficulty(30, 2.0, seed=0), make_difficulty(40, 0.0, seed=1)
    found = swapped_auc((first, first), (second, second), n_resamples=100)
    assert found.auc.value == pytest.approx(0.5) and found.of_models[0] > 0.8
    assert (found.auc.lower, found.auc.upper) == pytest.approx((0.5, 0.5))
    assert not found.is_beyond_chance


def test_memory_is_seen_and_halves_that_differ_are_not() -> None:
    first, second = make_difficulty(60, 1.0, seed=2), make_difficulty(60, 0.0, seed=3)
    noise = np.random.default_rng(4).normal(0, 0.3, (4, 60))
    for memory, low, high, is_beyond in ((6.0, 0.98, 1.0, True), (0.0, 0.45, 0.55, False)):
        found = swapped_auc(
            (first + memory + noise[0], first + noise[1]),
            (second + noise[2], second + memory + noise[3]),
            n_resamples=300,
        )
        assert low <= found.auc.value <= high and found.is_beyond_chance is is_beyond
        assert found.auc.lower <= found.auc.value <= found.auc.upper


def test_the_interval_is_narrower_than_of_one_model_where_difficulty_is_shared() -> None:
    first, second = make_difficulty(40, 0.0, seed=5), make_difficulty(40, 0.0, seed=6)
    found = swapped_auc((first + 0.3, first), (second, second + 0.3), n_resamples=300)
    assert found.auc.upper - found.auc.lower < 0.15
    assert found.auc.lower > 0.5


def test_wrong_scores_are_named() -> None:
    good = np.arange(6.0)
    with pytest.raises(TooFewCasesError, match="4 cases in a half"):
        swapped_auc((good[:4], good[:4]), (good, good))
    with pytest.raises(NotMeasurableError, match="not finite"):
        swapped_auc((good, good * np.nan), (good, good))
    with pytest.raises(ValueError, match="for one half"):
        swapped_auc((good, good[:5]), (good, good))
