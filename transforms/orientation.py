"""Turn voxel axes to the nearest RAS+ axes by permutation and flips; oblique angles stay in the affine."""

from __future__ import annotations

import nibabel as nib
import numpy as np


def to_ras_affine(
    affine: np.ndarray, shape: tuple[int, ...]
) -> tuple[np.ndarray, tuple[int, ...], tuple[int, ...]]:
    """Find the permutation and flips that bring a volume nearest to RAS+.

    Args:
        affine: (4, 4) voxel index to RAS+ millimetres.
        shape: (I, J, K) of the volume.

    Returns:
        The (4, 4) affine after turning; the permutation for `array.transpose`; the axes to flip after it.
    """
    orientation = nib.orientations.io_orientation(affine)
    axes = np.argsort(orientation[:, 0])
    flips = tuple(int(axis) for axis in range(3) if orientation[axes[axis], 1] < 0)
    turned = affine @ nib.orientations.inv_ornt_aff(orientation, shape[:3])
    return turned, tuple(int(axis) for axis in axes), flips


def turn(array: np.ndarray, axes: tuple[int, ...], flips: tuple[int, ...]) -> np.ndarray:
    """Apply `to_ras_affine`'s permutation, then its flips, as a view."""
    return np.flip(array.transpose(axes), flips)


def turn_back(array: np.ndarray, axes: tuple[int, ...], flips: tuple[int, ...]) -> np.ndarray:
    """Undo `turn`, as a view."""
    return np.flip(array, flips).transpose(np.argsort(axes))
