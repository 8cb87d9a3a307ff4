"""A smooth change of shape, and the resampling of images and label maps by it, in one step.

With y a point of the output and x the point of the input that comes to lie there, both in mm from the centre
of the output's grid along its axes:

    y = R S F x + t,    and pulled back with the elastic part:    x = F S^-1 R^T (y + u(y) - t)

R = R_z R_y R_x is a rotation, S a scale along each axis, F a mirror image along the first axis (left and
right in RAS+), t a translation. u is a cubic B-spline over a lattice of control points. It folds nowhere if
no control point is moved by more than 0.4 of the lattice's spacing along an axis.

Source: Rueckert et al., "Nonrigid registration using free-form deformations", IEEE TMI 18 (1999), Eq. 2; Choi
and Lee, "Injectivity conditions of 2D and 3D uniform cubic B-spline functions", Graphical Models 62 (2000),
for the bound (1 / 2.48).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from medldm.errors import ConfigError

MAX_ELASTIC_SHARE = 0.4
"""Of the lattice's spacing: how far a control point may move so that space does not fold."""

_EXTRA_POINTS = 3
_PLANES_VOXELS = 2**20
_TIE = 1e-6


@dataclass(frozen=True, kw_only=True)
class Deformation:
    """Say how a volume is rotated, scaled, moved, bent and mirrored.

    Args:
        rotation_deg: about the axes X, Y and Z, applied in this order.
        scale: factors along X, Y and Z, over 0.
        translation_mm: along X, Y and Z.
        elastic_shares: (3, a, b, c) displacements of control points along the axes, in shares of their
            spacing, at most `MAX_ELASTIC_SHARE`; a, b, c at least 4. The lattice's inner a - 3 cells span the
            output's grid. None bends nothing.
        flip: mirror the first axis.

    Examples:
        >>> Deformation(rotation_deg=(0, 0, 90)).matrix.round(6).tolist()
        [[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
    """

    rotation_deg: tuple[float, float, float] = (0.0, 0.0, 0.0)
    scale: tuple[float, float, float] = (1.0, 1.0, 1.0)
    translation_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    elastic_shares: np.ndarray | None = None
    flip: bool = False

    def __post_init__(self) -> None:
        if min(self.scale) <= 0:
            raise ConfigError(f"scale is {self.scale}: factors over 0 are needed")
        shares = self.elastic_shares
        if shares is None:
            return
        if shares.ndim != 4 or shares.shape[0] != 3 or min(shares.shape[1:]) < _EXTRA_POINTS + 1:
            raise ConfigError(f"elastic_shares have shape {shares.shape}: (3, a, b, c) from 4 on is needed")
        if np.abs(shares).max() > MAX_ELASTIC_SHARE:
            raise ConfigError(
                f"elastic_shares reach {np.abs(shares).max():.3g}: beyond {MAX_ELASTIC_SHARE} space may fold"
            )

    @property
    def matrix(self) -> np.ndarray:
        """R S F, (3, 3): where the axes go."""
        rotation = np.eye(3)
        for axis, degrees in enumerate(self.rotation_deg):
            cosine, sine = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
            turn, (first, second) = np.eye(3), ((1, 2), (2, 0), (0, 1))[axis]
            turn[first, first] = turn[second, second] = cosine
            turn[first, second], turn[second, first] = -sine, sine
            rotation = turn @ rotation
        return rotation @ np.diag(self.scale) @ np.diag([-1.0 if self.flip else 1.0, 1.0, 1.0])

    @property
    def is_identity(self) -> bool:
        """Whether no point moves."""
        is_bent = self.elastic_shares is not None and bool(self.elastic_shares.any())
        return not is_bent and not any(self.translation_mm) and np.array_equal(self.matrix, np.eye(3))


