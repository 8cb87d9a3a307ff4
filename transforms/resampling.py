"""Separable resampling of intensities: linear or cubic B-spline, smoothed where an axis becomes coarser.

An output position along an axis is `p = start + step * j` in input voxels, j = 0..n_out-1. Each output voxel
is a weighted sum of a few input voxels along that axis, so that a volume is resampled one axis after the
other. Positions outside the grid take the nearest edge voxel (linear) or its mirror image (B-spline). Few
weights stand in each row of the (n_out, n_in) matrix of an axis, next to each other; blocks of rows are
multiplied by BLAS with the input voxels they reach, which is faster than gathering. NumPy's product is used
because PyTorch's may be switched to a lower precision from outside (autocast, float32 matmul precision).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.ndimage import spline_filter1d

Interpolation = Literal["linear", "bspline"]
Alignment = Literal["centre", "first_voxel"]
INTERPOLATIONS: tuple[Interpolation, ...] = ("linear", "bspline")
ALIGNMENTS: tuple[Alignment, ...] = ("centre", "first_voxel")

_BLOCK_ROWS = 16


@dataclass(frozen=True, kw_only=True)
class AxisGrid:
    """The output grid along one axis, in input voxels: `start + step * j`, `n_out` of them over `n_in`."""

    n_in: int
    n_out: int
    start: float
    step: float

    @property
    def is_identity(self) -> bool:
        """Whether the output voxels are the input voxels."""
        return self.n_in == self.n_out and self.start == 0.0 and self.step == 1.0

    def inverted(self) -> AxisGrid:
        """Return the grid that leads back."""
        return AxisGrid(n_in=self.n_out, n_out=self.n_in, start=-self.start / self.step, step=1.0 / self.step)


Grids = tuple[AxisGrid, ...]


def spacing_grids(
    shape: tuple[int, ...], spacing: np.ndarray, *, target: np.ndarray, align: Alignment = "centre"
) -> Grids:
    """Lay the output grid of a change of spacing.

    Args:
        shape: (X, Y, Z) voxels.
        spacing: (3,) mm, present.
        target: (3,) mm, wanted.
        align: "centre" keeps the centre of the field of view (n = round(extent / target)); "first_voxel"
            keeps the centre of the first voxel (n = round((n_in - 1) / step) + 1, as MONAI's Spacing).
    """
    grids = []
    for n_in, old, new in zip(shape, spacing, target, strict=True):
        step = float(new / old)
        if align == "centre":
            n_out = max(1, round(n_in / step))
            start = (n_in - 1) / 2 - step * (n_out - 1) / 2
        else:
            n_out = round((n_in - 1) / step) + 1
            start = 0.0
        grids.append(AxisGrid(n_in=n_in, n_out=n_out, start=start, step=step))
    return tuple(grids)


def grid_affine(affine: np.ndarray, grids: Grids) -> np.ndarray:
    """Return the (4, 4) affine of the output grid."""
    to_input = np.diag([*(grid.step for grid in grids), 1.0])
    to_input[:3, 3] = [grid.start for grid in grids]
    return affine @ to_input


def resample_image(
    volume: np.ndarray, grids: Grids, *, interpolation: Interpolation = "linear", anti_aliasing: bool = True
) -> np.ndarray:
    """Resample intensities.

    Args:
        volume: (X, Y, Z) float32.
        grids: one for each axis.
        interpolation: "linear", or "bspline" (cubic B-spline through the voxels).
        anti_aliasing: widen the kernel by the step where an axis becomes coarser.

    Returns:
        (X', Y', Z') float32, C order.
    """
    volume = np.ascontiguousarray(volume, dtype=np.float32)
    if interpolation == "bspline":
        volume = _spline_coefficients(volume, grids)
    along_x, along_y, along_z = (
        _blocks(grid, interpolation=interpolation, anti_aliasing=anti_aliasing) for grid in grids
    )
    result = np.empty(tuple(grid.n_out for grid in grids), dtype=np.float32)
    # All three axes of a few planes at a time: what lies between them stays in the cache and takes no memory.
    for block in along_x:
        planes = volume[block.inputs].reshape(block.matrix.shape[1], -1)
        part = np.matmul(block.matrix, planes).reshape(-1, *volume.shape[1:])
        result[block.rows] = _along_z(_along_y(part, along_y), along_z)
    return result


def kernel_table(
    grid: AxisGrid, *, interpolation: Interpolation, width: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Tabulate which input voxels make each output voxel.

    Args:
        grid: the axis.
        interpolation: a tent of half-width 1, or the cubic B-spline of half-width 2.
        width: factor on the half-width; over 1 it smooths against aliasing.

    Returns:
        (n_out, n_taps) input indices, int64; (n_out, n_taps) weights, float64, each row summing to one.
    """
    half = width * (1.0 if interpolation == "linear" else 2.0)
    position = grid.start + grid.step * np.arange(grid.n_out)
    first = np.floor(position - half).astype(np.int64) + 1
    index = first[:, None] + np.arange(int(np.ceil(2 * half)))[None, :]
    distance = np.abs(index - position[:, None]) / width
    weight = np.clip(1.0 - distance, 0.0, None) if interpolation == "linear" else _cubic_b_spline(distance)
    weight /= weight.sum(axis=1, keepdims=True)
    return _into_grid(index, grid.n_in, is_mirrored=interpolation == "bspline"), weight


def _cubic_b_spline(distance: np.ndarray) -> np.ndarray:
    """beta_3: 2/3 - d^2 + d^3 / 2 below 1, (2 - d)^3 / 6 below 2 (Unser et al., IEEE TSP 41, 1993)."""
    near = 2.0 / 3.0 - distance**2 + distance**3 / 2.0
    far = np.clip(2.0 - distance, 0.0, None) ** 3 / 6.0
    return np.where(distance < 1.0, near, far)


def _into_grid(index: np.ndarray, size: int, *, is_mirrored: bool) -> np.ndarray:
    if not is_mirrored or size == 1:
        return np.clip(index, 0, size - 1)
    period = 2 * (size - 1)
    folded = np.abs(index) % period
    return np.minimum(folded, period - folded)


def _spline_coefficients(volume: np.ndarray, grids: Grids) -> np.ndarray:
    """Prefilter the axes that are interpolated; voxels on their own positions need none."""
    for axis, grid in enumerate(grids):
        if not grid.is_identity and volume.shape[axis] > 1:
            volume = spline_filter1d(volume, order=3, axis=axis, output=np.float32, mode="mirror")
    return volume


@dataclass(frozen=True, kw_only=True)
class _Block:
    """A few output voxels of an axis: the input voxels they reach, and the weights between the two."""

    rows: slice
    inputs: slice
    matrix: np.ndarray


def _blocks(grid: AxisGrid, *, interpolation: Interpolation, anti_aliasing: bool) -> list[_Block]:
    if grid.is_identity:
        index, weight = np.arange(grid.n_in)[:, None], np.ones((grid.n_in, 1))
    else:
        width = max(1.0, grid.step) if anti_aliasing else 1.0
        index, weight = kernel_table(grid, interpolation=interpolation, width=width)
    blocks = []
    for start in range(0, grid.n_out, _BLOCK_ROWS):
        rows = slice(start, min(start + _BLOCK_ROWS, grid.n_out))
        low, high = int(index[rows].min()), int(index[rows].max()) + 1
        matrix = np.zeros((rows.stop - rows.start, high - low))
        np.add.at(matrix, (np.arange(len(matrix))[:, None], index[rows] - low), weight[rows])
        blocks.append(_Block(rows=rows, inputs=slice(low, high), matrix=matrix.astype(np.float32)))
    return blocks


def _along_y(part: np.ndarray, blocks: list[_Block]) -> np.ndarray:
    result = np.empty((part.shape[0], blocks[-1].rows.stop, part.shape[2]), dtype=np.float32)
    for block in blocks:
        result[:, block.rows] = np.matmul(block.matrix, part[:, block.inputs])
    return result


def _along_z(part: np.ndarray, blocks: list[_Block]) -> np.ndarray:
    lines = part.reshape(-1, part.shape[2])
    result = np.empty((len(lines), blocks[-1].rows.stop), dtype=np.float32)
    for block in blocks:
        result[:, block.rows] = np.matmul(lines[:, block.inputs], block.matrix.T)
    return result.reshape(*part.shape[:2], -1)
