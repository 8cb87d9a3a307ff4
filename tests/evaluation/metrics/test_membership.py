"""Membership inference on scores with a known answer."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import norm

from medldm.evaluation.errors import TooFewCasesError
from medldm.evaluation.metrics.membership import infer_membership, true_positive_rate


def test_auc_and_rate_of_two_normals_are_the_closed_form() -> None:
    generator = np.random.default_rng(0)
    result = infer_membership(generator.normal(1.0, 1.0, 3000), generator.normal(size=3000), n_resamples=50)
    assert result.auc.value == pytest.approx(norm.cdf(1 / np.sqrt(2)), abs=0.015)
    assert result.true_positive_rate.value == pytest.approx(norm.sf(norm.isf(0.01) - 1), abs=0.03)
    assert result.is_resolved
    assert result.auc_beyond_chance and result.p_value < 1e-6
    assert result.true_positive_rate.lower < norm.sf(norm.isf(0.01) - 1) < result.true_positive_rate.upper


def test_scores_that_say_nothing_hold_one_half_in_the_interval() -> None:
    scores = np.random.default_rng(1).normal(size=(2, 60))
    result = infer_membership(*scores)
    assert result.auc.lower < 0.5 < result.auc.upper
    assert not result.is_resolved
    assert not result.auc_beyond_chance and result.p_value > 0.01
    assert infer_membership(np.ones(10), np.ones(10)).auc.value == 0.5


def test_rate_allows_exactly_its_share_of_false_positives() -> None:
    outside = np.arange(200.0)
    assert true_positive_rate([196.5, 197.5, 198.5, 300], outside) == 0.75
    assert true_positive_rate([197.0], outside) == 0.0
    assert true_positive_rate([8.5, 9.5], np.arange(10.0)) == 0.5


def test_weights_count_a_case_as_often_as_it_was_drawn() -> None:
    generator = np.random.default_rng(4)
    inside, outside = generator.normal(0.5, 1, 40).round(1), generator.normal(size=60).round(1)
    for _ in range(20):
        u, v = generator.multinomial(40, np.full(40, 1 / 40)), generator.multinomial(60, np.full(60, 1 / 60))
        drawn = true_positive_rate(inside.repeat(u), outside.repeat(v), at=0.1)
        assert true_positive_rate(inside, outside, at=0.1, weights=(u, v)) == pytest.approx(drawn)


def test_chance_of_the_rate_is_that_of_an_order_statistic() -> None:
    """5 members, all above the largest of 7 others: one of the ways to choose 5 of 12 ranks."""
    scores = np.arange(10.0)
    result = infer_membership(np.tile(scores[7:], 2)[:5], scores[:7], n_resamples=20)
    assert result.true_positive_rate.value == 1.0
    assert result.p_value == pytest.approx(1 / math.comb(12, 5))


def test_calibration_takes_away_the_difficulty_of_a_case() -> None:
    generator = np.random.default_rng(2)
    difficulty = generator.uniform(0, 10, 80)
    is_member = np.arange(80) < 40
    losses = difficulty - 0.5 * is_member + 0.1 * generator.normal(size=80)
    plain, calibrated = -losses, difficulty - losses
    assert infer_membership(plain[:40], plain[40:]).auc.value < 0.7
    assert infer_membership(calibrated[:40], calibrated[40:]).auc.value > 0.95


def test_bad_input_is_refused() -> None:
    with pytest.raises(TooFewCasesError, match="4 non-member cases"):
        infer_membership(np.ones(5), np.ones(4))
    with pytest.raises(ValueError, match="5 of 5 member scores are not finite"):
        infer_membership([np.nan] * 5, np.ones(5))
