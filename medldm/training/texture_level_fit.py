"""Fit how strong the texture of a volume is, from case to case; see `medldm.latent_diffusion.texture_levels`.

A case's level is the energy of its residual over what the scales predict of it, and 1 for all cases together.
Its log L_i is known with an error of variance v_i, that of a ratio estimator
over blocks of the volume (Cochran 1977, Sampling Techniques, Chapter 6).

Slope. L is regressed on p by least squares, and the slope multiplied by 1 - 1 / F, at least 0, with the F
statistic of the regression (van Houwelingen and Le Cessie 1990): a slope that chance explains is none. With
fewer than 8 cases it is 0. p is measured in volumes as the sampler makes them, see `fit_levels`.

Spread. The rests r_i have the covariance

    tau^2 = max(0, sum_i r_i^2 - (1 - 1 / n) sum_i v_i) / (n + 1), at most (log 2)^2                  Eq. (1)

Without n + 1 for n - 1 this is the estimator of moments of DerSimonian and Laird 1986, of equal weights; with
it, it has the smallest mean square error for normal rests, and stays small where cases are few: one scan that
is noisy among three says little. Between channels the sums are of products, without v.

Offset. So that texture keeps its energy, the expected energy of the cases is that of their residuals.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from medldm.latent_diffusion.texture_levels import TextureLevels

MIN_CASES = 3
"""With fewer all cases have one level."""
MIN_CASES_FOR_SLOPE = 8
LARGEST_SPREAD = math.log(2)
BLOCK = 8
"""Edge of the blocks, in voxels."""


def fit_levels(residual: Tensor, predicted: Tensor, errors: Tensor, detail: Tensor) -> TextureLevels | None:
    """Return the distribution of levels of some cases, None for fewer than 3.

    Args:
        residual: (N, C) energy of each case's residual, float64.
        predicted: (N, C) what the scales predict of it.
        errors: (N, C) variance v of the log of residual over predicted.
        detail: (N, C), p of each case: of its reconstruction, or better of a volume that the sampler made
            from what it has left of the case after noise. What a denoiser forgets predicts nothing then.
    """
    # A channel of one case without any texture says nothing of the case.
    is_known = (residual > 0) & (predicted > 0) & detail.isfinite()
    known = is_known.all(dim=1)
    if int(known.sum()) < MIN_CASES:
        return None
    residual, predicted, errors, detail = (
        each[known].double() for each in (residual, predicted, errors, detail)
    )
    logs = (residual / predicted).log() - (residual.sum(0) / predicted.sum(0)).log()
    centre, middle = detail.mean(0), logs.mean(0)
    slope = torch.stack([_slope(p, own) for p, own in zip((detail - centre).T, logs.T, strict=True)])
    rests = logs - middle - slope * (detail - centre)
    covariance = _covariance(rests, errors)
    told = slope * (detail - centre) + covariance.diagonal() / 2
    offset = (predicted.sum(0) / (predicted * told.exp()).sum(0)).log()
    return TextureLevels(
        offset=offset.float(),
        slope=slope.float(),
        centre=centre.float(),
        low=detail.amin(0).float(),
        high=detail.amax(0).float(),
        root=_root(covariance).float(),
    )


def energies_of(residual: Tensor, predicted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the energy of a channel's residual, what is predicted of it, and their log ratio's variance.

    Args:
        residual: (X, Y, Z) squares, 0 where voxels do not count.
        predicted: (X, Y, Z) likewise.
    """
    edge = [max(min(BLOCK, n // 2), 1) for n in residual.shape]
    over, under = (
        F.avg_pool3d(each.double()[None, None], edge, ceil_mode=True, divisor_override=1).flatten()
        for each in (residual, predicted)
    )
    used = under > 0
    over, under = over[used], under[used]
    n, total, expected = len(over), over.sum(), under.sum()
    if n < 2 or not bool(total > 0):
        return total, expected, torch.zeros((), dtype=torch.float64)
    return total, expected, (over / total - under / expected).square().sum() * n / (n - 1)


def _slope(p: Tensor, logs: Tensor) -> Tensor:
    """Return the shrunk slope of logs (N,) over p (N,), which has the mean 0."""
    n, squares = len(p), p.square().sum()
    none = torch.zeros((), dtype=torch.float64)
    if n < MIN_CASES_FOR_SLOPE or squares <= 1e-12 * n:
        return none
    slope = (p * logs).sum() / squares
    rest = (logs - logs.mean() - slope * p).square().sum() / (n - 2)
    explained = slope.square() * squares
    return slope * (1 - rest / explained).clamp(min=0) if explained > 0 else none


def _covariance(rests: Tensor, errors: Tensor) -> Tensor:
    """Return Eq. (1) of rests (N, C), (C, C)."""
    n = len(rests)
    products = rests.T @ rests - torch.diag((1 - 1 / n) * errors.sum(0))
    values, vectors = torch.linalg.eigh(products / (n + 1))
    covariance = (vectors * values.clamp(min=0)) @ vectors.T
    bound = (LARGEST_SPREAD / covariance.diagonal().sqrt().clamp(min=1e-12)).clamp(max=1)
    return covariance * bound * bound[:, None]


def _root(covariance: Tensor) -> Tensor:
    """Return the symmetric root."""
    values, vectors = torch.linalg.eigh(covariance)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T


def stack(rows: Sequence[Sequence[Tensor]]) -> Tensor:
    """Return (N, C) of N rows of C scalars."""
    return torch.stack([torch.stack(list(row)) for row in rows])
