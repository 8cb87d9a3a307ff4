"""Partly labelled cohorts: a structure that is absent from a map may not have been looked for.

labels.json says under "partly_labelled" of which structures this is so. A case may say itself, under
"structures_in_map" of its entry in a list or in the column of that name of the table of subjects, which
structures its map covers. What such a list says comes first. Without one, a structure that is partly labelled
and has no voxel in the whole file is unknown, and every other structure was looked for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medldm.configs import unknown_name_message
from medldm.data.file_info_cache import gather_file_info
from medldm.data.issues import Issue
from medldm.errors import ConfigError

PARTLY_LABELLED = "partly_labelled"
"""Key of labels.json: true for all structures, or a list of their names."""

STRUCTURES_IN_MAP = "structures_in_map"
"""Key of a case, column of a table, option of a generation: the structures that a map covers."""

_SEPARATORS = re.compile(r"[|;,]")


def read_partly_labelled(value: Any, names: Sequence[str]) -> tuple[str, ...]:
    """Return the structures of which absence from a map says nothing, in the order of `names`.

    Args:
        value: true for all, false or None for none, or names.
        names: of all structures.

    Raises:
        ConfigError: for something else, or a name that is no structure.
    """
    if value is None or isinstance(value, bool):
        return tuple(names) if value else ()
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise ConfigError(
            f"{PARTLY_LABELLED} is {value!r}; true, false or a list of names of structures is needed"
        )
    return _in_order(value, names, kind=f"structure in {PARTLY_LABELLED}")


def read_structures_in_map(value: Any, structures: Mapping[int, str]) -> tuple[str, ...]:
    """Return the names of the structures that a map covers, in the order of their values.

    Args:
        value: names or values in a list; or one text, of a table's cell or a command line, in which they are
            separated by | ; or a comma, in brackets or not.
        structures: value in the files to name, of all structures.

    Raises:
        ConfigError: for something else, or what is no structure.
    """
    if isinstance(value, str):
        parts = _SEPARATORS.split(value.strip().strip("[]()"))
        value = [part.strip().strip("'\"") for part in parts if part.strip()]
    if not isinstance(value, Iterable) or isinstance(value, Mapping):
        raise ConfigError(
            f"{STRUCTURES_IN_MAP} is {value!r}; a list of names of structures is needed, such as "
            f"{list(structures.values())[:2]}"
        )
    named = [structures.get(each, each) if isinstance(each, int) else each for each in value]
    return _in_order(named, _names(structures), kind=f"structure in {STRUCTURES_IN_MAP}")


def _in_order(found: Iterable[Any], names: Sequence[str], *, kind: str) -> tuple[str, ...]:
    wanted = {str(name) for name in found}
    for name in sorted(wanted - set(names)):
        raise ConfigError(unknown_name_message(name, names, kind=kind))
    return tuple(name for name in names if name in wanted)


def _names(structures: Mapping[int, str]) -> list[str]:
    return [structures[value] for value in sorted(structures)]


def covered_structures(
    present: Iterable[int], structures: Mapping[int, str], partly_labelled: Sequence[str]
) -> tuple[str, ...]:
    """Return the structures that a map without a list of its own covers.

    Args:
        present: values that the whole map holds.
        structures: value to name.
        partly_labelled: of which absence says nothing.
    """
    found = set(present)
    return tuple(
        structures[value]
        for value in sorted(structures)
        if value in found or structures[value] not in partly_labelled
    )


def unknown_structures(covered: Sequence[str] | None, structures: Mapping[int, str]) -> Tensor:
    """Return (K,) bool in the order of the structures' values: which a map does not cover.

    Args:
        covered: names of those that it does; None for all.
        structures: value to name.
    """
    names = _names(structures)
    return torch.tensor([covered is not None and name not in covered for name in names], dtype=torch.bool)


def count_unknown(cases: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Return structure -> number of label maps that do not cover it, of cases that say what theirs covers.

    Structures that all maps cover, and those that none covers, are left out.
    """
    listed = [case[STRUCTURES_IN_MAP] for case in cases if STRUCTURES_IN_MAP in case]
    names = dict.fromkeys(name for covered in listed for name in covered)
    counts = {name: sum(name not in covered for covered in listed) for name in names}
    return {name: count for name, count in counts.items() if count}


def settle_structures(
    cases: Sequence[dict[str, Any]],
    structures: Mapping[int, str],
    partly_labelled: Sequence[str],
    *,
    root: Path,
    issues: list[Issue],
) -> dict[str, int]:
    """Give each labelled case its "structures_in_map", if the cohort is partly labelled.

    Args:
        cases: of all splits; nothing is changed where neither labels.json nor any case declares something.
        structures: value to name.
        partly_labelled: as labels.json says.
        root: the cohort's folder.
        issues: receives lists that cannot be right.

    Returns:
        Structure -> number of label maps in which it is unknown; those with none are left out.
    """
    if not partly_labelled and not any(STRUCTURES_IN_MAP in case for case in cases):
        return {}
    labelled = [case for case in cases if "label" in case]
    file_info = gather_file_info([(case["label"], True) for case in labelled], root=root)
    unknown = dict.fromkeys(_names(structures), 0)
    for case in cases:
        counts = {} if "label" not in case else file_info[case["label"]].label_counts or {}
        listed = case.pop(STRUCTURES_IN_MAP, None)
        if "label" not in case:
            continue
        covered = _covered(case["id"], listed, counts, structures, partly_labelled, issues=issues)
        case[STRUCTURES_IN_MAP] = list(covered)
        for name in unknown.keys() - set(covered):
            unknown[name] += 1
    return {name: count for name, count in unknown.items() if count}


def _covered(
    name: str,
    listed: Any,
    counts: Mapping[int, int],
    structures: Mapping[int, str],
    partly_labelled: Sequence[str],
    *,
    issues: list[Issue],
) -> tuple[str, ...]:
    present = [value for value, count in counts.items() if count]
    covered = covered_structures(present, structures, partly_labelled)
    if listed is None:
        return covered
    try:
        read = read_structures_in_map(listed, structures)
    except ConfigError as error:
        issues.append(Issue.error(STRUCTURES_IN_MAP, name, str(error)))
        return covered
    drawn = [structures[value] for value in sorted(present) if value in structures]
    if surplus := [each for each in drawn if each not in read]:
        message = (
            f"its label map holds {', '.join(surplus)}, which its {STRUCTURES_IN_MAP} does not name: taken "
            "as unknown; name what the map covers"
        )
        issues.append(Issue.warning(STRUCTURES_IN_MAP, name, message))
    return read
