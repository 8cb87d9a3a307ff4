"""What a denoiser is told of a case as a whole: principal components of its latents' statistics."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from medldm import (
    ConditioningConfig,
    LatentDiffusionConfig,
    LatentDiffusionModel,
    LatentDiffusionSampler,
    LatentUNetConfig,
    VAEConfig,
)
from medldm.diffusion import InpaintingMask, PartialStart
from medldm.latent_diffusion.appearance import (
    MOST,
    appearance_of,
    count_statistics,
    draw_appearance,
    measure_appearance,
)
from medldm.latent_diffusion.checkpoints import save_checkpoint
from medldm.latent_diffusion.model_files import describe_latent_diffusion, load_latent_diffusion
from medldm.networks.embeddings import channel_statistics
from medldm.seeds import appearance_seed, volume_seed
from medldm.training.denoising_task import DenoisingTask


def make_cohort(n_cases: int = 12) -> list[Tensor]:
    """Return latents of cases that differ in level, contrast and grain of either channel."""
    generator = torch.Generator().manual_seed(0)
    cases = []
    for _ in range(n_cases):
        level, contrast, grain = torch.randn(3, 2, 1, 1, 1, generator=generator, dtype=torch.float64)
        smooth = torch.randn(2, 3, 3, 3, generator=generator, dtype=torch.float64)
        smooth = smooth.repeat_interleave(4, 1).repeat_interleave(4, 2).repeat_interleave(4, 3)
        noise = torch.randn(2, 12, 12, 12, generator=generator, dtype=torch.float64)
        cases.append(level + contrast.exp() * smooth + 0.3 * grain.exp() * noise)
    return cases


def test_what_is_told_of_a_cohort_has_mean_0_sd_1_and_no_correlation() -> None:
    cases = make_cohort()
    mean, basis = measure_appearance(cases, 5)
    told = (torch.stack([channel_statistics(case) for case in cases]) - mean) @ basis.T
    torch.testing.assert_close(told.mean(0), torch.zeros(5).double(), atol=1e-9, rtol=0)
    torch.testing.assert_close(told.T @ told / len(cases), torch.eye(5).double(), atol=1e-9, rtol=0)
    torch.testing.assert_close(
        appearance_of(torch.stack(cases), mean, basis).double(), told, atol=1e-4, rtol=0
    )


def test_a_training_in_bfloat16_is_told_the_same() -> None:
    cases = torch.stack(make_cohort()).float()
    measured = measure_appearance(cases, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = appearance_of(cases, *measured)
    torch.testing.assert_close(rounded, appearance_of(cases, *measured), atol=1e-5, rtol=1e-5)


def test_components_are_those_of_the_covariance_the_largest_first() -> None:
    cases = make_cohort()
    _, basis = measure_appearance(cases, 3)
    statistics = np.stack([channel_statistics(case).numpy() for case in cases])
    values, vectors = np.linalg.eigh(np.cov(statistics.T, bias=True))
    for row, value, vector in zip(basis.numpy(), values[::-1], vectors.T[::-1], strict=False):
        np.testing.assert_allclose(row * math.sqrt(value) @ vector, np.sign(row @ vector), atol=1e-9)
        assert row[np.abs(row).argmax()] > 0


def test_components_that_a_cohort_has_too_few_cases_for_are_never_told_nor_drawn() -> None:
    cases = make_cohort(3)
    mean, basis = measure_appearance(cases, 6)
    assert basis[:2].any(dim=1).all() and not basis[2:].any()
    drawn = draw_appearance(basis, [1, 2, 3])
    assert drawn[:, :2].all() and not drawn[:, 2:].any()
    _, constant = measure_appearance(cases[:1] * 4, 6)
    assert not constant.any() and not draw_appearance(constant, [1]).any()
    assert not appearance_of(torch.stack(cases), mean, constant).any()


def test_draws_are_standard_normal_up_to_their_bound_and_follow_from_their_own_seed() -> None:
    basis = torch.ones(4, 10)
    drawn = draw_appearance(basis, range(2000))
    # Variance of max(-b, min(b, z)) for standard normal z.
    tail = 0.5 * math.erfc(MOST / math.sqrt(2))
    density = math.exp(-(MOST**2) / 2) / math.sqrt(2 * math.pi)
    variance = 1 - 2 * tail - 2 * MOST * density + 2 * MOST**2 * tail
    assert drawn.abs().max() <= MOST
    assert abs(drawn.mean()) < 4 / math.sqrt(drawn.numel())
    assert drawn.var().item() == pytest.approx(variance, abs=4 * math.sqrt(2 / drawn.numel()))
    assert torch.equal(draw_appearance(basis, [7, 3]), drawn[[7, 3]])


@pytest.fixture
def told_model() -> LatentDiffusionModel:
    """Return a model that is told three numbers, with random weights everywhere."""
    torch.manual_seed(0)
    unet = LatentUNetConfig(
        down_channels=(8, 16), n_groups=4, n_heads=2, n_res_blocks=1, appearance_channels=3
    )
    model = LatentDiffusionModel(
        autoencoder_config=VAEConfig(down_channels=(4, 8), n_groups=4, n_res_blocks=1, latent_channels=2),
        conditioning_config=ConditioningConfig(conditioning_type=()),
        unet_config=unet,
    )
    for parameter in model.denoiser.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    model.set_appearance(*measure_appearance(make_cohort(), 3))
    return model


def listen(model: LatentDiffusionModel, monkeypatch: pytest.MonkeyPatch) -> list[Tensor | None]:
    """Return a list that what the network is told is added to."""
    told: list[Tensor | None] = []
    own = model.denoiser.unet.forward

    def forward(*inputs, **named):
        told.append(named["appearance"])
        return own(*inputs, **named)

    monkeypatch.setattr(model.denoiser.unet, "forward", forward)
    return told


def test_the_mean_case_is_the_one_that_nothing_is_told_of(told_model) -> None:
    x, times = torch.randn(2, 2, 4, 4, 4), torch.tensor([3.0, 500.0])
    plain = told_model.denoiser(x, times)
    assert torch.equal(told_model.denoiser(x, times, appearance=torch.zeros(2, 3)), plain)
    assert not torch.allclose(told_model.denoiser(x, times, appearance=torch.ones(2, 3)), plain, atol=1e-3)
    with pytest.raises(ValueError, match=r"appearance has shape \(2, 4\): \(2, 3\) is needed"):
        told_model.denoiser(x, times, appearance=torch.zeros(2, 4))


def test_a_model_that_is_not_told_has_nothing_of_it(make_model) -> None:
    model = make_model()
    assert model.appearance_of(torch.zeros(1, 3, 4, 4, 4)) is None and model.draw_appearance([0]) is None
    assert not any("appearance" in name for name in model.state_dict())
    with pytest.raises(ValueError, match="leave it out, or set appearance_channels of the network"):
        model.denoiser(torch.zeros(1, 3, 4, 4, 4), torch.zeros(1), appearance=torch.zeros(1, 2))


def test_it_travels_in_the_checkpoint(told_model, tmp_path) -> None:
    config, file = LatentDiffusionConfig(), tmp_path / "model.safetensors"
    save_checkpoint(file, *describe_latent_diffusion(told_model, config)())
    loaded, _, _ = load_latent_diffusion(file)
    assert torch.equal(loaded.draw_appearance([4]), told_model.draw_appearance([4]))
    latents = torch.randn(2, 2, 4, 4, 4)
    assert torch.equal(loaded.appearance_of(latents), told_model.appearance_of(latents))


def test_sampling_draws_it_from_each_volumes_seed_and_tells_all_steps(told_model, monkeypatch) -> None:
    told = listen(told_model, monkeypatch)
    sampler = LatentDiffusionSampler(told_model, LatentDiffusionConfig(prediction_type="v_prediction"))
    sampler.sample((1, 2, 4, 4, 4), indices=[5], seed=7, num_steps=3)
    expected = told_model.draw_appearance([appearance_seed(volume_seed(7, 5))])
    assert len(told) == 3 and all(torch.equal(each, expected) for each in told)
    assert expected.abs().max() > 0


def test_what_is_kept_or_begun_from_says_what_it_looks_like(told_model, monkeypatch) -> None:
    told = listen(told_model, monkeypatch)
    sampler = LatentDiffusionSampler(told_model, LatentDiffusionConfig(prediction_type="v_prediction"))
    latents = 1 + 2 * torch.randn(1, 2, 4, 4, 4)
    expected = told_model.appearance_of(latents)
    mask = InpaintingMask(original=latents, is_kept=torch.ones(1, 1, 4, 4, 4, dtype=torch.bool))
    sampler.sample_latents(latents.shape, inpainting=mask)
    sampler.sample_latents(latents.shape, start=PartialStart(latents=latents, strength=0.5))
    sampler.denoise(latents, torch.randn_like(latents), level=1.0, num_steps=2)
    sampler.invert(latents)
    assert len(told) > 20 and all(torch.equal(each, expected) for each in told)


def test_training_tells_what_the_clean_latents_look_like(told_model, monkeypatch) -> None:
    told = listen(told_model, monkeypatch)
    task = DenoisingTask(told_model, LatentDiffusionConfig())
    x_0 = torch.randn(2, 2, 4, 4, 4)
    task.loss(told_model.denoiser, x_0, None, t=torch.tensor([900, 3]), noise=torch.randn_like(x_0))
    torch.testing.assert_close(told, [told_model.appearance_of(x_0)])
    assert count_statistics(2) == len(told_model.appearance_mean) == 10
