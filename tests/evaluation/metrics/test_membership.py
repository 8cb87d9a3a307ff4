"""Membership inference on scores with a known answer, and on a model that was made to memorise."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import Tensor, nn

from medldm.diffusion import DDPMPath, FlowPath
from medldm.evaluation.metrics.checks import TooFewCasesError
from medldm.evaluation.metrics.membership import (
    denoising_loss,
    infer_membership,
    score_cases,
    true_positive_rate,
)

SHAPE = (1, 1, 5, 5, 5)


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
    plain = score_cases(lambda i: losses[i], range(80))
    by_model = score_cases(lambda i: losses[i], range(80), reference_loss=lambda i: difficulty[i])
    assert infer_membership(plain[:40], plain[40:]).auc.value < 0.7
    assert infer_membership(by_model[:40], by_model[40:]).auc.value > 0.95
    by_versions = score_cases(lambda x: x, [5.0, 7.0], references=lambda x: [x + 1, x + 3])
    assert by_versions == pytest.approx([2.0, 2.0])
    with pytest.raises(ValueError, match="calibrated by one of them"):
        score_cases(lambda x: x, [1.0], references=lambda x: [x], reference_loss=lambda x: x)


def test_loss_of_the_perfect_and_of_the_silent_predictor() -> None:
    path, x_0 = FlowPath(), torch.full(SHAPE, 2.0)

    def perfect(x_t: Tensor, time: Tensor) -> Tensor:
        t = (time / 1000).to(x_t)
        return (x_t - x_0) / t

    options = {"path": path, "prediction_type": "velocity", "times": (0.3, 0.8), "n_noises": 3}
    assert denoising_loss(perfect, x_0, **options) == pytest.approx(0, abs=1e-8)
    generator = torch.Generator().manual_seed(0)
    noise = torch.stack([torch.randn(SHAPE, generator=generator) for _ in range(6)])
    expected = float(((noise - x_0) ** 2).mean())
    assert denoising_loss(lambda x, t: torch.zeros_like(x), x_0, **options) == pytest.approx(
        expected, rel=1e-5
    )


def test_loss_uses_the_same_noise_for_every_case() -> None:
    seen: list[Tensor] = []

    def predict(x_t: Tensor, time: Tensor) -> Tensor:
        seen.append(x_t)
        return x_t

    for value in (0.0, 1.0):
        denoising_loss(
            predict, torch.full(SHAPE, value), path=FlowPath(), prediction_type="velocity", times=[0.5]
        )
    torch.testing.assert_close(seen[2] - seen[0], torch.full(SHAPE, 0.5))


def test_memorised_cases_stand_out_and_new_ones_do_not() -> None:
    generator = torch.Generator().manual_seed(3)
    members, others = (torch.randn((n, *SHAPE[1:]), generator=generator) for n in (20, 200))
    path = DDPMPath(n_timesteps=100)
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Flatten(), nn.Linear(125, 256), nn.ReLU(), nn.Linear(256, 125), nn.Unflatten(1, SHAPE[1:])
    )
    optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(400):
        t = path.sample_times(20, generator=generator)
        noise = torch.randn(members.shape, generator=generator)
        loss = ((network(path.add_noise(members, noise, t)) - members) ** 2).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    def case_loss(x_0: Tensor) -> float:
        return denoising_loss(
            lambda x, t: network(x), x_0, path=path, prediction_type="sample", times=(30, 50), n_noises=2
        )

    inside = score_cases(case_loss, members.split(1))
    outside = score_cases(case_loss, others.split(1))
    overfitted = infer_membership(inside, outside)
    assert overfitted.auc.lower > 0.9 and overfitted.true_positive_rate.lower > 0.5
    honest = infer_membership(outside[::2], outside[1::2])
    assert honest.auc.lower < 0.5 < honest.auc.upper


def test_bad_input_is_refused() -> None:
    with pytest.raises(TooFewCasesError, match="4 non-member cases"):
        infer_membership(np.ones(5), np.ones(4))
    with pytest.raises(ValueError, match="finite, is needed"):
        infer_membership([np.nan] * 5, np.ones(5))
    with pytest.raises(ValueError, match="0 times"):
        denoising_loss(
            lambda x, t: x, torch.ones(SHAPE), path=FlowPath(), prediction_type="velocity", times=[]
        )
