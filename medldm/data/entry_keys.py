"""Keys of a cohort's list that nothing reads: a misspelt one is an error, others are named once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from medldm.configs import nearest_name
from medldm.data.issues import Issue
from medldm.data.partly_labelled import STRUCTURES_IN_MAP

ENTRY_KEYS = (
    "image",
    "label",
    "condition_image",
    "id",
    "subject",
    "class",
    "classes",
    "scalars",
    "text",
    STRUCTURES_IN_MAP,
)
"""What an entry of a split's list may say."""

LIST_KEYS = ("training", "validation", "test", "channels")
"""What a list may hold; those of other tools, such as "name" or "modality", are passed over."""

_ALIKE = 0.75
_SHOWN = 5


def check_list_keys(content: Mapping[str, Any], *, name: str) -> list[Issue]:
    """Check the keys of a list and of its entries.

    Args:
        content: of the JSON file.
        name: of the file, for messages.

    Returns:
        An error for each key that is nearly one that is read and that its mapping lacks; a warning that names
        the other keys of the entries.
    """
    issues = _find_misspelt(content, LIST_KEYS, name=name, place="the list")
    others: dict[str, int] = {}
    for place, entry in _entries(content):
        misspelt = _find_misspelt(entry, ENTRY_KEYS, name=name, place=place)
        issues += misspelt
        for key in entry.keys() - set(ENTRY_KEYS) if not misspelt else ():
            others[str(key)] = others.get(str(key), 0) + 1
    if others:
        shown = ", ".join(f"{key!r} of {n}" for key, n in sorted(others.items())[:_SHOWN])
        more = "" if len(others) <= _SHOWN else f" and {len(others) - _SHOWN} more"
        message = (
            f"entries have keys that nothing reads ({shown}{more}); numbers belong into scalars, categories "
            "into classes"
        )
        issues.append(Issue.warning("datalist", name, message))
    return issues


def _entries(content: Mapping[str, Any]) -> Iterable[tuple[str, Mapping[str, Any]]]:
    for split in ("training", "validation", "test"):
        for index, entry in enumerate(content.get(split, ())):
            if isinstance(entry, Mapping):
                yield f"{split}[{index}]", entry


def _find_misspelt(mapping: Mapping[str, Any], known: Sequence[str], *, name: str, place: str) -> list[Issue]:
    absent = [key for key in known if key not in mapping]
    issues = []
    for key in mapping:
        if key not in known and (near := nearest_name(str(key).lower(), absent, alike=_ALIKE)) is not None:
            message = f"{place} has the key {key!r}, which nothing reads; did you mean {near!r}?"
            issues.append(Issue.error("datalist", name, message))
    return issues
