"""How much smaller per axis a latent grid is than its volume, and which level changes which axis.

Small factors belong to axes of thick slices. The finest levels therefore halve the axes of large factors
alone, until what is left to halve is the same on all axes: voxels of 1 x 1 x 2 mm with factors 4 x 4 x 2
become 2 x 2 x 2 mm, then 4 x 4 x 4 mm.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from medldm.errors import ConfigError


def check_factors(owner: str, factors: Sequence[int], *, spatial_dims: int, largest: int) -> None:
    """Raise ConfigError unless each axis has a factor, a power of two, the largest being `largest`."""
    is_power = all(factor >= 1 and factor & (factor - 1) == 0 for factor in factors)
    if len(factors) != spatial_dims or not is_power:
        raise ConfigError(
            f"{owner}: downsampling is {tuple(factors)}: give a power of two for each of the "
            f"{spatial_dims} axes, such as [4, 4, 2]"
        )
    if max(factors) != largest:
        raise ConfigError(
            f"{owner}: downsampling is {tuple(factors)}, but the levels of down_channels give {largest} on "
            f"the axis that shrinks most: make the largest factor {largest}, or give other down_channels "
            "(a level more doubles it)"
        )


def factors_for_spacing(spacing_mm: Sequence[float], largest: int) -> tuple[int, ...]:
    """Return the factors per axis that make latents nearest to cubes: the thicker an axis, the smaller.

    Args:
        spacing_mm: edges of a voxel.
        largest: factor of the finest axis, a power of two.

    Examples:
        >>> factors_for_spacing((0.4, 0.4, 5.0), 4), factors_for_spacing((1.0, 1.0, 2.0), 4)
        ((4, 4, 1), (4, 4, 2))
    """
    finest = min(spacing_mm)
    return tuple(max(1, largest >> round(math.log2(edge / finest))) for edge in spacing_mm)


def strides_of(factors: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Return the strides per axis, 1 or 2, of the changes between levels, finest first.

    Examples:
        >>> strides_of((4, 4, 2))
        ((2, 2, 1), (2, 2, 2))
        >>> strides_of((8, 8, 1))
        ((2, 2, 1), (2, 2, 1), (2, 2, 1))
    """
    halvings = [factor.bit_length() - 1 for factor in factors]
    return tuple(tuple(1 + (n >= left) for n in halvings) for left in range(max(halvings), 0, -1))


def latent_size(size: Sequence[int], downsampling: Sequence[int]) -> tuple[int, ...]:
    """Return the latent grid (x, y, z) of a volume of `size` voxels: x = ceil(X / factor)."""
    return tuple(-(-n // factor) for n, factor in zip(size, downsampling, strict=True))
