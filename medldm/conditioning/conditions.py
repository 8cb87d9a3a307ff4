"""The values a batch is conditioned on, and which of them are absent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Conditions:
    """Hold the conditions of a batch of B samples.

    Args:
        values: name to tensor, first axis B: "class" and named class columns (B,) int64; scalar columns (B,)
            float; "text" (B, N, D) float embeddings; "label_map" (B, 1, X, Y, Z) integers of the contiguous
            schema 0..K; "image" (B, 1, X, Y, Z) float in [-1, 1].
        absent: name to (B,) bool, True where a sample has no value; the learned null stands in for it. A name
            that is missing here is present in every sample, one missing in `values` is absent in every
            sample.
        unknown: "label_map" to (B, K) bool, True for structures that a sample's map does not cover, in the
            order of 1..K; None of them where the name is missing.

    Examples:
        >>> conditions = Conditions({"age": torch.tensor([61.0, 0.0])}, {"age": torch.tensor([False, True])})
        >>> conditions.is_absent("age", 2, torch.device("cpu")).tolist()
        [False, True]
    """

    values: Mapping[str, Tensor]
    absent: Mapping[str, Tensor] = field(default_factory=dict)
    unknown: Mapping[str, Tensor] = field(default_factory=dict)

    def is_absent(self, name: str, batch_size: int, device: torch.device) -> Tensor:
        """Return the (B,) mask of the samples without the condition `name`."""
        if name not in self.values:
            return torch.ones(batch_size, dtype=torch.bool, device=device)
        if name in self.absent:
            return self.absent[name].to(device)
        return torch.zeros(batch_size, dtype=torch.bool, device=device)

    def drop(self, masks: Mapping[str, Tensor]) -> Conditions:
        """Return the conditions with the masked samples made absent; each mask is (B,) bool."""
        absent = dict(self.absent)
        for name, mask in masks.items():
            if name in self.values:
                absent[name] = mask | absent[name].to(mask.device) if name in absent else mask
        return replace(self, absent=absent)

    def hide(self, masks: Mapping[str, Tensor]) -> Conditions:
        """Return the conditions with the masked structures made unknown; each mask is (B, K) bool."""
        unknown = dict(self.unknown)
        for name, mask in masks.items():
            if name in self.values:
                unknown[name] = mask | unknown[name].to(mask.device) if name in unknown else mask
        return replace(self, unknown=unknown)

    def to(self, device: torch.device | str) -> Conditions:
        """Return the conditions on `device`."""
        return self._map(lambda tensor: tensor.to(device))

    def __getitem__(self, rows: slice) -> Conditions:
        """Return a slice of the batch."""
        return self._map(lambda tensor: tensor[rows])

    def _map(self, function: Callable[[Tensor], Tensor]) -> Conditions:
        return Conditions(
            {name: function(value) for name, value in self.values.items()},
            {name: function(mask) for name, mask in self.absent.items()},
            {name: function(mask) for name, mask in self.unknown.items()},
        )
