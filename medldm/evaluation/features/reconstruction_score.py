"""What the autoencoder alone gives away: its error on a case, less the case's own difficulty.

An autoencoder that remembers reconstructs its training cases better than others. Cases differ in detail and
noise, whoever was trained on, so that the error is compared with that of a reference without any memory:
each cell of the latent grid replaced by its mean.

    score = log(mean squared error of the cells' means) - log(mean squared error of the autoencoder)       (1)
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from medldm.evaluation.cases.model_cases import ModelCase
from medldm.latent_diffusion.model import LatentDiffusionModel


def make_reconstruction_score(model: LatentDiffusionModel) -> Callable[[ModelCase], float]:
    """Return a function from a case to Eq. (1); higher means more likely a member.

    Args:
        model: in evaluation mode.
    """
    cell = tuple(model.autoencoder.downsampling)

    @torch.no_grad()
    def score(case: ModelCase) -> float:
        volume = case.volume.to(model.latent_shift.device)
        return reconstruction_score(volume, model.reconstruct(volume), cell=cell)

    return score


def reconstruction_score(volume: Tensor, reconstruction: Tensor, *, cell: tuple[int, ...]) -> float:
    """Return Eq. (1) of one volume.

    Args:
        volume: (1, C, X, Y, Z).
        reconstruction: of the same shape.
        cell: voxels of a cell of the latent grid along each axis.
    """
    coarse = F.avg_pool3d(volume, cell, ceil_mode=True, count_include_pad=False)
    for axis, size in enumerate(cell):
        coarse = coarse.repeat_interleave(size, dim=2 + axis)
    x, y, z = volume.shape[2:]
    errors = (
        (coarse[..., :x, :y, :z] - volume).double().square().mean(),
        (reconstruction - volume).double().square().mean(),
    )
    simple, own = (math.log(max(float(each), 1e-12)) for each in errors)
    return simple - own
