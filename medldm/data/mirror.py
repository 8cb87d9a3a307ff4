"""Which structures change places in a mirror image, found by the sides in their names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from medldm.errors import ConfigError

_SIDES = {"left": "right", "right": "left", "lh": "rh", "rh": "lh", "l": "r", "r": "l"}
# "left" and "right" anywhere in a name, the short forms only as a word of their own.
_SIDE = re.compile(r"left|right|(?<![a-z0-9])(?:lh|rh|l|r)(?![a-z0-9])", re.IGNORECASE)
_ASYMMETRIC = {
    *("aorta", "appendix", "atrium", "bowel", "cava", "colon", "duodenum", "gallbladder", "heart"),
    *("jejunum", "liver", "pancreas", "rectosigmoid", "spleen", "stomach"),
}


def other_side(name: str) -> str | None:
    """Return a structure's name with its side changed; None for one without a side.

    Examples:
        >>> other_side("Left parotid"), other_side("ctx-lh-cuneus"), other_side("larynx")
        ('Right parotid', 'ctx-rh-cuneus', None)
    """
    changed = _SIDE.sub(lambda found: _in_case_of(found[0], _SIDES[found[0].lower()]), name)
    return None if changed == name else changed


def find_pairs(names: Sequence[str]) -> dict[str, str]:
    """Return the pairs among names that differ in the side only, left -> right or right -> left, each once.

    Examples:
        >>> find_pairs(["right eye", "left eye", "nose", "left arm"])
        {'right eye': 'left eye'}
    """
    by_lower = {name.lower(): name for name in names}
    pairs: dict[str, str] = {}
    for name in names:
        other = by_lower.get((other_side(name) or "").lower())
        if other is not None and other not in pairs:
            pairs[name] = other
    return pairs


def why_no_mirror(names: Sequence[str], pairs: Mapping[str, str]) -> str | None:
    """Say why a mirror image of a volume with these structures is not known to be sound; None where it is.

    Args:
        names: of all structures.
        pairs: those that change places.
    """
    if not pairs:
        return "no structure is named as left or right, so nothing says what a mirror image shows"
    paired = {*pairs, *pairs.values()}
    if alone := [name for name in names if other_side(name) is not None and name not in paired]:
        return f"{alone} have a side, and no structure is named as the other side"
    if fixed := [name for name in names if set(re.split(r"[^a-z]+", name.lower())) & _ASYMMETRIC]:
        return f"{fixed} lie on one side of the body"
    return None


def check_pairs(pairs: Any, names: Sequence[str]) -> dict[str, str]:
    """Return given pairs, each once.

    Raises:
        ConfigError: where they are not pairs of structures, or a structure is in two of them.
    """
    if not isinstance(pairs, Mapping):
        raise ConfigError(f'mirror is {pairs!r}; pairs such as {{"left eye": "right eye"}} are needed')
    found: dict[str, str] = {}
    for one, other in pairs.items():
        if found.get(other) == one:
            continue
        if unknown := [name for name in (one, other) if name not in names]:
            raise ConfigError(f"mirror names {unknown}, which are no structures; there are {list(names)}")
        if one == other or {one, other} & {*found, *found.values()}:
            raise ConfigError(f"mirror has {one!r} -> {other!r}: each structure stands in one pair at most")
        found[one] = other
    return found


def _in_case_of(like: str, word: str) -> str:
    if like.isupper():
        return word.upper()
    return word.capitalize() if like[0].isupper() else word
