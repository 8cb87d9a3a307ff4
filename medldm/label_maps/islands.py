"""Remove the islands of a label map: small connected components of its structures."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import ndimage


def remove_islands(
    labels: npt.NDArray[np.integer], spacing_mm: Sequence[float], *, min_island_ml: float
) -> tuple[npt.NDArray[np.integer], int]:
    """Give each small component, of a structure or of the background, to the nearest voxel that stays.

    The largest component of a structure always stays, so that no structure vanishes. Voxels that touch by a
    face, an edge or a corner are connected.

    Args:
        labels: (X, Y, Z) integers.
        spacing_mm: edge lengths of a voxel; "nearest" is measured in mm.
        min_island_ml: components of a smaller volume are islands.

    Returns:
        The map without islands, of the same dtype, and the number of voxels changed.
    """
    min_voxels = min_island_ml * 1000 / math.prod(spacing_mm)
    islands = np.zeros(labels.shape, dtype=bool)
    for value in np.unique(labels):
        components, _ = ndimage.label(labels == value, structure=np.ones((3, 3, 3)))
        n_voxels = np.bincount(components.ravel())
        is_small = n_voxels < min_voxels
        is_small[0] = is_small[1 + int(n_voxels[1:].argmax())] = False
        islands |= is_small[components]
    if not islands.any():
        return labels.copy(), 0
    nearest = ndimage.distance_transform_edt(
        islands, sampling=tuple(spacing_mm), return_distances=False, return_indices=True
    )
    return labels[tuple(nearest)], int(islands.sum())
