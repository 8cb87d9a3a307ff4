"""Whether two volumes lie on one grid."""

from __future__ import annotations

import numpy as np

from medldm.transforms.errors import GeometryError
from medldm.transforms.raw_volume import grid_difference


def check_same_grid(
    found: tuple[int, ...], found_affine: np.ndarray, *, shape: tuple[int, ...], affine: np.ndarray, what: str
) -> None:
    """Refuse a volume that does not lie on an image's grid.

    Args:
        found: voxels of the volume.
        found_affine: (4, 4), in RAS+ axes.
        shape: voxels of the image.
        affine: (4, 4) of the image, in RAS+ axes.
        what: names the volume, such as "its label map".

    Raises:
        GeometryError: with the shapes, or the distance in mm.
    """
    if tuple(found) != tuple(shape):
        raise GeometryError(
            f"{what} has {tuple(found)} voxels and its image {tuple(shape)}; resample one to the other"
        )
    if difference := grid_difference(found_affine, affine, tuple(shape)):
        raise GeometryError(f"{what} and its image put {difference}; resample one to the other")
