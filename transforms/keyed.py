"""The base of dictionary forms: one transform for the images of a case, one for its label maps."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from monai.transforms import InvertibleTransform, MapTransform

DEFAULT_LABEL_KEYS = ("label",)


class KeyedTransform(MapTransform, InvertibleTransform):
    """Apply one transform to images and one to label maps.

    Args:
        keys: entries that are transformed.
        of_image: for images.
        of_label: for label maps; None for the same.
        label_keys: those of the keys that are label maps.
        allow_missing_keys: pass over keys a case does not have.
    """

    def __init__(
        self,
        keys: Hashable | Sequence[Hashable],
        *,
        of_image: Any,
        of_label: Any = None,
        label_keys: Sequence[Hashable] = DEFAULT_LABEL_KEYS,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.of_image = of_image
        self.of_label = of_image if of_label is None else of_label
        self.label_keys = tuple(label_keys)

    def transform_of(self, key: Hashable) -> Any:
        """Return the transform for a key."""
        return self.of_label if key in self.label_keys else self.of_image

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Apply to every key."""
        case = dict(data)
        return case | {key: self.transform_of(key)(case[key]) for key in self.key_iterator(case)}

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Undo for every key."""
        case = dict(data)
        return case | {key: self.transform_of(key).inverse(case[key]) for key in self.key_iterator(case)}
