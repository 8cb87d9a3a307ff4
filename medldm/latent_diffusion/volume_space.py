"""The space that networks were trained in: spacing, size, orientation, intensity."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from medldm.configs import Config
from medldm.data.channels import check_channel_names
from medldm.errors import CheckpointError, ConfigError
from medldm.transforms import IntensityMapping
from medldm.transforms.body_mask import body_threshold

MAX_VOXELS = 2**33
"""Of one volume: 32 GiB in float32, more than any reader, network or writer of the package can hold."""


@dataclass(kw_only=True)
class VolumeSpace(Config):
    """Describe the volumes a network was trained on; it travels in the checkpoint's card.

    Args:
        spacing_mm: edge lengths of a voxel along X, Y, Z, in mm.
        size: voxels along X, Y, Z that the training volumes were cropped or padded to.
        intensity: the mapping between the files' units and [-1, 1]; with named channels one for each name.
        channels: names of the channels in the order of the networks; () for one channel without a name.
        outside_value: HU that every voxel outside of the body has in the training volumes; volumes that are
            made get it there, too, see `medldm.transforms.body_mask`. None leaves them as they are. Of one
            channel of CT only.
        intensity_note: what to know about the intensities, in words, such as an offset of the source; it is
            repeated in the sidecars.

    Raises:
        ValueError: if a spacing or a size is not positive, or a channel has no mapping.

    Examples:
        >>> mapping = IntensityMapping(kind="ct_window")
        >>> VolumeSpace(spacing_mm=(1, 1, 1), size=(8, 8, 8), intensity=mapping).n_channels
        1
    """

    follows: ClassVar[tuple[str, ...]] = ("field_of_view_mm", "orientation")

    spacing_mm: tuple[float, float, float]
    size: tuple[int, int, int]
    intensity: IntensityMapping | dict[str, IntensityMapping]
    channels: tuple[str, ...] = ()
    outside_value: float | None = None
    intensity_note: str = ""

    def __post_init__(self) -> None:
        self.intensity = _read_intensity(self.intensity, self.channels)
        super().__post_init__()
        if len(self.spacing_mm) != 3 or not all(edge > 0 for edge in self.spacing_mm):
            raise ConfigError(f"spacing_mm is {self.spacing_mm}: three positive lengths in mm are needed")
        if len(self.size) != 3 or not all(n > 0 for n in self.size):
            raise ConfigError(f"size is {self.size}: three positive numbers of voxels are needed")
        if math.prod(self.size) > MAX_VOXELS:
            raise ConfigError(
                f"size is {self.size}, {math.prod(self.size)} voxels: at most {MAX_VOXELS} are allowed"
            )
        if self.outside_value is not None:
            if len(self.intensities) > 1 or self.intensities[0].kind != "ct_window":
                raise ConfigError(
                    f"outside_value is {self.outside_value}: one channel of CT (ct_window) is needed for it; "
                    "leave it out"
                )
            body_threshold(self.outside_value)

    @property
    def intensities(self) -> tuple[IntensityMapping, ...]:
        """The mapping of each channel, in the order of the networks."""
        if isinstance(self.intensity, IntensityMapping):
            return (self.intensity,)
        return tuple(self.intensity[name] for name in self.channels)

    @property
    def n_channels(self) -> int:
        """Channels of an image; of label maps, which the networks take one-hot, 1."""
        return len(self.intensities)

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
        """Return a JSON-able description, with what follows from the fields; of one channel without names."""
        follows = {"field_of_view_mm": list(self.field_of_view_mm), "orientation": self.orientation}
        own = super().to_dict()
        # What is not said is left out: spaces of before have the names of before.
        for name, nothing in (("channels", []), ("outside_value", None), ("intensity_note", "")):
            if own[name] == nothing:
                del own[name]
        return {**own, **follows}


def _read_intensity(intensity: Any, channels: Any) -> Any:
    """Return one mapping, or one for each named channel, none shared with the caller.

    Raises:
        ConfigError: unless the names of the mappings are those of the channels.
    """
    if not channels:
        try:
            return IntensityMapping.from_dict(intensity) if isinstance(intensity, Mapping) else intensity
        except ConfigError as error:
            raise ConfigError(f"intensity: {error}") from error
    names = check_channel_names(channels)
    if not isinstance(intensity, Mapping) or set(intensity) != set(names):
        found = (
            sorted(map(str, intensity)) if isinstance(intensity, Mapping) else "one mapping without a name"
        )
        raise ConfigError(
            f"intensity has {found}: a mapping for each of the channels {list(names)} is needed"
        )
    return {name: IntensityMapping.coerce(intensity[name]) for name in names}


def require_one_channel(space: VolumeSpace, *, what: str) -> IntensityMapping:
    """Return the mapping of a model's only channel.

    Args:
        space: of the model.
        what: that can do with one channel only.

    Raises:
        CheckpointError: for a model of several channels.
    """
    if space.n_channels != 1:
        raise CheckpointError(
            f"the model makes {space.n_channels} channels ({', '.join(space.channels)}), {what} knows images "
            "of one channel: train a model of one with channels"
        )
    return space.intensities[0]


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
