"""Check a logging.conf before it is applied: `fileConfig` evaluates some of its fields as code."""

from __future__ import annotations

import configparser
import io
from collections.abc import Mapping
from logging.config import fileConfig
from pathlib import Path

from medldm.bundle_sandbox.errors import refuse
from medldm.bundle_sandbox.reading import read_text

_KEYS: Mapping[str, frozenset[str]] = {
    "list": frozenset({"keys"}),
    "logger": frozenset({"level", "handlers", "propagate", "qualname"}),
    "handler": frozenset({"class", "level", "formatter", "args"}),
    "formatter": frozenset({"format", "datefmt"}),
}
# Handlers that neither open a file nor a connection.
_CLASSES = ("StreamHandler", "NullHandler", "logging.StreamHandler", "logging.NullHandler")
_ARGUMENTS = ("", "()", "(sys.stdout,)", "(sys.stderr,)")


def apply_logging_file(path: Path) -> None:
    """Check a logging file, and apply the very text that was checked.

    Raises:
        ConfigRefused: naming the file, the section and the field.
    """
    text = read_text(path)
    _check(text, path)
    fileConfig(io.StringIO(text), disable_existing_loggers=False)


def _check(text: str, path: Path) -> None:
    parser = configparser.RawConfigParser()
    try:
        parser.read_string(text)
    except configparser.Error as error:
        raise refuse(str(path), f"it is no logging configuration ({error.__class__.__name__})") from error
    if parser.defaults():
        raise refuse(
            f"{path} [{parser.default_section}]", "defaults are filled into other fields; write them out"
        )
    for section in parser.sections():
        kind = "list" if section in ("loggers", "handlers", "formatters") else section.partition("_")[0]
        for field, value in parser.items(section):
            where = f"{path} [{section}] {field}"
            if field not in _KEYS.get(kind, ()):
                raise refuse(where, f"{value!r} is a field that is not read")
            if field == "class" and value not in _CLASSES:
                raise refuse(where, f"{value!r}; {', '.join(_CLASSES)} may be named")
            if field == "args" and "".join(value.split()) not in _ARGUMENTS:
                raise refuse(where, f"{value!r}; (sys.stdout,) and (sys.stderr,) may be given")
            if field not in ("format", "datefmt") and "%" in value:
                raise refuse(where, f"{value!r}; a % is filled in later")
