"""How much of the denoiser's error the decoder must forgive: measured, by the spectra of latents.

Real latents with noise of level s = sigma / alpha, denoised, have errors of the denoiser's own: they lack or
invent power at some frequencies, the more the larger s is. Latents that are sampled from noise alone do so to
an extent that is the model's. The level sought is the smallest s whose denoised latents differ from real
ones as much as sampled ones do:

    d(s) = mean over channels and bands of (log P_s - log P_sampled)^2

with P the mean power in a band of frequencies. It is the smallest s of `LEVELS` with

    d(s) <= d_min + TOLERANCE (d(0) - d_min),    d(0) that of the real latents themselves

For a denoiser without error, whose sampled latents have the spectrum of real ones, this is the first of
`LEVELS`; for larger s the decoder would have to guess what the noise has taken from the volume.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

from medldm.conditioning import Conditions
from medldm.runtime.distributed import broadcast_from_first
from medldm.sampling.config import SamplingConfig
from medldm.sampling.sampler import LatentDiffusionSampler
from medldm.seeds import numbered_seed
from medldm.training.decoder.cases import DecoderCases
from medldm.training.denoising_task import DenoisingTask
from medldm.training.precision import autocast
from medldm.training.volumes import gather_conditions

logger = logging.getLogger(__name__)

LEVELS = tuple(float(level) for level in np.geomspace(0.1, 1.6, 9))
"""Levels that are tried, each larger than the one before by a root of 2."""
TOLERANCE = 0.1
N_BANDS = 5
N_CASES = 12
BATCH = 4


class NoiseLevel(nn.Module):
    """Largest noise level of a training, measured when it is first asked for; part of its state.

    Args:
        level: if given, taken as it is.
        measure: else returns it.
    """

    level: Tensor

    def __init__(self, level: float | None = None, *, measure: Callable[[], float] | None = None) -> None:
        super().__init__()
        self.measure = measure
        value = torch.tensor(torch.nan if level is None else level, dtype=torch.float64)
        self.register_buffer("level", value)

    @property
    def value(self) -> float:
        """The level.

        Raises:
            ValueError: if there is none and no way to measure it.
        """
        if bool(self.level.isnan()):
            if self.measure is None:
                raise ValueError("there is neither a noise level nor what measures it")
            measured = torch.tensor(self.measure(), dtype=torch.float64)
            self.level.copy_(broadcast_from_first(measured))
        return float(self.level)


def measure_level(
    sampler: LatentDiffusionSampler,
    cases: DecoderCases,
    *,
    denoising_steps: int,
    precision: str = "float32",
    seed: int = 0,
) -> float:
    """Return the noise level that belongs to a denoiser's errors, see above.

    Args:
        sampler: of the trained model.
        cases: that the denoiser was not trained on; the first `N_CASES` are taken, with their conditions.
        denoising_steps: as in the training of the decoder.
        precision: of autocast.
        seed: of noise and samples.
    """
    batches = list(_batches(sampler, cases, seed=seed))
    device = sampler.model.latent_shift.device
    settings = SamplingConfig(seed=seed)
    with torch.no_grad(), autocast(device, precision):
        sampled = []
        for number, (real, _, conditions) in enumerate(batches):
            indices = range(number * BATCH, number * BATCH + len(real))
            sampled.append(
                sampler.sample_latents(real.shape, conditions=conditions, indices=indices, settings=settings)
            )

        def denoised(level: float) -> list[Tensor]:
            return [
                sampler.denoise(real, noise, level=level, num_steps=denoising_steps, conditions=conditions)
                for real, noise, conditions in batches
            ]

        found = match_level(denoised, [real for real, _, _ in batches], sampled)
        error = [each - real for each, (real, _, _) in zip(denoised(found), batches, strict=True)]
    rms = torch.cat(error).float().square().mean(dim=(0, 2, 3, 4)).sqrt()
    logger.info(
        "the denoiser's errors are those at a noise level of %.3g: %s of the latents' standard deviation",
        *(found, ", ".join(f"{float(value):.2g}" for value in rms)),
    )
    return found


def match_level(
    denoised: Callable[[float], Sequence[Tensor]],
    real: Sequence[Tensor],
    sampled: Sequence[Tensor],
    *,
    levels: Sequence[float] = LEVELS,
) -> float:
    """Return the smallest level whose denoised latents have the spectra of sampled ones, see above.

    Args:
        denoised: returns what is made of the real latents at a level.
        real: batches (B, C, x, y, z).
        sampled: batches of the same shapes.
        levels: that are tried, rising.
    """
    wanted = log_spectra(sampled)

    def distance(latents: Sequence[Tensor]) -> float:
        return float((log_spectra(latents) - wanted).square().mean())

    at_zero = distance(real)
    distances = [distance(denoised(level)) for level in levels]
    logger.debug("spectral distances %s at %s, %s without noise", distances, levels, at_zero)
    best = min(distances)
    bound = best + TOLERANCE * max(0.0, at_zero - best)
    if best >= at_zero:
        return levels[0]
    return next(level for level, each in zip(levels, distances, strict=True) if each <= bound)


def log_spectra(latents: Sequence[Tensor]) -> Tensor:
    """Return the logarithm of the mean power in bands of frequencies, (C, bands) float64.

    Bands are even in the length of the frequency, up to half a cycle a latent and beyond; the mean of the
    latents is in none, and bands without a frequency are left out.

    Args:
        latents: batches (B, C, x, y, z) of one size.
    """
    size = latents[0].shape[2:]
    grids = torch.meshgrid(*[torch.fft.fftfreq(n, dtype=torch.float64) for n in size], indexing="ij")
    length = torch.stack(grids).square().sum(dim=0).sqrt()
    band = (length * 2 * N_BANDS).long().clamp(max=N_BANDS - 1)
    power = torch.cat(
        [torch.fft.fftn(each.double().cpu(), dim=(2, 3, 4), norm="ortho").abs().square() for each in latents]
    ).mean(dim=0)
    masks = [(band == number) & (length > 0) for number in range(N_BANDS)]
    means = [power[:, mask].mean(dim=1) for mask in masks if bool(mask.any())]
    if not means:
        raise ValueError(f"latents of {tuple(size)} have no frequencies to compare")
    return torch.stack(means, dim=1).clamp(min=1e-12).log()


def _batches(
    sampler: LatentDiffusionSampler, cases: DecoderCases, *, seed: int
) -> Iterator[tuple[Tensor, Tensor, Conditions]]:
    """Give standardised latents, noise and conditions of the first cases."""
    task = DenoisingTask(sampler.model, sampler.config)
    device = sampler.model.latent_shift.device
    n_cases = min(N_CASES, cases.n_cases)
    for first in range(0, n_cases, BATCH):
        numbers = range(first, min(first + BATCH, n_cases))
        batch = default_collate([cases.latents_of(number) for number in numbers])
        generator = torch.Generator().manual_seed(numbered_seed(seed, first))
        latents = task.draw_latents(batch, generator=generator)
        noise = torch.randn(latents.shape, generator=generator).to(device)
        conditions = gather_conditions(batch, sampler.denoiser.conditioning.names).to(device)
        yield latents, noise, conditions
