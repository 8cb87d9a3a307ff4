"""What a case looks like as a whole: a few numbers that a denoiser is told, and how they vary in a cohort.

    a = B (s(x_0) - m),        in sampling a ~ N(0, 1)

s are the statistics of the clean standardised latents x_0 (level, spread and grain of each channel, see
`channel_statistics`), m their mean over the training cases, and the rows of B their first principal
components, divided by their standard deviations: brightness, contrast and noise, which scanners and
reconstructions differ in. A denoiser sees them through noise that hides the finest detail until the last
steps, and makes all volumes alike; told of them, it keeps to what was drawn from the first step on.

Kin: Podell et al. 2024, "SDXL", Section 2.2, which tells a model size and crop of an image.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from medldm.networks.embeddings import channel_statistics

MOST = 2.5
"""Standard deviations from the mean beyond which nothing is drawn: beyond it no training case taught much."""
_LEAST_SD = 1e-4
"""A component that varies less than this tells nothing, and is 0 in all cases."""


def count_statistics(latent_channels: int, *, spatial_dims: int = 3) -> int:
    """Return how many statistics latents have."""
    return latent_channels * (2 + spatial_dims)


def measure_appearance(latents: Iterable[Tensor], n_components: int) -> tuple[Tensor, Tensor]:
    """Return the mean (n,) of the statistics of a cohort, and their components (n_components, n), float64.

    Rows that a cohort has too few cases for are 0.

    Args:
        latents: (C, x, y, z) standardised, of each case.
        n_components: how many numbers say what a case looks like.

    Examples:
        >>> cases = [sd * torch.randn(1, 8, 8, 8) for sd in (0.5, 1.0, 2.0)]
        >>> mean, basis = measure_appearance(cases, 2)
        >>> mean.shape, basis.shape
        (torch.Size([5]), torch.Size([2, 5]))
    """
    statistics = torch.stack([channel_statistics(each.double()) for each in latents])
    mean = statistics.mean(0)
    _, values, rows = torch.linalg.svd(statistics - mean, full_matrices=False)
    deviations = values / len(statistics) ** 0.5
    basis = torch.zeros(n_components, len(mean), dtype=torch.float64)
    for number in range(min(n_components, len(deviations))):
        if deviations[number] > _LEAST_SD:
            # The sign of a component is free: its largest entry shall be above 0, on all machines.
            row = rows[number] * rows[number][rows[number].abs().argmax()].sign()
            basis[number] = row / deviations[number]
    return mean, basis


def appearance_of(latents: Tensor, mean: Tensor, basis: Tensor) -> Tensor:
    """Return what standardised latents (B, C, x, y, z) look like, (B, n_components) float32."""
    statistics = torch.stack([channel_statistics(sample.float()) for sample in latents])
    # Added up here, not by a matrix product, which autocast would round.
    return ((statistics - mean.float())[:, None] * basis.float()).sum(2)


def draw_appearance(basis: Tensor, seeds: Sequence[int]) -> Tensor:
    """Draw what samples shall look like, (B, n_components) float32, each from its own seed.

    Args:
        basis: of `measure_appearance`.
        seeds: one for each sample.
    """
    drawn = [torch.randn(len(basis), generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    told = torch.stack(drawn).clamp(-MOST, MOST).to(basis.device)
    return told * basis.any(dim=1)
