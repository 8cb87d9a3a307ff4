"""Deform a volume, and an image together with its label map: array and dictionary forms."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform, Transform

from medldm.errors import ConfigError
from medldm.transforms.deformation import Deformation, PullGrid, deform_image, deform_labels
from medldm.transforms.keyed import DEFAULT_LABEL_KEYS
from medldm.transforms.window import centred_window, take_window


class DeformVolume(Transform):
    """Deform a volume, and crop or pad it to a size, in one resampling.

    Without a deformation the voxels are those of `CentreCropOrPad`, to the bit.

    Args:
        deformation: what to do.
        spacing_mm: (x, y, z) of the voxels.
        size: (X, Y, Z) voxels of the result, about the volume's centre as `CentreCropOrPad` has it; None
            keeps the volume's.
        is_label: the volume is a label map.
        mirror: of a label map: value -> value of the structure on the other side, used where the deformation
            flips.
        order: of the spline that interpolates images, 1 (linear) to 5.
        fill: value of what lies outside an image; label maps get background.

    Examples:
        >>> turn = DeformVolume(Deformation(rotation_deg=(0, 0, 90)), spacing_mm=(1, 1, 1), order=1)
        >>> volume = torch.arange(4.0).view(1, 2, 2, 1)
        >>> turn(volume)[0, :, :, 0].tolist()
        [[1.0, 3.0], [0.0, 2.0]]
    """

    def __init__(
        self,
        deformation: Deformation,
        *,
        spacing_mm: Sequence[float],
        size: Sequence[int] | None = None,
        is_label: bool = False,
        mirror: Mapping[int, int] | None = None,
        order: int = 3,
        fill: float = -1.0,
    ) -> None:
        super().__init__()
        if order not in range(1, 6):
            raise ConfigError(f"order is {order}: a spline's from 1 to 5 is needed")
        self.deformation = deformation
        self.spacing_mm = tuple(float(part) for part in spacing_mm)
        self.size = None if size is None else tuple(int(part) for part in size)
        self.is_label = is_label
        self.mirror = dict(mirror or {})
        self.order = order
        self.fill = 0.0 if is_label else fill

    def __call__(self, volume: torch.Tensor) -> torch.Tensor:
        """Deform (C, X, Y, Z); a MetaTensor's affine follows the crop, not the deformation."""
        size = self.size or tuple(volume.shape[1:])
        window = centred_window(volume.shape[1:], size)
        if self.deformation.is_identity:
            source = volume if isinstance(volume, MetaTensor) else MetaTensor(volume)
            result = take_window(source, window, fill=self.fill)
            return result if isinstance(volume, MetaTensor) else result.as_tensor()
        grid = PullGrid(
            deformation=self.deformation,
            size=size,
            spacing_mm=self.spacing_mm,
            start=tuple(start for start, _ in window),
        )
        voxels = np.stack([self._deform(channel, grid) for channel in np.asarray(volume)])
        tensor = torch.from_numpy(voxels).to(volume.dtype)
        if not isinstance(volume, MetaTensor):
            return tensor
        result = MetaTensor(tensor)
        result.copy_meta_from(volume)
        shift = torch.eye(4, dtype=torch.float64)
        shift[:3, 3] = torch.tensor(grid.start, dtype=torch.float64)
        result.affine = volume.affine.to(torch.float64) @ shift
        return result

    def _deform(self, channel: np.ndarray, grid: PullGrid) -> np.ndarray:
        if not self.is_label:
            return deform_image(channel, grid, order=self.order, fill=self.fill)
        values = channel if np.issubdtype(channel.dtype, np.integer) else channel.astype(np.int64)
        return deform_labels(values, grid, mirror=self.mirror)


class DeformVolumed(MapTransform):
    """Dictionary form of DeformVolume: images and label maps of a case move together.

    Args:
        keys: volumes on one grid.
        deformation: what to do.
        spacing_mm: (x, y, z) of the voxels.
        size: (X, Y, Z) voxels of the results; None keeps the volumes'.
        label_keys: those of the keys that are label maps.
        mirror: value -> value of the structure on the other side.
        order: of the spline that interpolates images.
        fill: value of what lies outside an image.
        allow_missing_keys: pass over keys a case does not have.
    """

    def __init__(
        self,
        keys: Hashable | Sequence[Hashable],
        deformation: Deformation,
        *,
        spacing_mm: Sequence[float],
        size: Sequence[int] | None = None,
        label_keys: Sequence[Hashable] = DEFAULT_LABEL_KEYS,
        mirror: Mapping[int, int] | None = None,
        order: int = 3,
        fill: float = -1.0,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.label_keys = tuple(label_keys)
        self.of_image = DeformVolume(deformation, spacing_mm=spacing_mm, size=size, order=order, fill=fill)
        self.of_label = DeformVolume(
            deformation, spacing_mm=spacing_mm, size=size, is_label=True, mirror=mirror
        )

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Deform every key."""
        case = dict(data)
        for key in self.key_iterator(case):
            case[key] = (self.of_label if key in self.label_keys else self.of_image)(case[key])
        return case
