"""Turn named structures into label maps whose values mean the same in the whole cohort."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from medldm.data.preparation.labels import LabelTable
from medldm.errors import ConfigError
from medldm.transforms.errors import VoxelValueError


def structure_values(names: Iterable[str], table: LabelTable) -> dict[str, int]:
    """Give every structure of a cohort its value: that of the label table, or its place in the alphabet.

    Names that differ only in case and separators, as those of two vendors may, are one structure.

    Args:
        names: of all structures of all cases.
        table: of the run; its rows and names decide where it has any. A row may drop a structure with 0.

    Raises:
        ConfigError: for structures that the table does not name.

    Examples:
        >>> structure_values(["spleen", "liver"], LabelTable())
        {'liver': 1, 'spleen': 2}
    """
    found = sorted(set(names))
    if not table.names and not table.by_name:
        numbers: dict[str, int] = {}
        for name in found:
            numbers.setdefault(plain_name(name), len(numbers) + 1)
        return {name: numbers[plain_name(name)] for name in found}
    known = {plain_name(name): value for value, name in table.names.items()}
    known |= {plain_name(name): value for name, value in table.by_name.items()}
    if unknown := [name for name in found if plain_name(name) not in known]:
        shown = ", ".join(unknown[:10]) + (", ..." if len(unknown) > 10 else "")
        raise ConfigError(
            f"the label table names no structure {shown}; add a row for each, with 0 to drop it, or leave "
            "the table out"
        )
    return {name: known[plain_name(name)] for name in found}


def merge_structures(
    masks: Mapping[str, np.ndarray],
    names: Sequence[str],
    *,
    shape: tuple[int, ...],
    values: Mapping[str, int],
    priority: Sequence[str] = (),
) -> np.ndarray:
    """Merge masks to one label map.

    Args:
        masks: name -> (X, Y, Z) bool; each is asked for once.
        names: of the masks.
        shape: (X, Y, Z).
        values: name -> value; 0 leaves a structure out.
        priority: structures that win where masks overlap, the strongest first.

    Returns:
        (X, Y, Z), the smallest unsigned type that holds the values.

    Raises:
        VoxelValueError: where masks overlap of which none is in `priority`; names both and counts the voxels.
    """
    ranks = {plain_name(name): rank for rank, name in enumerate(priority)}
    kept = [name for name in names if values[name]]
    ordered = sorted(kept, key=lambda name: (ranks.get(plain_name(name), len(ranks)), name))
    dtype = np.min_scalar_type(max((values[name] for name in names), default=0))
    merged = np.zeros(shape, dtype=dtype)
    winners = {values[name]: name for name in reversed(ordered)}
    for name in ordered:
        mask = masks[name]
        taken = mask & (merged != 0) & (merged != values[name])
        for value in np.unique(merged[taken]).tolist():
            if plain_name(winners[value]) not in ranks:
                n_voxels = int((merged[taken] == value).sum())
                raise VoxelValueError(
                    f"its masks of {winners[value]} and {name} overlap in {n_voxels} voxels; correct them, "
                    f"or say which wins: --priority {winners[value]},{name}"
                )
        merged[mask & (merged == 0)] = values[name]
    return merged


def absent_structures(cases: Sequence[Iterable[str]]) -> list[str]:
    """Say of each structure in how many of the cases it has no mask; cases without a mask do not count."""
    held = [set(names) for names in cases if names]
    lines = []
    for name in sorted(set().union(*held)):
        n_absent = sum(name not in names for names in held)
        if n_absent:
            lines.append(f"{name} has no mask in {n_absent} of {len(held)} cases and is absent there")
    return lines


def is_named(name: str, names: Iterable[str]) -> bool:
    """Say whether a name is among others, whatever its case and its separators."""
    return plain_name(name) in {plain_name(other) for other in names}


def plain_name(name: str) -> str:
    """Return the form in which names are compared: lower case, separators alike."""
    return re.sub(r"[-_.\s]+", "_", name.strip().lower())
