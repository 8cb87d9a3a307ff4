"""Cosine modes of latents, and what a factor for each of them does.

The orthonormal DCT-II keeps white noise white, and its modes are close to the principal components of a
stationary random field, without the periodic border of a Fourier transform. Mode 0 is the mean of a channel.

Source: Ahmed, Natarajan and Rao 1974, "Discrete Cosine Transform".
"""

from __future__ import annotations

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor


def to_modes(x: Tensor) -> Tensor:
    """Return the coefficients (..., X, Y, Z) of the modes of x, in x's dtype."""
    return _along_axes(x, is_inverse=False)


def from_modes(modes: Tensor) -> Tensor:
    """Invert `to_modes`."""
    return _along_axes(modes, is_inverse=True)


def scale_modes(x: Tensor, factors: Tensor) -> Tensor:
    """Multiply each mode by its factor.

    Args:
        x: (B, C, X, Y, Z).
        factors: (B or 1, C, X, Y, Z).
    """
    return from_modes(to_modes(x) * factors.to(x))


def resize_modes(values: Tensor, size: tuple[int, ...]) -> Tensor:
    """Bring values of the modes of one grid to another: those of the same wavelength in voxels.

    Args:
        values: (C, X, Y, Z), above 0; they are interpolated as logarithms.
        size: of the other grid.
    """
    if tuple(values.shape[1:]) == tuple(size):
        return values
    # Mode k of n has wavelength 2 n / k: corners stay, mode 0 too.
    grids = [torch.arange(n, dtype=values.dtype, device=values.device) / n for n in size]
    scaled = [
        (grid * old).clamp(max=old - 1) * 2 / max(1, old - 1) - 1
        for grid, old in zip(grids, values.shape[1:], strict=True)
    ]
    points = torch.stack(torch.meshgrid(*scaled, indexing="ij")[::-1], dim=-1)
    found = F.grid_sample(values.log()[None], points[None], align_corners=True, padding_mode="border")
    return found[0].exp()


@functools.lru_cache(maxsize=32)
def _cosines(n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the orthonormal DCT-II (n, n): row k is mode k."""
    k, i = torch.arange(n, dtype=torch.float64)[:, None], torch.arange(n, dtype=torch.float64)
    rows = math.sqrt(2 / n) * torch.cos(math.pi / n * (i + 0.5) * k)
    rows[0] /= math.sqrt(2)
    return rows.to(dtype=dtype, device=device)


def _along_axes(x: Tensor, *, is_inverse: bool) -> Tensor:
    """Apply the transform to the last three axes; autocast would round it."""
    with torch.autocast(x.device.type, enabled=False):
        for axis in (-3, -2, -1):
            rows = _cosines(x.shape[axis], x.dtype, x.device)
            x = (x.movedim(axis, -1) @ (rows if is_inverse else rows.T)).movedim(-1, axis)
    return x
