"""Dictionary forms of the crops and pads: one window for an image and its label map."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from medldm.transforms.keyed import DEFAULT_LABEL_KEYS, KeyedTransform
from medldm.transforms.sizes import CentreCropOrPad, ForegroundCrop, PadToMultiple
from medldm.transforms.window import Fill


class CentreCropOrPadd(KeyedTransform):
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


class PadToMultipled(KeyedTransform):
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


class ForegroundCropd(KeyedTransform):
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
        window = self.transform_of(self.source_key).window(case[self.source_key])
        return case | {
            key: self.transform_of(key).apply(case[key], window) for key in self.key_iterator(case)
        }
