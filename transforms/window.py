"""Take a box of voxels out of a volume, or lay a volume into a larger box; the affine follows exactly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from monai.data import MetaTensor
from monai.transforms import InvertibleTransform
from monai.utils import TraceKeys

from medldm.errors import ConfigError

Fill = float | Literal["minimum", "edge"]


class Window(InvertibleTransform):
    """Take a window of a volume that may reach beyond it; the inverse puts the window back.

    Args:
        fill: value of the voxels beyond the volume, or "minimum" of each channel, or "edge" to repeat its
            faces.
    """

    def __init__(self, *, fill: Fill = "minimum") -> None:
        super().__init__()
        if isinstance(fill, str) and fill not in ("minimum", "edge"):
            raise ConfigError(f"fill is {fill!r}; give a number, 'minimum' or 'edge'")
        self.fill = fill

    def window(self, volume: torch.Tensor) -> tuple[tuple[int, int], ...]:
        """Return first and last-plus-one voxel of each axis; both may lie outside the volume."""
        raise NotImplementedError

    def __call__(self, volume: MetaTensor) -> MetaTensor:
        """Take the window of (C, X, Y, Z)."""
        return self.apply(volume, self.window(volume))

    def apply(self, volume: MetaTensor, window: tuple[tuple[int, int], ...]) -> MetaTensor:
        """Take the given window; an image's window is applied to its label map through this."""
        shape = tuple(volume.shape[1:])
        result = take_window(volume, window, fill=self.fill)
        info = {"window": [list(part) for part in window], "shape": list(shape)}
        self.push_transform(result, extra_info=info)
        return result

    def inverse(self, volume: MetaTensor) -> MetaTensor:
        """Put the window back; voxels that had been cut off come back as `fill`."""
        info = self.pop_transform(volume)[TraceKeys.EXTRA_INFO]
        back = tuple(
            (-int(start), int(size) - int(start))
            for (start, _), size in zip(info["window"], info["shape"], strict=True)
        )
        return take_window(volume, back, fill=self.fill)


def centred_window(shape: Sequence[int], size: Sequence[int | None]) -> tuple[tuple[int, int], ...]:
    """Return the window of a size about the centre of a shape; None leaves an axis alone.

    Where the difference is odd, the odd voxel is cut or added at the end, so that the window back to `shape`
    is the inverse.
    """
    parts = []
    for present, wanted in zip(shape, size, strict=True):
        surplus = 0 if wanted is None else present - wanted
        start = surplus // 2 if surplus >= 0 else -(-surplus // 2)
        parts.append((start, start + present - surplus))
    return tuple(parts)


def centre_crop_or_pad(
    array: npt.NDArray[Any], size: Sequence[int], *, fill: float | Literal["edge"] = "edge"
) -> npt.NDArray[Any]:
    """Crop or pad each axis of a plain array about the centre, see `centred_window`."""
    window = centred_window(array.shape, size)
    cut = array[tuple(slice(max(start, 0), stop) for start, stop in window)]
    added = [(max(-start, 0), max(stop - n, 0)) for (start, stop), n in zip(window, array.shape, strict=True)]
    return np.pad(cut, added, mode="edge") if fill == "edge" else np.pad(cut, added, constant_values=fill)


def take_window(volume: MetaTensor, window: tuple[tuple[int, int], ...], *, fill: Fill) -> MetaTensor:
    voxels = volume.as_tensor()
    if fill == "edge":
        for axis, (start, stop) in enumerate(window, start=1):
            index = torch.arange(start, stop, device=voxels.device).clamp_(0, voxels.shape[axis] - 1)
            voxels = voxels.index_select(axis, index)
        result = MetaTensor(voxels)
    else:
        size = [voxels.shape[0], *(stop - start for start, stop in window)]
        if fill == "minimum":
            target = voxels.amin(dim=(1, 2, 3), keepdim=True).expand(size).clone()
        else:
            target = voxels.new_full(size, float(fill))
        shared = [
            (max(start, 0), min(stop, n_in))
            for (start, stop), n_in in zip(window, voxels.shape[1:], strict=True)
        ]
        if all(low < high for low, high in shared):
            source = tuple(slice(low, high) for low, high in shared)
            into = tuple(
                slice(low - start, high - start)
                for (low, high), (start, _) in zip(shared, window, strict=True)
            )
            target[(slice(None), *into)] = voxels[(slice(None), *source)]
        result = MetaTensor(target)
    result.copy_meta_from(volume)
    shift = torch.eye(4, dtype=torch.float64)
    shift[:3, 3] = torch.tensor([start for start, _ in window], dtype=torch.float64)
    result.affine = volume.affine.to(torch.float64) @ shift
    return result
