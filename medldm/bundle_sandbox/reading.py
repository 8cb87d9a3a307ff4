"""Read a config file as plain values, within limits: no aliases, no tags, no doubled keys, bounded size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from medldm.bundle_sandbox.errors import refuse
from medldm.bundle_sandbox.rules import MAX_DEPTH, MAX_FILE_BYTES, MAX_NODES

SUFFIXES = (".json", ".yaml", ".yml")


def read_config_file(path: str | Path) -> dict[str, Any]:
    """Read a JSON or YAML file.

    Raises:
        ConfigRefused: naming the file, if it is another format, too large or too deep, uses YAML's aliases or
            tags, or is no mapping of names to plain values.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise refuse(str(path), f"a config ends in {', '.join(SUFFIXES)}")
    text = read_text(path)
    try:
        if path.suffix.lower() == ".json":
            content = json.loads(text, object_pairs_hook=_without_doubles)
        else:
            _check_events(text)
            content = _construct(text)
    except (ValueError, TypeError, yaml.YAMLError, RecursionError) as error:
        raise refuse(
            str(path), f"it cannot be read as plain values ({error or type(error).__name__})"
        ) from error
    if not isinstance(content, dict):
        raise refuse(str(path), "it is no mapping of keys to values")
    count_nodes(content, key=str(path))
    return content


def read_text(path: Path) -> str:
    """Read a text file that is not longer than a config may be.

    Raises:
        ConfigRefused: if it is longer, no regular file, or not UTF-8.
    """
    if not path.is_file():
        raise refuse(str(path), "there is no such file")
    with path.open("rb") as file:
        content = file.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        raise refuse(str(path), f"it is larger than {MAX_FILE_BYTES} bytes")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise refuse(str(path), "it is not text in UTF-8") from error


def count_nodes(content: Any, *, key: str) -> int:
    """Return how many values there are; refuse too many, too deep a nesting and values that are not plain.

    Raises:
        ConfigRefused: naming `key`.
    """
    count, waiting = 0, [(content, 0)]
    while waiting:
        value, depth = waiting.pop()
        count += 1
        if count > MAX_NODES or depth > MAX_DEPTH:
            raise refuse(key, f"it has more than {MAX_NODES} values or is nested deeper than {MAX_DEPTH}")
        if isinstance(value, dict):
            waiting += [(part, depth + 1) for part in value.values()]
        elif isinstance(value, (list, tuple)):
            waiting += [(part, depth + 1) for part in value]
        elif not (value is None or isinstance(value, (str, int, float))):
            raise refuse(key, f"it holds a value of type {type(value).__name__}; text and numbers are read")
    return count


class _Loader(yaml.SafeLoader):
    """A safe loader that refuses doubled keys, of which only the last would count."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        pairs = [(self.construct_object(key, deep=True), value) for key, value in node.value]
        return _without_doubles([(key, self.construct_object(value, deep=True)) for key, value in pairs])


def _construct(text: str) -> Any:
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def _without_doubles(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [str(name) for name, _ in pairs]
        raise ValueError(f"the key {next(n for n in names if names.count(n) > 1)!r} is there twice")
    return content


def _check_events(text: str) -> None:
    """Look at the tokens before anything is built of them: an alias can stand for a billion values."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise ValueError(f"it uses the alias *{event.anchor}; write the values out, or use %key")
        if isinstance(event, (yaml.ScalarEvent, yaml.CollectionStartEvent)) and event.tag is not None:
            raise ValueError(f"it uses the tag {event.tag}; plain values need none")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise ValueError(f"it is nested deeper than {MAX_DEPTH}")
