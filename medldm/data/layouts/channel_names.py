"""The names of channels in a dataset.json, made fit for file names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any

from medldm.data.channels import check_channel_names
from medldm.data.issues import Issue
from medldm.errors import ConfigError

_LONGEST = 48
"""Leaves room for the number of a name that is there twice."""


def declared_channels(
    content: Mapping[str, Any], *, file: str, problems: list[Issue]
) -> dict[int, str] | None:
    """Return the channels that a dataset.json declares, number -> name, in order.

    Args:
        content: of it, with "channel_names" (nnU-Net 2) or "modality" (nnU-Net 1 and MSD).
        file: its name, for the problems.
        problems: receives an error for what is no such object, and a warning where names had to change.

    Returns:
        Plain names, each once, whatever its letters' case; None where it declares none, or none that are fit.
    """
    named = content.get("channel_names", content.get("modality"))
    if isinstance(named, list):
        named = dict(enumerate(named))
    if named is None:
        return None
    if not isinstance(named, Mapping) or not all(str(key).isdigit() for key in named):
        message = 'its "channel_names" or "modality" are no object such as {"0": "T1"}; correct them'
        problems.append(Issue.error("channel", file, message))
        return None
    numbers = {int(key): str(name) for key, name in named.items()}
    given = [numbers[number] for number in sorted(numbers)]
    names = plain_names(given)
    if len(names) > 1 and list(names) != given:
        message = f"its channels are called {', '.join(names)} here: plain names, each once"
        problems.append(Issue.warning("channel", file, message))
    return dict(zip(sorted(numbers), names, strict=True))


def plain_names(names: Sequence[str]) -> tuple[str, ...]:
    """Return names that can be channels: those given where they can, else plain ones, numbered if repeated.

    Examples:
        >>> plain_names(["FLAIR", "T1 (w)", "flair", "?"])
        ('FLAIR', 'T1-w', 'flair-2', 'channel')
    """
    if _are_fit(names):
        return tuple(names)
    chosen: list[str] = []
    for name in names:
        plain = re.sub(r"[^A-Za-z0-9.+-]+", "-", name).strip("-.+")[:_LONGEST] or "channel"
        taken = {other.lower() for other in chosen}
        numbered = (plain if number == 1 else f"{plain}-{number}" for number in count(1))
        chosen.append(next(each for each in numbered if each.lower() not in taken))
    return tuple(chosen)


def _are_fit(names: Sequence[str]) -> bool:
    if len({name.lower() for name in names}) < len(names):
        return False
    try:
        check_channel_names(names)
    except ConfigError:
        return False
    return True
