"""Principal components of a cohort's blocks: a transform that needs no training (Karhunen-Loeve).

A volume is cut into blocks of f_x * f_y * f_z voxels, each with all channels a vector v of D values. With the
mean m and the covariance S = sum_i lambda_i b_i b_i^T of the cohort's blocks, lambda_1 >= lambda_2 >= ...,

    z_i = b_i . (v - m),        v' = m + sum_{i <= k} z_i b_i

is, among all linear maps to k values and back, that of the least squared error, which is sum_{i > k} lambda_i
for a block. Encoding is a convolution whose kernel is its stride, decoding its transpose.

Every block counts, those of background too: they must come back as well, and all but the first component and
a common factor of the variances stay as they would be without them, as long as they are constant.

Source: Jolliffe 2002, "Principal Component Analysis", Section 2.1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from medldm.errors import ConfigError


def space_to_depth(x: Tensor, factors: Sequence[int]) -> Tensor:
    """Make each block's voxels channels: (B, C, X, Y[, Z]) -> (B, C f_x f_y[ f_z], X / f_x, ...).

    Args:
        x: sizes are multiples of the factors.
        factors: voxels of a block on each axis.
    """
    n = len(factors)
    cut = [part for size, f in zip(x.shape[2:], factors, strict=True) for part in (size // f, f)]
    inner, outer = [3 + 2 * i for i in range(n)], [2 + 2 * i for i in range(n)]
    blocks = x.reshape(*x.shape[:2], *cut).permute(0, 1, *inner, *outer)
    return blocks.reshape(len(x), -1, *(size // f for size, f in zip(x.shape[2:], factors, strict=True)))


def depth_to_space(x: Tensor, factors: Sequence[int]) -> Tensor:
    """Invert `space_to_depth`."""
    n = len(factors)
    blocks = x.reshape(len(x), -1, *factors, *x.shape[2:])
    order = [axis for i in range(n) for axis in (2 + n + i, 2 + i)]
    sizes = [size * f for size, f in zip(x.shape[2:], factors, strict=True)]
    return blocks.permute(0, 1, *order).reshape(*blocks.shape[:2], *sizes)


@dataclass(frozen=True)
class BlockTransform:
    """The principal components of blocks.

    Args:
        mean: (D,) float64, of a block's values in the order (channel, x, y, z).
        basis: (D, D) float64, orthonormal rows, that of the largest variance first.
        variances: (D,) float64, of the components.
    """

    mean: Tensor
    basis: Tensor
    variances: Tensor


class BlockMoments:
    """Gather mean and covariance of blocks in float64, volume by volume.

    Args:
        channels: of the volumes.
        factors: voxels of a block on each axis.

    Examples:
        >>> moments = BlockMoments(1, (2, 2, 2))
        >>> moments.add(torch.arange(64.0).view(1, 1, 4, 4, 4))
        >>> moments.fit().variances[1:].abs().max() < 1e-9
        tensor(True)
    """

    def __init__(self, channels: int, factors: Sequence[int]) -> None:
        self.factors = tuple(factors)
        n = channels * math.prod(factors)
        self.count = torch.zeros((), dtype=torch.float64)
        self.total = torch.zeros(n, dtype=torch.float64)
        self.products = torch.zeros(n, n, dtype=torch.float64)

    def add(self, volumes: Tensor) -> None:
        """Count the blocks of volumes (B, C, X, Y, Z), whose sizes are multiples of the factors."""
        blocks = space_to_depth(volumes, self.factors).movedim(1, 0).flatten(1).double().cpu()
        self.count += blocks.shape[1]
        self.total += blocks.sum(dim=1)
        self.products += blocks @ blocks.mT

    def tensors(self) -> list[Tensor]:
        """Return what is gathered: sums, so that the moments of parts of a cohort add up to those of all."""
        return [self.count, self.total, self.products]

    def fit(self) -> BlockTransform:
        """Return the principal components.

        Raises:
            ConfigError: if no block was counted.
        """
        if self.count == 0:
            raise ConfigError("there is no volume to fit the linear path to: give training cases")
        mean = self.total / self.count
        variances, vectors = torch.linalg.eigh(self.products / self.count - torch.outer(mean, mean))
        basis = vectors.mT.flip(0)
        # An eigenvector's sign is arbitrary: the value that is largest in size is made positive.
        largest = basis.gather(1, basis.abs().argmax(dim=1, keepdim=True))
        return BlockTransform(mean, basis * largest.sign(), variances.flip(0).clamp(min=0))


def cosine_transform(channels: int, factors: Sequence[int]) -> BlockTransform:
    """Return the cosine transform of blocks, low frequencies first, which needs no cohort.

    Source: Ahmed, Natarajan and Rao 1974, "Discrete Cosine Transform": it is near the principal components of
    smooth signals.
    """
    basis = torch.eye(channels, dtype=torch.float64)
    frequencies = torch.zeros(channels, dtype=torch.float64)
    for n in factors:
        place, k = torch.arange(n, dtype=torch.float64), torch.arange(n, dtype=torch.float64)
        rows = torch.cos(math.pi / n * (place + 0.5) * k[:, None]) * math.sqrt(2 / n)
        rows[0] /= math.sqrt(2)
        basis = torch.kron(basis, rows)
        frequencies = (frequencies[:, None] + k / n).flatten()
    order = frequencies.argsort(stable=True)
    size = len(basis)
    return BlockTransform(
        torch.zeros(size, dtype=torch.float64), basis[order], torch.ones(size, dtype=torch.float64)
    )
