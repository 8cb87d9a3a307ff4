"""The loss of a whole model on a case is what its denoiser, path and conditions say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from medldm import LatentDiffusionConfig
from medldm.conditioning import Conditions
from medldm.evaluation.cases.model_losses import ModelCase, make_case_loss, mirror_case
from medldm.evaluation.metrics.membership import score_cases


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
    (mirrored,) = mirror_case(case)
    (back,) = mirror_case(mirrored)
    assert torch.equal(mirrored.volume, case.volume.flip(2))
    assert case.conditions is not None and mirrored.conditions is not None and back.conditions is not None
    assert torch.equal(mirrored.conditions.values["label_map"], case.conditions.values["label_map"].flip(2))
    assert torch.equal(mirrored.conditions.values["class"], case.conditions.values["class"])
    assert torch.equal(back.conditions.values["label_map"], case.conditions.values["label_map"])
    assert mirror_case(ModelCase(volume=case.volume))[0].conditions is None


def test_mirror_calibration_scores_a_symmetric_case_zero(make_model: Callable[..., Any]) -> None:
    loss = make_case_loss(make_model(), LatentDiffusionConfig(), half_log_snrs=(0.0,), n_noises=1)
    case = make_case()
    symmetric = ModelCase(volume=case.volume + case.volume.flip(2))
    scores = score_cases(loss, [symmetric, ModelCase(volume=case.volume)], references=mirror_case)
    assert scores[0] == pytest.approx(0, abs=1e-9) and scores[1] != 0
