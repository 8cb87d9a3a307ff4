"""Crop and pad volumes to a size, to a multiple, or to their foreground."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from monai.data import MetaTensor

from medldm.errors import ConfigError
from medldm.transforms.intensity_mapping import foreground_mask
from medldm.transforms.label_resampling import bounding_box
from medldm.transforms.window import Fill, Window, centred_window

logger = logging.getLogger(__name__)


class CentreCropOrPad(Window):
    """Crop or pad each axis about the centre to a size.

    Where the difference is odd, the odd voxel is cut or added at the end of the axis.

    Args:
        size: (X, Y, Z) voxels; None for an axis leaves it alone.
        fill: value of added voxels, "minimum" of the volume, or "edge".

    Examples:
        >>> tuple(CentreCropOrPad((4, 6, 4))(MetaTensor(torch.zeros(1, 5, 5, 5))).shape)
        (1, 4, 6, 4)
    """

    def __init__(self, size: Sequence[int | None], *, fill: Fill = "minimum") -> None:
        super().__init__(fill=fill)
        if len(size) != 3 or any(part is not None and int(part) < 1 for part in size):
            raise ConfigError(f"size is {size}; three positive voxel counts (or None) are needed")
        self.size = tuple(None if part is None else int(part) for part in size)

    def window(self, volume: torch.Tensor) -> tuple[tuple[int, int], ...]:
        """Return the centred window."""
        return centred_window(volume.shape[1:], self.size)


class PadToMultiple(Window):
    """Pad the end of each axis to the next multiple.

    Args:
        multiple: one number or (X, Y, Z).
        fill: value of added voxels, "minimum" of the volume, or "edge".

    Examples:
        >>> tuple(PadToMultiple(4)(MetaTensor(torch.zeros(1, 5, 8, 3))).shape)
        (1, 8, 8, 4)
    """

    def __init__(self, multiple: int | Sequence[int], *, fill: Fill = "edge") -> None:
        super().__init__(fill=fill)
        parts = (multiple,) * 3 if isinstance(multiple, int) else tuple(multiple)
        if len(parts) != 3 or any(part < 1 for part in parts):
            raise ConfigError(f"multiple is {multiple}; one or three positive integers are needed")
        self.multiple = parts

    def window(self, volume: torch.Tensor) -> tuple[tuple[int, int], ...]:
        """Return the window from zero to the next multiple."""
        return tuple(
            (0, -(-size // part) * part) for size, part in zip(volume.shape[1:], self.multiple, strict=True)
        )


class ForegroundCrop(Window):
    """Crop to the bounding box of the foreground and a margin.

    Args:
        margin: voxels kept around the box, as far as the volume reaches.
        above: intensity above which a voxel is foreground; None uses `foreground_mask`.
        fill: value with which the inverse fills what was cut off.

    Examples:
        >>> volume = torch.zeros(1, 9, 9, 9)
        >>> volume[:, 3:6, 4:6, 2:7] = 1
        >>> tuple(ForegroundCrop(margin=1, above=0.5)(MetaTensor(volume)).shape)
        (1, 5, 4, 7)
    """

    def __init__(self, *, margin: int = 0, above: float | None = None, fill: Fill = "minimum") -> None:
        super().__init__(fill=fill)
        if margin < 0:
            raise ConfigError(f"margin is {margin} voxels; 0 or more is needed")
        self.margin = margin
        self.above = above

    def window(self, volume: torch.Tensor) -> tuple[tuple[int, int], ...]:
        """Return the foreground's box; the whole volume where there is no foreground."""
        voxels = volume.as_tensor() if isinstance(volume, MetaTensor) else volume
        mask = foreground_mask(voxels) if self.above is None else voxels > self.above
        mask = mask.any(dim=0)
        if not mask.any():
            logger.warning("no foreground found; the volume is not cropped")
            return tuple((0, int(size)) for size in mask.shape)
        box = bounding_box(mask.cpu().numpy())
        return tuple(
            (max(0, part.start - self.margin), min(size, part.stop + self.margin))
            for part, size in zip(box, mask.shape, strict=True)
        )
