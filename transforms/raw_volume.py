"""What a reader hands over before orientation, and the limits every reader keeps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medldm.transforms.errors import GeometryError, UnsupportedVolumeError, VolumeTooLargeError

DEFAULT_MAX_BYTES = 4 * 1024**3
MIN_SPACING_MM = 0.01
MAX_SPACING_MM = 50.0
GRID_TOLERANCE = 0.01
"""How far apart two grids may put a corner voxel and still be one, in parts of the smallest voxel edge.

Headers in float32 are off by more than 0.001 mm far from the origin; 1 % of a voxel moves no label."""


@dataclass(frozen=True)
class VolumeNumber:
    """Which volume of a file with several is meant.

    Args:
        index: of the volume, from 0.
        count: volumes that the file must hold.
    """

    index: int
    count: int


@dataclass(frozen=True, kw_only=True)
class RawVolume:
    """A volume as its file holds it.

    Args:
        array: (I, J, K), any real dtype, any memory order, intensity slope already applied.
        affine: (4, 4) float64, voxel index to RAS+ millimetres.
        notes: remarks that do not refuse the file, for the log.
    """

    array: np.ndarray
    affine: np.ndarray
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class VolumeGeometry:
    """What the header alone says of a volume.

    Args:
        shape: (I, J, K) voxels in the file's axes.
        affine: (4, 4) float64, voxel index to RAS+ millimetres.
        notes: remarks that do not refuse the file.
    """

    shape: tuple[int, int, int]
    affine: np.ndarray
    notes: tuple[str, ...] = ()


def spacing_of(affine: np.ndarray) -> np.ndarray:
    """Return the voxel spacing in mm, (3,), of a (4, 4) affine."""
    return np.sqrt((np.asarray(affine, dtype=np.float64)[:3, :3] ** 2).sum(axis=0))


def corner_distance_mm(first: np.ndarray, second: np.ndarray, shape: tuple[int, ...]) -> float:
    """Return how far two (4, 4) affines put one corner voxel of a grid (X, Y, Z) apart at most."""
    corners = np.stack(np.meshgrid(*[(0, size - 1) for size in shape], [1], indexing="ij")).reshape(4, -1)
    return float(np.linalg.norm((first - second)[:3] @ corners, axis=0).max())


def grid_difference(first: np.ndarray, second: np.ndarray, shape: tuple[int, ...]) -> str:
    """Say how far two affines put a grid apart; empty where they are one grid.

    Args:
        first: (4, 4), voxel index to RAS+ millimetres.
        second: the other one.
        shape: voxels of the grid.

    Returns:
        "a corner <distance> mm apart, at most <tolerance> mm (1 % of a voxel edge) is allowed", or "".
    """
    one, other = (np.asarray(affine, dtype=np.float64) for affine in (first, second))
    distance = corner_distance_mm(one, other, shape)
    allowed = GRID_TOLERANCE * float(min(spacing_of(one).min(), spacing_of(other).min()))
    if distance <= allowed:
        return ""
    share = f"{100 * GRID_TOLERANCE:g} % of a voxel edge"
    return f"a corner {distance:.4g} mm apart, at most {allowed:.3g} mm ({share}) is allowed"


def check_affine(affine: np.ndarray) -> None:
    """Refuse an affine that is not finite, singular, or has a spacing outside 0.01 to 50 mm.

    Args:
        affine: (4, 4), voxel index to RAS+ millimetres.

    Raises:
        GeometryError: naming the value found and what is allowed.
    """
    if not np.isfinite(affine).all():
        raise GeometryError("its affine holds NaN or Inf; write a finite affine (sform or qform) to the file")
    with np.errstate(over="ignore"):
        spacing = spacing_of(affine)
    if not ((spacing >= MIN_SPACING_MM) & (spacing <= MAX_SPACING_MM)).all():
        found = " x ".join(f"{value:.6g}" for value in spacing)
        raise GeometryError(
            f"its spacing is {found} mm; {MIN_SPACING_MM} to {MAX_SPACING_MM:g} mm is allowed on each axis; "
            "correct the spacing in the header"
        )
    volume = abs(np.linalg.det(affine[:3, :3] / spacing))
    if volume < 1e-3:
        raise GeometryError(
            f"its affine is singular (unit axes span a volume of {volume:.3g}, 1 is orthogonal); "
            "correct the direction vectors in the header"
        )


def check_shape(shape: tuple[int, ...], *, item_bytes: int, max_bytes: int) -> tuple[int, int, int]:
    """Reduce a shape to three axes and hold it against the memory cap, before anything is allocated.

    Args:
        shape: voxels per axis as the header declares them.
        item_bytes: bytes of one stored voxel.
        max_bytes: cap on voxels times the larger of `item_bytes` and 4 (volumes become float32).

    Raises:
        UnsupportedVolumeError: where the volume does not have exactly three axes longer than zero.
        VolumeTooLargeError: above the cap.
    """
    if any(size < 1 for size in shape):
        raise UnsupportedVolumeError(f"its shape is {shape}; every axis must have at least one voxel")
    if len(shape) < 3 or any(size != 1 for size in shape[3:]):
        raise UnsupportedVolumeError(
            f"its shape is {shape}; three axes are read; store each time point or channel in its own file"
        )
    size = int(shape[0]) * int(shape[1]) * int(shape[2]) * max(item_bytes, 4)
    if size > max_bytes:
        raise VolumeTooLargeError(
            f"its header declares {shape[0]} x {shape[1]} x {shape[2]} voxels, {size} bytes in memory; "
            f"the cap is {max_bytes} bytes; crop or resample the file, or raise max_bytes"
        )
    return int(shape[0]), int(shape[1]), int(shape[2])
