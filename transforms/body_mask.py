"""Find the body in a CT volume, and set what lies outside of it to one value."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from medldm.errors import ConfigError

AIR_TO_WATER = 0.5
"""Where the body begins: half of the way from the value outside (air) to 0 HU (water)."""

_ANY_TOUCH = np.ones((3, 3, 3), dtype=bool)


def body_mask(
    volume: npt.ArrayLike, *, threshold: float, slice_axis: int = 2, n_rim: int = 1
) -> npt.NDArray[np.bool_]:
    """Return the voxels of the body.

    It is the largest connected part above a threshold. In each slice, what this part encloses belongs to it:
    airways, sinuses, lungs and bowel gas. A rim of voxels around it is added, in which skin and air share
    voxels.

    Args:
        volume: (X, Y, Z), in HU.
        threshold: between air and soft tissue.
        slice_axis: normal of the slices; in axial ones airways that are cut by the field of view stay inside.
        n_rim: voxels, by faces, that the rim is wide.

    Returns:
        (X, Y, Z); nothing where no voxel is above the threshold.

    Examples:
        >>> ring = np.full((5, 5, 1), -1000.0)
        >>> ring[1:4, 1:4] = 0.0
        >>> ring[2, 2] = -1000.0
        >>> int(body_mask(ring, threshold=-500.0, n_rim=0).sum())
        9
    """
    values = np.asarray(volume)
    parts, n_parts = ndimage.label(values > threshold, structure=_ANY_TOUCH)
    if n_parts == 0:
        return np.zeros(values.shape, dtype=bool)
    largest = parts == 1 + np.bincount(parts.ravel())[1:].argmax()
    slices = np.moveaxis(largest, slice_axis, 0)
    filled = np.moveaxis(np.stack([ndimage.binary_fill_holes(each) for each in slices]), 0, slice_axis)
    return ndimage.binary_dilation(filled, iterations=n_rim) if n_rim else filled


def set_outside(
    volume: npt.NDArray[np.generic], affine: npt.ArrayLike, *, value: float
) -> npt.NDArray[np.generic]:
    """Set the voxels outside of the body to one value.

    Args:
        volume: (X, Y, Z) in HU, in the axes of its file.
        affine: (4, 4) of the file, which says along which axis slices lie.
        value: of the air outside, in HU.

    Returns:
        The volume, of the same type.
    """
    axes = np.asarray(affine, dtype=np.float64)[:3, :3]
    towards_head = int(np.abs(axes[2] / np.linalg.norm(axes, axis=0)).argmax())
    inside = body_mask(volume, threshold=body_threshold(value), slice_axis=towards_head)
    return np.where(inside, volume, np.asarray(value, dtype=volume.dtype))


def body_threshold(outside_value: float) -> float:
    """Return the HU above which a voxel may be of the body.

    Raises:
        ConfigError: for a value outside that is not that of air.
    """
    if not -2000 <= outside_value <= -500:
        raise ConfigError(
            f"outside_value is {outside_value}: HU of air, -2000 to -500, is needed, such as -1000"
        )
    return outside_value * (1 - AIR_TO_WATER)


def find_outside_value(volume: npt.ArrayLike, *, n_rim: int = 2, share: float = 0.8) -> float | None:
    """Return the one value that voxels outside of the body have; None where they differ, or there are none.

    Air of a scan is noise: no value is that of many voxels. Where an outline was cut out, most voxels have
    one; a mask that holds the head may be left between outline and body.

    Args:
        volume: (X, Y, Z) in HU, axial slices along Z.
        n_rim: voxels around the body that do not count.
        share: of the voxels that must have it.
    """
    values = np.asarray(volume)
    lowest = float(values.min())
    if not -2000 <= lowest <= -500:
        return None
    outside = values[~body_mask(values, threshold=body_threshold(lowest), n_rim=n_rim)]
    if outside.size == 0 or float((outside == lowest).mean()) < share:
        return None
    return lowest
