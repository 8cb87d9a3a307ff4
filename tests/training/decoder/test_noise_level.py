"""The measured noise level against denoisers whose errors are known in closed form."""

from __future__ import annotations

import itertools

import pytest
import torch

from medldm.training.decoder.noise_level import LEVELS, NoiseLevel, log_spectra, match_level

SIZE = (12, 10, 8)


def frequency(size=SIZE) -> torch.Tensor:
    grids = torch.meshgrid(*[torch.fft.fftfreq(n, dtype=torch.float64) for n in size], indexing="ij")
    return torch.stack(grids).square().sum(dim=0).sqrt()


def filtered(white: torch.Tensor, gain: torch.Tensor) -> torch.Tensor:
    return torch.fft.ifftn(torch.fft.fftn(white, dim=(2, 3, 4)) * gain, dim=(2, 3, 4)).real


def white(seed: int, n: int = 16) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 2, *SIZE, generator=generator, dtype=torch.float64)


POWER = 1 / (1 + (4 * frequency()) ** 4)
"""Spectrum P of the latents."""


def test_bands_hold_the_power_that_was_put_in() -> None:
    gain = torch.stack([torch.ones(SIZE), 3 * torch.ones(SIZE)]).double()
    found = log_spectra([white(0, n=300) * gain, white(1, n=300) * gain])
    assert found.shape == (2, 5)
    assert torch.allclose(found[0], torch.zeros(5, dtype=torch.float64), atol=0.15)
    assert torch.allclose(found[1], torch.full((5,), 9.0, dtype=torch.float64).log(), atol=0.15)


def test_the_mean_of_latents_is_in_no_band() -> None:
    assert torch.allclose(log_spectra([white(0)]), log_spectra([white(0) + 7]), atol=1e-6)


@pytest.mark.parametrize("truth", LEVELS[1:7])
def test_the_level_of_a_denoiser_that_smooths_is_recovered(truth) -> None:
    """The best estimate of Gaussian latents is Wiener's, whose spectrum is P^2 / (P + s^2).

    A model whose samples have that spectrum at a level errs as its denoiser does there.
    """
    real = [filtered(white(2), POWER.sqrt())]
    sampled = [filtered(white(3), (POWER**2 / (POWER + truth**2)).sqrt())]

    def denoised(level: float) -> list[torch.Tensor]:
        return [filtered(real[0] + level * white(4), POWER / (POWER + level**2))]

    found = match_level(denoised, real, sampled)
    assert abs(LEVELS.index(found) - LEVELS.index(truth)) <= 1


def test_the_level_of_a_denoiser_that_invents_is_recovered() -> None:
    """It leaves all noise up to a level on the latents, and samples have as much."""
    real, truth = [filtered(white(2), POWER.sqrt())], LEVELS[4]
    sampled = [filtered(white(3), POWER.sqrt()) + truth * white(5)]

    def denoised(level: float) -> list[torch.Tensor]:
        return [real[0] + min(level, truth) * white(4)]

    found = match_level(denoised, real, sampled)
    assert abs(LEVELS.index(found) - LEVELS.index(truth)) <= 1


def test_without_errors_it_is_the_smallest() -> None:
    real, sampled = [filtered(white(2), POWER.sqrt())], [filtered(white(3), POWER.sqrt())]
    assert match_level(lambda level: real, real, sampled) == LEVELS[0]


def test_a_level_is_measured_once_and_kept_with_the_state() -> None:
    counter = itertools.count(1)
    level = NoiseLevel(measure=lambda: float(next(counter)))
    assert (level.value, level.value) == (1.0, 1.0)
    other = NoiseLevel(measure=lambda: float(next(counter)))
    other.load_state_dict(level.state_dict())
    assert other.value == 1.0
    assert NoiseLevel(0.3).value == 0.3
    with pytest.raises(ValueError, match="neither a noise level"):
        _ = NoiseLevel().value
