"""Set values in the text of a bundle's YAML, whose comments and order stay as they are.

What is written is a value and can be nothing else: a text that MONAI would take for an expression, a
reference or a macro is refused, wherever in a list or a mapping it stands.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from medldm.errors import ConfigError

_PLAIN = re.compile(r"[\w .:+()\-]*")
"""Names of structures, columns, channels and settings: nothing that begins or separates an expression."""
_RESERVED = re.compile(r"_\w+_")
"""`_target_`, `_mode_` and the like."""
_INFINITE = {"inf": math.inf, "-inf": -math.inf}
"""How a card, which is JSON, says them."""


def is_plain(value: Any) -> bool:
    """Whether a value is numbers, words and lists and mappings of them, none of which MONAI would run."""
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and is_plain(key) and is_plain(each) for key, each in value.items())
    if isinstance(value, (list, tuple)):
        return all(map(is_plain, value))
    if isinstance(value, str):
        is_word = bool(_PLAIN.fullmatch(value)) and "::" not in value
        return is_word and not _RESERVED.fullmatch(value)
    return value is None or isinstance(value, (bool, int, float))


def write_value(value: Any) -> str:
    """Return a value as YAML in one line.

    Raises:
        ConfigError: if it is not plain.

    Examples:
        >>> write_value({"kind": "ct_window", "lower": -1000.0})
        '{kind: ct_window, lower: -1000.0}'
    """
    if not is_plain(value):
        raise ConfigError(f"{value!r:.80} is no plain value: numbers, and words of letters and digits, are")
    plain = _as_lists(value)
    text = yaml.safe_dump(plain, default_flow_style=True, sort_keys=False, width=10**6, allow_unicode=True)
    return text.removesuffix("\n...\n").strip()


def set_values(text: str, values: Mapping[str, Any], *, block: Sequence[str] = ()) -> str:
    """Return a YAML text with other values.

    Args:
        text: of the file, indented by two spaces.
        values: name to value, plain; a name that the block lacks is added at its top.
        block: names of the mappings in which they stand, outermost first; () for the top level.

    Raises:
        ConfigError: if there is no such block, or a value is not plain.
    """
    lines = text.splitlines()
    first, last = _find_block(lines, block)
    indent = "  " * len(block)
    added = []
    for name, value in values.items():
        written = write_value(value)
        found = next(
            (place for place in range(first, last) if lines[place].startswith(f"{indent}{name}:")), None
        )
        if found is None:
            added.append(f"{indent}{name}: {written}")
        else:
            comment = re.search(r"\s+# .*$", lines[found])
            lines[found] = f"{indent}{name}: {written}{comment[0] if comment else ''}"
    return "\n".join([*lines[:first], *added, *lines[first:]]) + "\n"


def _find_block(lines: Sequence[str], block: Sequence[str]) -> tuple[int, int]:
    """Return the lines of a block, without its head."""
    first, last = 0, len(lines)
    for depth, name in enumerate(block):
        head = "  " * depth + f"{name}:"
        found = next((place for place in range(first, last) if lines[place].split(" #")[0] == head), None)
        if found is None:
            raise ConfigError(f"the config has no {'#'.join(block)}: take a bundle of medldm's own")
        inner = "  " * (depth + 1)
        first = found + 1
        ends = (place for place in range(first, last) if lines[place] and not lines[place].startswith(inner))
        last = next(ends, last)
    return first, last


def _as_lists(value: Any) -> Any:
    """Return a value as YAML's own types."""
    if isinstance(value, Mapping):
        return {key: _as_lists(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_as_lists(each) for each in value]
    return _INFINITE.get(value, value) if isinstance(value, str) else value
