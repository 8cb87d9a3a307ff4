"""The space that networks were trained in: spacing, size, orientation, intensity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from medldm.configs import Config
from medldm.errors import CheckpointError, ConfigError
from medldm.transforms import IntensityMapping


@dataclass(kw_only=True)
class VolumeSpace(Config):
    """Describe the volumes a network was trained on; it travels in the checkpoint's card.

    Args:
        spacing_mm: edge lengths of a voxel along X, Y, Z, in mm.
        size: voxels along X, Y, Z that the training volumes were cropped or padded to.
        intensity: the mapping between the files' units and [-1, 1].

    Raises:
        ValueError: if a spacing or a size is not positive.
    """

    follows: ClassVar[tuple[str, ...]] = ("field_of_view_mm", "orientation")

    spacing_mm: tuple[float, float, float]
    size: tuple[int, int, int]
    intensity: IntensityMapping

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.spacing_mm) != 3 or not all(edge > 0 for edge in self.spacing_mm):
            raise ConfigError(f"spacing_mm is {self.spacing_mm}: three positive lengths in mm are needed")
        if len(self.size) != 3 or not all(n > 0 for n in self.size):
            raise ConfigError(f"size is {self.size}: three positive numbers of voxels are needed")

    @property
    def field_of_view_mm(self) -> tuple[float, ...]:
        """Extent of the training volumes along X, Y, Z in mm."""
        return tuple(n * edge for n, edge in zip(self.size, self.spacing_mm, strict=True))

    @property
    def orientation(self) -> str:
        """Directions in which X, Y, Z grow."""
        return "RAS"

    def affine(self, size: tuple[int, ...] | None = None) -> np.ndarray:
        """Return the RAS+ affine (4, 4) of a volume made from noise: `size` voxels about the origin."""
        affine = np.diag([*self.spacing_mm, 1.0])
        extent = np.asarray(self.size if size is None else size) - 1
        affine[:3, 3] = -0.5 * extent * np.asarray(self.spacing_mm)
        return affine

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able description, with what follows from the fields."""
        follows = {"field_of_view_mm": list(self.field_of_view_mm), "orientation": self.orientation}
        return {**super().to_dict(), **follows}


def require_volume_space(space: VolumeSpace | None) -> VolumeSpace:
    """Return the space of a model that has one.

    Raises:
        CheckpointError: for a model without.
    """
    if space is None:
        raise CheckpointError(
            "the model has no space (spacing, size, intensity): train it through the bundle"
        )
    return space
