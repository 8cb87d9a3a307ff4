"""Random views of a volume that leave the patient recognisable: shift, crop, flip, contrast and noise."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from medldm.configs import Config


@dataclass(kw_only=True)
class AugmentationConfig(Config):
    """How far views differ.

    Args:
        shift: largest, as a share of each axis' length.
        smallest_crop: share of each axis that a view shows at least; it is enlarged to the whole size.
        flip_probability: of a left-right flip.
        contrast: largest |log gamma|, and largest relative change of gain.
        noise: largest standard deviation, in standard deviations of the volume.
    """

    shift: float = 0.08
    smallest_crop: float = 0.9
    flip_probability: float = 0.0
    contrast: float = 0.4
    noise: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("[0, 1)", "shift", "contrast")
        self.require("(0, 1]", "smallest_crop")
        self.require("[0, 1]", "flip_probability")
        self.require("[0, inf)", "noise")


def augment(volumes: Tensor, config: AugmentationConfig, *, generator: torch.Generator) -> Tensor:
    """Return one random view of each volume.

    Args:
        volumes: (B, 1, X, Y, Z), each with mean 0 and standard deviation 1.
        config: how far views differ.
        generator: of all random numbers.

    Returns:
        (B, 1, X, Y, Z).
    """
    moved = move(volumes, config, generator=generator)
    changed = change_contrast(moved, config, generator=generator)
    amount = config.noise * _uniform(len(volumes), 0, 1, generator)
    return changed + amount * torch.randn(volumes.shape, generator=generator)


def move(volumes: Tensor, config: AugmentationConfig, *, generator: torch.Generator) -> Tensor:
    """Shift, crop and flip along X in one interpolation; beyond the border its value is repeated."""
    n = len(volumes)
    zoom = config.smallest_crop + (1 - config.smallest_crop) * torch.rand((n, 3), generator=generator)
    offset = 2 * config.shift * (2 * torch.rand((n, 3), generator=generator) - 1)
    flip = torch.rand(n, generator=generator) < config.flip_probability
    zoom[:, 0] = torch.where(flip, -zoom[:, 0], zoom[:, 0])
    # grid_sample counts axes from the last: its x is our Z.
    affine = torch.cat([torch.diag_embed(zoom.flip(1)), offset.flip(1)[:, :, None]], dim=2)
    grid = F.affine_grid(affine, list(volumes.shape), align_corners=False)
    return F.grid_sample(volumes, grid, padding_mode="border", align_corners=False)


def change_contrast(volumes: Tensor, config: AugmentationConfig, *, generator: torch.Generator) -> Tensor:
    """Apply a random gamma between each volume's own extremes, then a random gain and offset."""
    n = len(volumes)
    low, high = volumes.amin((1, 2, 3, 4), keepdim=True), volumes.amax((1, 2, 3, 4), keepdim=True)
    gamma = torch.exp(config.contrast * _uniform(n, -1, 1, generator))
    bent = low + (high - low) * ((volumes - low) / (high - low).clamp(min=1e-6)) ** gamma
    gain = 1 + config.contrast * _uniform(n, -1, 1, generator)
    return gain * bent + config.contrast * _uniform(n, -1, 1, generator)


def _uniform(n: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand((n, 1, 1, 1, 1), generator=generator)
