"""Names of structures, cases, channels, columns: checked where they enter, shown so that no terminal obeys.

A name travels: into file names, JSON, figures, tables on a terminal. One rule holds for all of them, so that
none is met by surprise at the end of a long work.
"""

from __future__ import annotations

import io
import logging
import unicodedata
from typing import Any, TextIO

from medldm.errors import ConfigError

MAX_NAME = 255
"""Characters; what most file systems allow for a file's name, in bytes."""

_REFUSED = ("Cc", "Cs", "Zl", "Zp")
"""Unicode's categories of control characters, halves of surrogate pairs, and line and paragraph ends."""
_TURNING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff")
"""Characters that turn the direction of a text, so that it reads otherwise than it is; and a byte order mark.

Source: Unicode Standard Annex 9, section 2; Boucher and Anderson, "Trojan Source" (arXiv 2111.00169)."""


def name_problem(name: object) -> str | None:
    """Say why a name is refused, None for one that is not; the name itself is not repeated."""
    if not isinstance(name, str):
        return f"is of type {type(name).__name__}; a text is needed"
    if not name.strip():
        return "is empty; a text is needed"
    if len(name) > MAX_NAME:
        return f"has {len(name)} characters; {MAX_NAME} are allowed"
    bad = next((each for each in name if is_refused(each)), None)
    if bad is None:
        return None
    return f"holds the character U+{ord(bad):04X} ({_kind_of(bad)}); printable characters are allowed"


def check_plain_name(name: object, *, what: str) -> str:
    """Return a name that may be written, drawn and shown anywhere.

    Args:
        name: as it was read.
        what: it names, such as "structure 3", for the error.

    Raises:
        ConfigError: for an empty or overlong name, or one with control characters, line ends, halves of
            surrogate pairs or characters that turn the direction of a text.

    Examples:
        >>> check_plain_name("left lung", what="structure 3")
        'left lung'
    """
    if (problem := name_problem(name)) is not None:
        shown = f" {show(name[:60])!r}" if isinstance(name, str) and name.strip() else ""
        raise ConfigError(f"the name{shown} of {what} {problem}; rename it")
    return str(name)


def is_refused(character: str) -> bool:
    """Say whether a character may stand in no name."""
    return unicodedata.category(character) in _REFUSED or character in _TURNING


def show(text: str, *, keep: str = "") -> str:
    """Return a text in which what a terminal would obey is written out, as Python writes it.

    Args:
        text: any.
        keep: characters to leave as they are, such as line ends.

    Examples:
        >>> print(show("a" + chr(27) + "[31m b"))
        a\\x1b[31m b
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_written(each) if each not in keep and is_refused(each) else each for each in text)


class ShowingFormatter(logging.Formatter):
    """Format log records for a terminal, see `show`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record's text; its line ends and tabs stay."""
        return show(super().format(record), keep="\n\t")


class ShowingStream(io.TextIOBase):
    """A text stream that writes what a terminal would obey out, see `show`; its line ends and tabs stay.

    Args:
        stream: receives the text.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text."""
        return self._stream.write(show(text, keep="\n\t"))

    def flush(self) -> None:
        """Flush the stream."""
        self._stream.flush()

    def isatty(self) -> bool:
        """Say whether the stream is a terminal."""
        return self._stream.isatty()

    def fileno(self) -> int:
        """Return the stream's descriptor."""
        return self._stream.fileno()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _kind_of(character: str) -> str:
    kinds = {"Cc": "a control character", "Cs": "half of a surrogate pair", "Cf": "an invisible mark"}
    return kinds.get(unicodedata.category(character), "a line end")


def _written(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")
