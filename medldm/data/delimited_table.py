"""Read a table that a person or a spreadsheet saved as text; the only reader of such files in the package."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from medldm.errors import ConfigError
from medldm.runtime.plain_names import name_problem

SEPARATORS = ("\t", ";", ",")
_HINT = re.compile(r'"?sep=(.)"?')
_PLAIN_NAME = re.compile(r"[a-z][a-z0-9_:]{0,30}")
_COMMON_NAMES = {
    "age",
    "sex",
    "gender",
    "class",
    "text",
    "split",
    "name",
    "id",
    "case",
    "file",
    "image",
    "label",
}


@dataclass(frozen=True, kw_only=True)
class TableRow:
    """One row.

    Args:
        line: of the file, on which the row ends; the first is 1.
        cells: column -> text without blanks around it, "" where the row has none.
    """

    line: int
    cells: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class DelimitedTable:
    """A table with a header.

    Args:
        columns: their names, in order.
        rows: those that are not empty.
        separator: between cells.
    """

    columns: tuple[str, ...]
    rows: tuple[TableRow, ...]
    separator: str


def read_delimited_table(path: str | Path, *, name: str, wanted: Collection[str] = ()) -> DelimitedTable:
    """Read a table whose cells are separated by tab, semicolon or comma, as its header line says.

    A byte order mark, quotes, empty lines and Excel's "sep=;" are understood. A name of a column that cannot
    be shown is refused, and so is a table in another encoding: it is not guessed which.

    Args:
        path: the file, UTF-8 or, with its byte order mark, UTF-16.
        name: of the table in messages, such as "the subject table".
        wanted: columns by which the separator is told where the header could be split by several.

    Raises:
        ConfigError: where it cannot be read; the message names lines and never a cell.
    """
    path = Path(path).expanduser()
    try:
        text = _decode(path.read_bytes())
        hint = _HINT.fullmatch(text.split("\n", 1)[0].strip())
        n_skipped = 1 if hint else 0
        text = text.split("\n", 1)[1] if hint and "\n" in text else text
        header = next((line for line in text.splitlines() if line.strip()), "")
        separator = hint.group(1) if hint else _separator_of(header, wanted=wanted)
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
        lines = [(reader.line_num + n_skipped, [cell.strip() for cell in row]) for row in reader]
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        byte = error.object[error.start]
        raise ConfigError(
            f"{name} {path.name} cannot be read (UnicodeDecodeError in line {line}: the byte 0x{byte:02x}, "
            "as Latin-1 and Windows-1252 have it); a CSV or TSV file in UTF-8 is needed"
        ) from None
    except (OSError, UnicodeError, csv.Error) as error:
        raise ConfigError(
            f"{name} {path.name} cannot be read ({type(error).__name__}); a CSV or TSV file in UTF-8 is "
            "needed"
        ) from error
    lines = [(line, row) for line, row in lines if any(row)]
    if not lines:
        raise ConfigError(f"{name} {path.name} is empty; a header line and rows are needed")
    columns = _checked_columns(lines[0][1], name=name)
    return DelimitedTable(
        columns=columns,
        rows=tuple(_row(row, columns, line=line, name=name) for line, row in lines[1:]),
        separator=separator,
    )


def _decode(content: bytes) -> str:
    is_utf_16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return content.decode("utf-16" if is_utf_16 else "utf-8-sig")


def _separator_of(header: str, *, wanted: Collection[str]) -> str:
    """Return the separator that splits off a wanted column, else the one that occurs most, else a comma."""
    split = {each: next(csv.reader([header], delimiter=each), []) for each in SEPARATORS}
    for each in SEPARATORS:
        if len(split[each]) > 1 and {cell.strip().lower() for cell in split[each]} & set(wanted):
            return each
    most = max(SEPARATORS, key=lambda each: len(split[each]))
    return most if len(split[most]) > 1 else ","


def _checked_columns(cells: Sequence[str], *, name: str) -> tuple[str, ...]:
    columns = list(cells)
    while columns and not columns[-1]:
        columns.pop()
    if repeated := {column for column in columns if column and columns.count(column) > 1}:
        places = [number for number, column in enumerate(columns, start=1) if column in repeated]
        raise ConfigError(f"{name} has two columns of one name ({places}); rename one")
    for number, column in enumerate(columns, start=1):
        if column and (problem := name_problem(column)) is not None:
            raise ConfigError(f"the name of column {number} of {name} {problem}; rename it")
    return tuple(column or f"column {number}" for number, column in enumerate(columns, start=1))


def _row(cells: Sequence[str], columns: Sequence[str], *, line: int, name: str) -> TableRow:
    if any(cells[len(columns) :]):
        raise ConfigError(
            f"line {line} of {name} has {len(cells)} cells, its header {len(columns)}; put texts that hold a "
            "separator in quotes"
        )
    padded = [*cells, *[""] * (len(columns) - len(cells))]
    return TableRow(line=line, cells=dict(zip(columns, padded, strict=False)))


def describe_columns(columns: Sequence[str], *, wanted: Collection[str]) -> str:
    """Say which columns a table has, for a message that somebody else may read.

    The first line of a table without a header holds values, perhaps names of people: only texts that look
    like names of columns are shown, and none where one of them looks like a value.

    Args:
        columns: as found.
        wanted: names that were looked for; a column that is nearly one of them is pointed at.
    """
    if any(re.match(r"[+-]?[\d.]", name) for name in columns):
        return "its first line seems to hold values, not names of columns"
    shown = [
        name if _PLAIN_NAME.fullmatch(name) or name.lower() in _COMMON_NAMES else f"(column {number})"
        for number, name in enumerate(columns, start=1)
    ]
    text = f"found are {', '.join(shown[:20])}{', ...' if len(shown) > 20 else ''}"
    for number, column in enumerate(columns, start=1):
        if near := get_close_matches(column.lower(), list(wanted), n=1, cutoff=0.75):
            return f"{text}; column {number} may be meant as {near[0]!r}"
    return text


def show_lines(lines: Sequence[int]) -> str:
    """Name lines of a table, the first twenty of many."""
    shown = ", ".join(str(line) for line in lines[:20])
    return f"line{'s' if len(lines) > 1 else ''} {shown}{', ...' if len(lines) > 20 else ''}"


def decimal_number(text: str, *, decimal_comma: bool = False) -> float | None:
    """Return the number a cell holds, None for a text; with `decimal_comma`, "60,5" is 60.5."""
    if decimal_comma:
        text = text.replace(",", ".") if re.fullmatch(r"[+-]?\d*,\d+(?:[eE][+-]?\d+)?", text) else text
    try:
        return float(text)
    except ValueError:
        return None
