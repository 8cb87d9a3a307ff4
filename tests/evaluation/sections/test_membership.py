"""Membership results: lights on scores with a known answer, and on a model that was made to memorise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from medldm import LatentDiffusionConfig
from medldm.diffusion.kernel import training_target
from medldm.evaluation.cases.model_cases import EvaluatedModel, ModelCases
from medldm.evaluation.metrics.bootstrap import Estimate
from medldm.evaluation.metrics.membership import MembershipResult
from medldm.evaluation.sections.membership import (
    ATTACKS,
    UPSIDE_DOWN,
    MembershipConfig,
    MembershipScores,
    auc_verdict,
    membership_results,
    rate_verdict,
    score_membership,
    split_by_subject,
)
from medldm.evaluation.sections.metric_result import MetricResult


def make_scores(mean: float, n: int, *, seed: int) -> MembershipScores:
    values = np.random.default_rng(seed).normal(mean, 1, (2, n))
    by_attack = {attack: values[place % 2] for place, attack in enumerate(ATTACKS)}
    return MembershipScores(by_attack=by_attack, subjects=tuple(range(n)))


def by_key(results: list[MetricResult]) -> dict[str, MetricResult]:
    return {result.description.key: result for result in results}


def test_members_that_stand_out_are_red_and_others_are_not() -> None:
    others = make_scores(0, 240, seed=1)
    for mean, light in ((1.5, "red"), (0.0, "green")):
        results = by_key(membership_results(make_scores(mean, 240, seed=2), others, n_resamples=200, seed=0))
        assert sorted(results) == [
            f"privacy.membership_{measure}_{attack}"
            for measure in ("auc", "tpr")
            for attack in sorted(ATTACKS)
        ]
        assert {result.light for result in results.values()} == {light}
        for result in results.values():
            assert result.synthetic is not None and result.real is not None and result.noise is None
        real = results["privacy.membership_auc_mirror"].real
        assert real is not None and real.lower < 0.5 < real.upper


def test_too_few_cases_are_not_computed_or_amber() -> None:
    results = membership_results(
        make_scores(0, 4, seed=0), make_scores(0, 30, seed=1), n_resamples=50, seed=0
    )
    assert all("4 member cases" in result.not_computed for result in results)
    results = membership_results(make_scores(0, 9, seed=0), make_scores(0, 9, seed=1), n_resamples=50, seed=0)
    assert {result.light for result in results} == {"amber"}
    assert all(result.real is None for result in results)
    assert "With 9 non-members, fewer than 100" in results[1].note


def make_result(low: float, high: float, *, beyond: bool = False, **changed: Any) -> MembershipResult:
    estimate = Estimate(value=(low + high) / 2, lower=low, upper=high, level=0.95, n_subjects=(9, 9))
    values = {"p_value": 0.5, "is_resolved": True} | changed
    return MembershipResult(
        auc=estimate,
        true_positive_rate=estimate,
        auc_beyond_chance=beyond,
        n_members=9,
        n_non_members=9,
        **values,
    )


@pytest.mark.parametrize(
    ("low", "high", "beyond", "light"),
    [
        (0.45, 0.55, False, "green"),
        (0.45, 0.65, False, "amber"),
        (0.3, 0.4, False, "amber"),
        (0.51, 0.55, False, "green"),
        (0.51, 0.55, True, "red"),
    ],
)
def test_light_of_an_auc(low: float, high: float, beyond: bool, light: str) -> None:
    assert auc_verdict(make_result(low, high, beyond=beyond)) == light


@pytest.mark.parametrize(
    ("p_value", "is_resolved", "light"),
    [(0.5, True, "green"), (0.5, False, "amber"), (0.02, True, "amber"), (0.001, False, "red")],
)
def test_light_of_a_rate(p_value: float, is_resolved: bool, light: str) -> None:
    assert rate_verdict(make_result(0, 1, p_value=p_value, is_resolved=is_resolved)) == light


def test_an_attack_is_said_to_be_upside_down_and_left_out_without_a_second_model() -> None:
    scores = make_scores(0, 20, seed=0)
    del scores.by_attack["reference"]
    results = by_key(
        membership_results(scores, scores, n_resamples=20, seed=0, remarks={"mirror": UPSIDE_DOWN})
    )
    assert not any("reference" in key for key in results)
    assert {key for key, each in results.items() if "upside down" in each.note} == {
        "privacy.membership_auc_mirror"
    }


def test_halves_share_no_subject_and_hold_all_cases() -> None:
    scores = make_scores(0, 20, seed=3)
    scores = MembershipScores(by_attack=scores.by_attack, subjects=tuple(n // 2 for n in range(20)))
    first, second = split_by_subject(scores, seed=0)
    assert not set(first.subjects) & set(second.subjects)
    assert set(first.subjects) | set(second.subjects) == set(range(10))
    for name, values in scores.by_attack.items():
        together = np.concatenate([each.by_attack[name] for each in (first, second)])
        assert sorted(together) == sorted(values)


def overfit(evaluated: EvaluatedModel, cases: list[Any], *, n_steps: int) -> None:
    """Train the denoiser on these cases alone until it knows them."""
    model, path = evaluated.model, evaluated.config.noise_path()
    latents = torch.cat([model.encode(case.volume) for case in cases])
    mean, std = latents.mean(dim=(0, 2, 3, 4)), latents.std(dim=(0, 2, 3, 4))
    model.set_latent_statistics(model.latent_shift + mean / model.latent_scale, std / model.latent_scale)
    latents = torch.cat([model.encode(case.volume) for case in cases])
    generator = torch.Generator().manual_seed(0)
    optimiser = torch.optim.Adam(model.denoiser.parameters(), lr=3e-3)
    t = torch.tensor([path.time_at(0.0)]).expand(len(latents))
    for _ in range(n_steps):
        noise = torch.randn(latents.shape, generator=generator)
        x_t = path.add_noise(latents, noise, t)
        target = training_target(evaluated.config.prediction_type, latents, noise, *path.alpha_sigma(t))
        loss = ((model.denoiser(x_t, path.network_time(t)) - target) ** 2).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


def draw_volume(case: dict[str, Any]) -> dict[str, Any]:
    """Each case is a noise of its own, so that nothing but memory helps to denoise it."""
    generator = torch.Generator().manual_seed(case["id"])
    return {"image": torch.randn((1, 8, 12, 8), generator=generator).clamp(-1, 1)}


@pytest.mark.slow
def test_a_model_that_knows_its_cases_by_heart_is_red(make_model: Callable[..., Any]) -> None:
    evaluated = EvaluatedModel(
        model=make_model(()), config=LatentDiffusionConfig(), transform=draw_volume, weights_sha256=""
    )
    settings = MembershipConfig(half_log_snrs=(0.0,), n_noises=2)
    members, others = (
        ModelCases(
            evaluated=evaluated,
            cases=tuple({"id": number} for number in numbers),
            subjects=tuple(range(len(numbers))),
        )
        for numbers in (range(8), range(100, 124))
    )

    reference = replace(evaluated, model=make_model(()))

    def measure() -> dict[str, MetricResult]:
        scores = (score_membership(each, settings, seed=0, reference=reference) for each in (members, others))
        return by_key(membership_results(*scores, n_resamples=200, seed=0))

    auc_keys = [f"privacy.membership_auc_{attack}" for attack in ("mirror", "loss", "reference")]
    before = measure()
    assert "red" not in {before[key].light for key in auc_keys}
    overfit(evaluated, list(members), n_steps=400)
    after = measure()
    for key in auc_keys:
        assert after[key].light == "red"
        estimate = after[key].synthetic
        assert estimate is not None and estimate.value > 0.75
    # The autoencoder learned nothing.
    of_autoencoder = "privacy.membership_auc_autoencoder"
    assert after[of_autoencoder] == before[of_autoencoder]
    assert after[of_autoencoder].light != "red"
