"""The loss of a whole model on a case is what its denoiser, path and conditions say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from medldm import LatentDiffusionConfig
from medldm.conditioning import Conditions
from medldm.diffusion import DDPMPath, FlowPath
from medldm.evaluation.cases.model_cases import ModelCase
from medldm.evaluation.features.denoising_loss import denoising_loss, make_case_loss
from medldm.evaluation.metrics.membership import infer_membership

SHAPE = (1, 1, 5, 5, 5)


def make_case(seed: int = 0) -> ModelCase:
    generator = torch.Generator().manual_seed(seed)
    volume = torch.rand((1, 1, 16, 20, 16), generator=generator) * 2 - 1
    labels = torch.randint(0, 3, volume.shape, generator=generator)
    return ModelCase(volume=volume, conditions=Conditions({"class": torch.tensor([1]), "label_map": labels}))


def test_loss_is_the_mean_squared_error_of_the_prediction(make_model: Callable[..., Any]) -> None:
    model, config, case = make_model(), LatentDiffusionConfig(), make_case()
    path = config.noise_path()
    t = torch.tensor([path.time_at(0.0)])
    with torch.no_grad():
        latents = model.encode(case.volume)
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(4))
        output = model.denoiser(path.add_noise(latents, noise, t), path.network_time(t), case.conditions)
    expected = float(((output - noise) ** 2).mean())
    loss = make_case_loss(model, config, half_log_snrs=(0.0,), n_noises=1, seed=4)
    assert loss(case) == pytest.approx(expected, rel=1e-5)
    assert loss(case) == loss(case)


def test_conditions_matter_and_may_be_absent(make_model: Callable[..., Any]) -> None:
    loss, case = make_case_loss(make_model(), LatentDiffusionConfig()), make_case()
    assert loss(case) != loss(ModelCase(volume=case.volume))


def test_mirror_image_mirrors_volume_and_maps_and_leaves_the_class() -> None:
    case = make_case()
    mirrored = case.mirrored()
    back = mirrored.mirrored()
    assert torch.equal(mirrored.volume, case.volume.flip(2))
    assert case.conditions is not None and mirrored.conditions is not None and back.conditions is not None
    assert torch.equal(mirrored.conditions.values["label_map"], case.conditions.values["label_map"].flip(2))
    assert torch.equal(mirrored.conditions.values["class"], case.conditions.values["class"])
    assert torch.equal(back.conditions.values["label_map"], case.conditions.values["label_map"])
    assert ModelCase(volume=case.volume).mirrored().conditions is None


def test_mirror_calibration_scores_a_symmetric_case_zero(make_model: Callable[..., Any]) -> None:
    loss = make_case_loss(make_model(), LatentDiffusionConfig(), half_log_snrs=(0.0,), n_noises=1)
    case = make_case()
    symmetric = ModelCase(volume=case.volume + case.volume.flip(2))
    scores = [loss(each.mirrored()) - loss(each) for each in (symmetric, ModelCase(volume=case.volume))]
    assert scores[0] == pytest.approx(0, abs=1e-9) and scores[1] != 0


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

    inside, outside = ([-case_loss(case) for case in cases.split(1)] for cases in (members, others))
    overfitted = infer_membership(inside, outside)
    assert overfitted.auc.lower > 0.9 and overfitted.true_positive_rate.lower > 0.5
    honest = infer_membership(outside[::2], outside[1::2])
    assert honest.auc.lower < 0.5 < honest.auc.upper


def test_times_are_needed() -> None:
    with pytest.raises(ValueError, match="0 times"):
        denoising_loss(
            lambda x, t: x, torch.ones(SHAPE), path=FlowPath(), prediction_type="velocity", times=[]
        )
