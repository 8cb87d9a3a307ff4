"""Dictionary forms of the crops and pads: one window for an image and its label map."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from monai.transforms import InvertibleTransform, MapTransform

from medldm.transforms.load import DEFAULT_LABEL_KEYS
from medldm.transforms.sizes import CentreCropOrPad, ForegroundCrop, PadToMultiple
from medldm.transforms.window import Fill, Window


class Windowd(MapTransform, InvertibleTransform):
    """One window transform for images and one, filled with background, for label maps."""

    def __init__(
        self,
        keys: Hashable | Sequence[Hashable],
        *,
        of_image: Window,
        of_label: Window,
        label_keys: Sequence[Hashable],
        allow_missing_keys: bool,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.of_image = of_image
        self.of_label = of_label
        self.label_keys = tuple(label_keys)

    def transform_of(self, key: Hashable) -> Window:
        """Return the transform for a key."""
        return self.of_label if key in self.label_keys else self.of_image

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Apply to every key."""
        case = dict(data)
        for key in self.key_iterator(case):
            case[key] = self.transform_of(key)(case[key])
        return case

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Undo for every key."""
        case = dict(data)
        for key in self.key_iterator(case):
            case[key] = self.transform_of(key).inverse(case[key])
        return case


class CentreCropOrPadd(Windowd):
    """Dictionary form of CentreCropOrPad; label maps are padded with background."""

    def __init__(
        self,
        keys: Hashable | Sequence[Hashable],
        size: Sequence[int | None],
        *,
        label_keys: Sequence[Hashable] = DEFAULT_LABEL_KEYS,
        fill: Fill = "minimum",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(
            keys,
            of_image=CentreCropOrPad(size, fill=fill),
            of_label=CentreCropOrPad(size, fill=0.0),
            label_keys=label_keys,
            allow_missing_keys=allow_missing_keys,
        )


class PadToMultipled(Windowd):
    """Dictionary form of PadToMultiple; label maps are padded with background."""

    def __init__(
        self,
        keys: Hashable | Sequence[Hashable],
        multiple: int | Sequence[int],
        *,
        label_keys: Sequence[Hashable] = DEFAULT_LABEL_KEYS,
        fill: Fill = "edge",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(
            keys,
            of_image=PadToMultiple(multiple, fill=fill),
            of_label=PadToMultiple(multiple, fill=0.0),
            label_keys=label_keys,
            allow_missing_keys=allow_missing_keys,
        )


class ForegroundCropd(Windowd):
    """Crop every key to the foreground of one of them.

    Args:
        keys: volumes on one grid.
        source_key: whose foreground counts.
        margin: voxels kept around.
        above: intensity above which a voxel is foreground; None finds it, 0 for a label map.
    """

    def __init__(
        self,
        keys: Hashable | Sequence[Hashable],
        *,
        source_key: Hashable = "image",
        margin: int = 0,
        above: float | None = None,
        label_keys: Sequence[Hashable] = DEFAULT_LABEL_KEYS,
        allow_missing_keys: bool = False,
    ) -> None:
        label_above = 0.0 if above is None else above
        super().__init__(
            keys,
            of_image=ForegroundCrop(margin=margin, above=above),
            of_label=ForegroundCrop(margin=margin, above=label_above, fill=0.0),
            label_keys=label_keys,
            allow_missing_keys=allow_missing_keys,
        )
        self.source_key = source_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Find the window once and apply it to every key."""
        case = dict(data)
        threshold_from = self.of_label if self.source_key in self.label_keys else self.of_image
        window = threshold_from.window(case[self.source_key])
        for key in self.key_iterator(case):
            case[key] = self.transform_of(key).apply(case[key], window)
        return case
