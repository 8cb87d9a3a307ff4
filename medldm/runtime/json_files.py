"""Read JSON that others wrote: no doubled keys, no endless nesting, no half characters; the file is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from medldm.errors import ConfigError

MAX_DEPTH = 64
"""Lists and mappings inside each other; Python's own reader ends far deeper, in a RecursionError."""


class JsonError(ConfigError):
    """Report a file that is no JSON, or JSON that reads otherwise than it looks."""


def read_json(path: str | Path, *, name: str | None = None) -> Any:
    """Read a JSON file.

    Args:
        path: of the file, in UTF-8.
        name: of the file in errors; the path's last part if not given.

    Raises:
        JsonError: naming the file.
        OSError: where it cannot be opened.
    """
    return parse_json(Path(path).read_bytes(), name=name or Path(path).name)


def parse_json(content: bytes | str, *, name: str) -> Any:
    """Parse JSON text.

    Args:
        content: the text, or its bytes in UTF-8.
        name: of the file it is from, for errors.

    Raises:
        JsonError: where it is no JSON in UTF-8, is nested deeper than `MAX_DEPTH`, has a key twice in one
            mapping, or holds half of a surrogate pair.

    Examples:
        >>> parse_json('{"a": [1, 2]}', name="a.json")
        {'a': [1, 2]}
    """
    try:
        text = content.decode("utf-8-sig") if isinstance(content, bytes) else content
        read = json.loads(text, object_pairs_hook=_without_doubles)
        _require_shallow(read)
        # A half of a pair, written as \\udXXX, is the one text that JSON can hold and no file can.
        if "\\u" in text:
            json.dumps(read, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        raise JsonError(f"{name} is not JSON: byte {error.start} is not UTF-8; write it again") from error
    except UnicodeEncodeError as error:
        raise JsonError(
            f"{name} holds half of a surrogate pair (\\udXXX) in a text; write it again"
        ) from error
    except RecursionError as error:
        raise JsonError(f"{name} is nested deeper than {MAX_DEPTH}; write it again") from error
    except ValueError as error:
        raise JsonError(f"{name} is not JSON ({error}); write it again") from error
    return read


def _require_shallow(content: Any) -> None:
    waiting = [(content, 1)]
    while waiting:
        value, depth = waiting.pop()
        parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        if depth > MAX_DEPTH and isinstance(value, dict | list):
            raise ValueError(f"it is nested deeper than {MAX_DEPTH}")
        waiting += [(part, depth + 1) for part in parts if isinstance(part, dict | list)]


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        doubled = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {doubled!r} is there twice in one mapping; keep one")
    return content
