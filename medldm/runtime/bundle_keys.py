"""Refuse keys that a bundle's config does not have: MONAI sets them and nothing reads them.

A key is checked against the config files that the same command names. Below a component any argument may be
given, since the component itself refuses one that it does not take.
"""

from __future__ import annotations

import re
import sys
from ast import literal_eval
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from medldm.configs import unknown_name_message
from medldm.errors import ConfigError
from medldm.runtime.command_lines import is_command_of_monai
from medldm.runtime.json_files import read_json

RUN_ARGUMENTS = (
    *("run_id", "init_id", "final_id", "config_file", "meta_file", "logging_file", "args_file"),
    *("tracking", "workflow_name", "workflow_type", "properties_path"),
)
"""What `monai.bundle run` takes beside the keys of a config."""

TRACKING_ARGUMENTS = ("tracking_uri", "experiment_name", "run_name", "save_execute_config", "output_dir")
"""What it takes with --tracking."""

_FLAG = re.compile(r"--|-[a-zA-Z]")
_SEPARATOR = re.compile(r"#|::")
_TARGET, _MACRO, _META = "_target_", "%", "_meta_"

Read = Callable[[str], Mapping[str, Any]]


def check_keys(keys: Iterable[str], content: Mapping[str, Any]) -> None:
    """Refuse keys that a config does not have.

    Args:
        keys: such as "n_epochs" or "train#dataset#cache_rate".
        content: of the config files, merged.

    Raises:
        ConfigError: with the nearest key that is there.
    """
    for key in keys:
        _check_key(key, content)


def check_command_line(arguments: Sequence[str], *, read: Read | None = None) -> None:
    """Check the keys of a command line of `monai.bundle run` or `medldm run`, given without "run".

    Args:
        arguments: such as ["--config_file", "train.yaml", "--n_epochs", "3"], read as MONAI reads them.
        read: reads a config file; None reads YAML and JSON. Files that are missing are left to who runs them.

    Raises:
        ConfigError: naming the first key that no config file has.
    """
    read = read or read_plain
    given = split_arguments(arguments)
    defaults = given.get("args_file")
    if defaults is not None and Path(defaults).is_file():
        given = {**read(defaults), **given}
    files = _list_files(given.get("config_file"))
    if not files or not all(Path(file).is_file() for file in files):
        return
    content: dict[str, Any] = {}
    for file in files:
        for key, value in read(file).items():
            _merge(content, key, value)
    known = {*RUN_ARGUMENTS, *(TRACKING_ARGUMENTS if given.get("tracking") is not None else ())}
    check_keys([key for key in given if key not in known], content)


def check_command_of_monai() -> None:
    """Check this process's command line if `python -m monai.bundle run` began it; else do nothing."""
    if is_command_of_monai() and sys.argv[1:2] == ["run"]:
        check_command_line(sys.argv[2:])


def split_arguments(arguments: Sequence[str]) -> dict[str, str]:
    """Return the names and texts of "--name value" and "--name=value", as Python Fire tells them apart."""
    own = list(arguments)[: list(arguments).index("--")] if "--" in arguments else list(arguments)
    found = {}
    for place, argument in enumerate(own):
        if not _FLAG.match(argument):
            continue
        name, sign, value = argument.lstrip("-").partition("=")
        following = own[place + 1 : place + 2]
        if not sign:
            value = following[0] if following and not _FLAG.match(following[0]) else "True"
        found[name.replace("-", "_")] = value
    return found


def read_plain(file: str) -> Mapping[str, Any]:
    """Read a YAML or JSON file; one that is no mapping has no keys."""
    import yaml

    try:
        is_json = Path(file).suffix == ".json"
        content = read_json(file) if is_json else yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeError, RecursionError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(f"{file} cannot be read as YAML ({reason}): correct it") from error
    return content if isinstance(content, Mapping) else {}


def _list_files(value: Any) -> list[str]:
    """Return the files that config_file names: one, several with commas, or a list as text."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "("):
        try:
            value = literal_eval(value)
        except (ValueError, SyntaxError):
            value = [part.strip().strip("'\"") for part in value.strip(" []()").split(",")]
    if isinstance(value, str):
        return [value] if Path(value).is_file() or "," not in value else value.split(",")
    return [str(file) for file in value or ()]


def _merge(content: dict[str, Any], key: str, value: Any) -> None:
    """Put what a file says into the content, as MONAI does: "a#b" goes one level down, "+a" adds."""
    *parents, last = _SEPARATOR.split(key.removeprefix("+"))
    place: Any = content
    for part in parents:
        place = place.setdefault(part, {}) if isinstance(place, dict) else {}
    if not isinstance(place, dict):
        return
    former = place.get(last)
    if key.startswith("+") and isinstance(former, dict) and isinstance(value, Mapping):
        value = {**former, **value}
    elif key.startswith("+") and isinstance(former, list) and isinstance(value, list):
        value = former + value
    place[last] = value


def _check_key(key: str, content: Mapping[str, Any]) -> None:
    place: Any = content
    parts = _SEPARATOR.split(key)
    if parts[0] == _META:
        return
    for depth, part in enumerate(parts):
        if isinstance(place, str) and place.startswith(_MACRO):
            return
        is_last = depth == len(parts) - 1
        if is_last and depth > 0 and isinstance(place, Mapping) and _TARGET in place:
            return
        names = _names_in(place)
        if part not in names:
            before = "#".join(parts[:depth])
            known = [f"{before}#{name}" if before else name for name in names if not name.startswith("_")]
            raise ConfigError(_word(key, "#".join(parts[: depth + 1]), known, before=before))
        place = place[part] if isinstance(place, Mapping) else place[int(part)]


def _names_in(place: Any) -> list[str]:
    if isinstance(place, Mapping):
        return [str(name) for name in place]
    return [str(index) for index in range(len(place))] if isinstance(place, list) else []


def _word(key: str, unknown: str, known: list[str], *, before: str) -> str:
    if not known:
        return f"Unknown key {key!r} of the config: {before!r} has no keys; set it as a whole."
    return unknown_name_message(unknown, known, kind="key of the config")
