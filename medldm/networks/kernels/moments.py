"""Mean and variance of a map's channels, gathered tile by tile, and the normalisation that they give."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_PART = 2**14
"""About as many voxels have their moments taken in float32 at a time."""


class Moments:
    """Mean and variance of each channel over all tiles seen: of planes in float32, joined in float64."""

    def __init__(self) -> None:
        self._parts: list[tuple[int, Tensor, Tensor]] = []

    def see(self, tile: Tensor) -> Tensor:
        """Add a tile (B, C, X, Y, Z) to the moments and return it."""
        n_planes = max(1, _PART // tile[0, 0, 0].numel())
        for part in tile.split(n_planes, dim=2):
            of_samples = [
                torch.batch_norm_update_stats(each, *_no_moments(each), 0.0) for each in part.split(1)
            ]
            means, variances = (torch.stack(each).double() for each in zip(*of_samples, strict=True))
            self._parts.append((part[0, 0].numel(), means, variances))
        return tile

    def normaliser(self, norm: nn.GroupNorm, *, silu: bool) -> Callable[[Tensor], Tensor]:
        """Make the function that normalises tiles as `norm` normalises the whole map, and applies SiLU.

        A variance over parts is the mean of their variances and of the squares by which their means differ.
        Once they are known, normalisation by groups is one by channels, which PyTorch computes in one pass.
        """
        counts, means, variances = zip(*self._parts, strict=True)
        shares = torch.tensor(counts, dtype=torch.float64) / sum(counts)
        # (parts, B, groups, channels of a group)
        means, variances = (
            torch.stack(each).unflatten(2, (norm.num_groups, -1)) for each in (means, variances)
        )
        shares = shares.to(means.device).view(-1, 1, 1, 1) / means.shape[3]
        mean = (shares * means).sum((0, 3), keepdim=True)
        variance = (shares * (variances + (means - mean).square())).sum((0, 3))
        moments = [each.repeat_interleave(means.shape[3], dim=1) for each in (mean[0, ..., 0], variance)]

        def normalise(x: Tensor) -> Tensor:
            dtype = _dtype_of_moments(x)
            weight, bias = norm.weight.to(dtype), norm.bias.to(dtype)
            samples = [
                F.batch_norm(each, m.to(dtype), v.to(dtype), weight, bias, eps=norm.eps)
                for each, m, v in zip(x.split(1), *moments, strict=True)
            ]
            y = samples[0] if len(samples) == 1 else torch.cat(samples)
            return F.silu(y, inplace=True) if silu else y

        return normalise


def _dtype_of_moments(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _no_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Running moments that are not used; their dtype is that in which PyTorch computes and returns others."""
    zeros = torch.zeros(x.shape[1], dtype=_dtype_of_moments(x), device=x.device)
    return zeros, zeros.clone()
