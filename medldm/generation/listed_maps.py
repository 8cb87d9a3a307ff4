"""Label maps of a cohort that says for each which structures it covers, see `medldm.data.partly_labelled`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medldm.conditioning import ConditioningConfig
from medldm.data.partly_labelled import STRUCTURES_IN_MAP
from medldm.data.preparation.labels import LabelTable

LISTED = "listed"
"""Key of a request: the `ListedMap` that its label map is."""


@dataclass(frozen=True, kw_only=True)
class ListedMap:
    """A label map, and what its cohort says of it.

    Args:
        path: of the file.
        known: values in the file of the structures that were looked for.
        unknown: values of those that were not.

    Examples:
        >>> case = {"label": "a.nii.gz", "structures_in_map": ["shell"]}
        >>> ListedMap.of_case(case, {1: "shell", 5: "core"})
        ListedMap(path='a.nii.gz', known=(1,), unknown=(5,))
    """

    path: str
    known: tuple[int, ...]
    unknown: tuple[int, ...]

    @classmethod
    def of_case(cls, case: Mapping[str, Any], structures: Mapping[int, str]) -> ListedMap:
        """Return the map of a case that says which of its cohort's structures (value to name) it covers."""
        named = set(case[STRUCTURES_IN_MAP])
        known = tuple(value for value, name in structures.items() if name in named)
        unknown = tuple(value for value in structures if value not in known)
        return cls(path=case["label"], known=known, unknown=unknown)

    def covered(
        self, otherwise: Sequence[str], config: ConditioningConfig, *, table: LabelTable | None = None
    ) -> tuple[str, ...]:
        """Return the structures of a model that the map covers, in the order of their values.

        Args:
            otherwise: those that it covers if the cohort says nothing: of structures that the cohort does not
                have, and of those that the model cannot be told as unknown.
            config: of the model.
            table: how values of the map become the model's.
        """
        names = set(otherwise) | self._names(self.known, config, table)
        unknown = self._names(self.unknown, config, table) & set(config.may_be_unknown)
        return tuple(name for name in config.structure_names if name in names - unknown)

    def beyond(self, config: ConditioningConfig, *, table: LabelTable | None = None) -> list[str]:
        """Return the structures that the map does not cover and that the model always knew in training."""
        unknown = self._names(self.unknown, config, table)
        return [name for name in config.structure_names if name in unknown - set(config.may_be_unknown)]

    @staticmethod
    def _names(values: Iterable[int], config: ConditioningConfig, table: LabelTable | None) -> set[str]:
        mapping = None if table is None else table.mapping
        own = values if mapping is None else (mapping.get(value, 0) for value in values)
        return {config.structures[value] for value in own if value in config.structures}