@dataclass(frozen=True, kw_only=True)
class PullGrid:
    """Where the voxels of an output lie in an input.

    Args:
        deformation: between the two.
        size: (X, Y, Z) voxels of the output.
        spacing_mm: of both.
        start: (3,) the input voxel on which the output's first one lies where nothing is deformed.
    """

    deformation: Deformation
    size: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    start: tuple[int, ...] = (0, 0, 0)

    def blocks(self) -> Iterator[tuple[slice, np.ndarray]]:
        """Give the positions (3, x, Y, Z), in input voxels, of a few planes of the output at a time."""
        spacing, centre = np.asarray(self.spacing_mm, float), (np.asarray(self.size) - 1) / 2
        back = np.linalg.inv(self.deformation.matrix)
        n_planes = max(1, _PLANES_VOXELS // max(1, self.size[1] * self.size[2]))
        for first in range(0, self.size[0], n_planes):
            planes = slice(first, min(first + n_planes, self.size[0]))
            axes = (np.arange(planes.start, planes.stop), np.arange(self.size[1]), np.arange(self.size[2]))
            index = np.stack(np.meshgrid(*axes, indexing="ij")).astype(float)
            point = (index - _column(centre)) * _column(spacing) + self._bend(planes)
            point -= _column(self.deformation.translation_mm)
            moved = np.tensordot(back, point, axes=1) / _column(spacing)
            yield planes, moved + _column(centre + np.asarray(self.start))

    def _bend(self, planes: slice) -> np.ndarray:
        """Return u (3, x, Y, Z) in mm."""
        shares = self.deformation.elastic_shares
        if shares is None:
            return np.zeros((3, 1, 1, 1))
        wide = shares.astype(float)
        for axis, n in enumerate(self.size):
            n_cells = wide.shape[axis + 1] - _EXTRA_POINTS
            weights = _lattice_weights(n, n_cells)
            weights = weights[planes] if axis == 0 else weights
            wide = np.moveaxis(np.tensordot(weights, wide, axes=(1, axis + 1)), 0, axis + 1)
        cells = np.asarray(shares.shape[1:]) - _EXTRA_POINTS
        return wide * _column(np.asarray(self.size) * np.asarray(self.spacing_mm) / cells)


def deform_image(volume: np.ndarray, grid: PullGrid, *, order: int = 3, fill: float = -1.0) -> np.ndarray:
    """Resample an image by splines, once.

    A spline through the voxels overshoots beside edges. The result is kept within the range of the 3 x 3 x 3
    input voxels about the nearest one, so that what is constant stays so.

    Args:
        volume: (X, Y, Z) float32.
        grid: of the output.
        order: of the spline, 1 to 5.
        fill: value of what lies outside the input's voxels.

    Returns:
        (X', Y', Z') float32.
    """
    volume = np.ascontiguousarray(volume, np.float32)
    coefficients = volume if order < 2 else ndimage.spline_filter(volume, order, np.float64, mode="mirror")
    lowest, highest = ndimage.minimum_filter(volume, 3), ndimage.maximum_filter(volume, 3)
    result = np.empty(grid.size, np.float32)
    for planes, position in grid.blocks():
        found = ndimage.map_coordinates(
            coefficients, position, np.float32, order=order, mode="mirror", prefilter=False
        )
        near = np.rint(position).astype(np.int64)
        is_inside = _is_inside(near, volume.shape)
        nearest = tuple(np.clip(part, 0, n - 1) for part, n in zip(near, volume.shape, strict=True))
        np.clip(found, lowest[nearest], highest[nearest], out=found)
        result[planes] = np.where(is_inside, found, np.float32(fill))
    return result


def deform_labels(
    labels: np.ndarray, grid: PullGrid, *, mirror: Mapping[int, int] | None = None
) -> np.ndarray:
    """Resample a label map: each structure's indicator linearly, then the one with the largest share.

    In a tie the smaller value wins. What lies outside is background.

    Args:
        labels: (X, Y, Z) integers of at least 0, in any dtype.
        grid: of the output.
        mirror: where the deformation flips, value -> value of the structure on the other side.

    Returns:
        (X', Y', Z') in the same dtype; only values that were there before, or their mirror images.
    """
    padded = np.pad(labels, 1)
    result = np.zeros(grid.size, labels.dtype)
    for planes, position in grid.blocks():
        result[planes] = _largest_share(padded, position + 1)
    return _swapped(result, mirror) if grid.deformation.flip and mirror else result


def _largest_share(padded: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Return the label with the largest trilinear share at each position (3, ...) of a padded map."""
    shape = position.shape[1:]
    limits = np.asarray(padded.shape)[:, None]
    flat = np.clip(position.reshape(3, -1), 0, limits - 1.0)
    low = np.minimum(np.floor(flat).astype(np.int64), limits - 2)
    corners = [(i, j, k) for i in (0, 1) for j in (0, 1) for k in (0, 1)]
    found = np.stack([padded[tuple(low + np.asarray(corner)[:, None])] for corner in corners])
    result = found[0].copy()
    mixed = np.flatnonzero((found != found[0]).any(axis=0))
    part, found = (flat - low)[:, mixed], found[:, mixed]
    weights = np.stack(
        [
            np.prod([p if c else 1 - p for p, c in zip(part, corner, strict=True)], axis=0)
            for corner in corners
        ]
    )
    best = np.zeros(len(mixed))
    for label in found:
        share = (weights * (found == label)).sum(axis=0)
        is_better = (share > best + _TIE) | ((share > best - _TIE) & (label < result[mixed]))
        best = np.where(is_better, share, best)
        result[mixed] = np.where(is_better, label, result[mixed])
    return result.reshape(shape)


def _swapped(labels: np.ndarray, mirror: Mapping[int, int]) -> np.ndarray:
    result = labels.copy()
    for value, other in mirror.items():
        result[labels == value] = other
    return result


def _lattice_weights(n: int, n_cells: int) -> np.ndarray:
    """Return the cubic B-spline weights (n, n_cells + 3) of control points at the centres of n voxels."""
    place = (np.arange(n) + 0.5) / n * n_cells
    distance = np.abs(place[:, None] + 1 - np.arange(n_cells + _EXTRA_POINTS)[None])
    near = 2.0 / 3.0 - distance**2 + distance**3 / 2.0
    return np.where(distance < 1.0, near, np.clip(2.0 - distance, 0.0, None) ** 3 / 6.0)


def _is_inside(near: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    inside = [(part >= 0) & (part < n) for part, n in zip(near, shape, strict=True)]
    return np.logical_and.reduce(inside)


def _column(values: Sequence[float] | np.ndarray) -> np.ndarray:
    return np.asarray(values, float).reshape(3, 1, 1, 1)
