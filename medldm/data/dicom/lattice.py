"""Find where frames and contours of other objects lie on an image's grid; refuse what lies beside it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from medldm.transforms.errors import GeometryError
from medldm.transforms.itk_header import LPS_TO_RAS

LATTICE_TOLERANCE = 0.02
"""Largest distance of a frame's pixel from a voxel of the image, in voxels.

A slice of the image itself may lie 1 % of the slice spacing beside the grid (see `geometry.regular_step`).
"""

Shape = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class Placement:
    """How a frame's pixels (column, row) lie on a grid (X, Y, Z).

    Args:
        axes: grid axes along which the column, the row and the plane number grow.
        flips: whether column and row grow against their axis.
        plane: index on the third of these axes.
    """

    axes: tuple[int, int, int]
    flips: tuple[bool, bool]
    plane: int

    def view(self, volume: np.ndarray) -> np.ndarray:
        """Return the (columns, rows) view of the part of a volume (X, Y, Z) that the frame covers."""
        plane = np.moveaxis(volume, self.axes, (0, 1, 2))[:, :, self.plane]
        return plane[:: -1 if self.flips[0] else 1, :: -1 if self.flips[1] else 1]


def to_index_matrix(affine: np.ndarray) -> np.ndarray:
    """Return the (4, 4) matrix from LPS+ millimetres, DICOM's patient coordinates, to voxels of an affine."""
    return np.linalg.inv(affine) @ LPS_TO_RAS


def place_frame(
    *,
    position: Sequence[float],
    orientation: Sequence[float],
    spacing: Sequence[float],
    size: tuple[int, int],
    shape: Shape,
    to_index: np.ndarray,
) -> Placement:
    """Place a frame on a grid.

    Args:
        position: (0020,0032) centre of the first pixel, LPS mm.
        orientation: (0020,0037) direction cosines of a row, then of a column.
        spacing: (0028,0030) mm between rows, then between columns.
        size: rows and columns.
        shape: (X, Y, Z) of the grid.
        to_index: from `to_index_matrix`.

    Raises:
        GeometryError: where its pixels are not voxels of the grid, or do not fill one of its planes.

    Source: PS3.3 C.7.6.2.1.1, equation C.7.6.2.1-1.
    """
    rows, columns = size
    first = to_index[:3, :3] @ np.asarray(position, dtype=float) + to_index[:3, 3]
    along_row = to_index[:3, :3] @ np.asarray(orientation[:3], dtype=float) * spacing[1]
    along_column = to_index[:3, :3] @ np.asarray(orientation[3:], dtype=float) * spacing[0]
    exact = np.stack([along_row, along_column], axis=1)
    steps = np.rint(exact)
    if not (np.abs(steps).sum(axis=0) == 1).all() or not (np.abs(steps).sum(axis=1) <= 1).all():
        raise GeometryError(
            f"a frame of its segmentation is not parallel to its voxels or has other pixels "
            f"({spacing[0]:.4g} x {spacing[1]:.4g} mm); resample the segmentation to the image"
        )
    corners = np.array([[0, columns - 1, 0, columns - 1], [0, 0, rows - 1, rows - 1]])
    places = first[:, None] + exact @ corners
    gap = float(np.abs(places - (np.rint(first)[:, None] + steps @ corners)).max())
    if gap > LATTICE_TOLERANCE:
        raise GeometryError(
            f"a frame of its segmentation lies {gap:.3f} voxels beside its grid; {LATTICE_TOLERANCE} is "
            "allowed; resample the segmentation to the image"
        )
    a, b = (int(np.abs(step).argmax()) for step in steps.T)
    return _filling(np.rint(places).astype(int), axes=(a, b, 3 - a - b), steps=steps, size=size, shape=shape)


def _filling(
    places: np.ndarray, *, axes: Shape, steps: np.ndarray, size: tuple[int, int], shape: Shape
) -> Placement:
    a, b, normal = axes
    plane = int(places[normal, 0])
    if (size[1], size[0]) != (shape[a], shape[b]) or places[[a, b]].min() != 0:
        raise GeometryError(
            f"a frame of its segmentation has {size[1]} x {size[0]} pixels from voxel {places[a].min()}, "
            f"{places[b].min()}, the image's plane {shape[a]} x {shape[b]}; resample one to the other"
        )
    if not 0 <= plane < shape[normal]:
        raise GeometryError(
            f"a frame of its segmentation lies in plane {plane} of the image, which has planes 0 to "
            f"{shape[normal] - 1}; the image lacks slices, or the segmentation belongs to another"
        )
    return Placement(axes=axes, flips=(bool(steps[a, 0] < 0), bool(steps[b, 1] < 0)), plane=plane)


def refuse_skipped_planes(planes: Iterable[int], *, what: str) -> None:
    """Refuse labels on every second or third plane only: they were made on thicker slices.

    Args:
        planes: indices of the planes that hold something.
        what: names the labels in the message.

    Raises:
        GeometryError: where three planes or more are used and no two are neighbours.
    """
    used = sorted(set(planes))
    step = int(np.diff(used).min()) if len(used) > 2 else 1
    if step > 1:
        raise GeometryError(
            f"{what} lies on {len(used)} planes, each at least {step} slices from the next: it was made on "
            "thicker slices; interpolate it to the image's slices"
        )
