"""Read the user's table of subjects: identifiers, class, report text, split and scalars."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medldm.data.delimited_table import (
    DelimitedTable,
    TableRow,
    decimal_number,
    describe_columns,
    read_delimited_table,
    show_lines,
)
from medldm.data.identifying_columns import is_identifying_name, is_unique_number, is_unique_text
from medldm.data.identity import check_identifier
from medldm.data.partly_labelled import STRUCTURES_IN_MAP
from medldm.data.splits import SPLITS
from medldm.errors import ConfigError
from medldm.runtime.plain_names import name_problem, show

logger = logging.getLogger(__name__)

CLASS_PREFIX = "class:"
RESERVED = ("source", "subject", "class", "text", "split", "label", STRUCTURES_IN_MAP)
BIDS_SUBJECT = "participant_id"
OTHER_NAMES = {
    "subject": (BIDS_SUBJECT, "subject_id"),
    "source": ("patient_id", "patientid", "case", "case_id", "file", "filename", "file_name", "image"),
}
"""Names that tables give to "subject" and "source". A patient's number is matched and never written."""
_ABSENT = {"", "na", "n/a", "nan", "none", "null"}
_SEX = {"f": 0.0, "female": 0.0, "m": 1.0, "male": 1.0}


@dataclass(frozen=True, kw_only=True)
class SubjectRow:
    """What the table says of one source.

    Args:
        subject: identifier in the outputs; None asks for a keyed hash.
        split: "training", "validation", "test" or None.
        label: the label map of this source, as a path relative to the input or a file name; None without.
        entry: "class" (int), "classes", "text" and "scalars" for the case's dictionary, where given.
        line: of the table; 0 for a source without a row.
    """

    subject: str | None = None
    split: str | None = None
    label: str | None = None
    entry: Mapping[str, Any] = field(default_factory=dict)
    line: int = 0


@dataclass(frozen=True, kw_only=True)
class SubjectTable:
    """Rows by the name of their source.

    Args:
        rows: PatientID, folder, file name or stem of the source -> its row.
        classes: name -> number, where classes were given as texts.
        notes: what of the table was left out or understood otherwise, without its contents.
    """

    rows: Mapping[str, SubjectRow] = field(default_factory=dict)
    classes: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def row_of(self, names: Sequence[str]) -> SubjectRow | None:
        """Return the row of a source known under several names, the most specific first; None without one."""
        return next((self.rows[name] for name in names if name in self.rows), None)


def read_subject_table(path: str | Path | None, *, scalars: Sequence[str] = ()) -> SubjectTable:
    """Read a table whose cells are separated by tab, semicolon or comma.

    Columns: "source" matches the DICOM PatientID, the folder, the file name or its stem; "subject" is the
    identifier to use in the outputs and, without "source", what is matched; "class" (numbers, or texts that
    are then numbered in alphabetical order); "class:<name>", further categories, whose texts are kept;
    "text"; "split" ("training", "validation" or "test"); "label", the label map of the source, where names
    do not say which it is; "structures_in_map", the structures that this map covers, separated by | ; or ",",
    see `medldm.data.partly_labelled`. Of the other columns, which a cohort's list would hand on, those alone
    are taken that the user names, as `scalars`: they hold numbers; "sex" may hold F (0) and M (1); between
    semicolons or tabs, "60,5" is a number. Empty cells, "NA" and "nan" are absent values. The others are left
    out, with a note. A column that says who somebody is, by its name or because it differs in every subject,
    is refused (`medldm.data.identifying_columns`).

    BIDS's "participant_id" and "subject_id" may stand for "subject"; "patient_id", "case", "case_id", "file",
    "filename" and "image" for "source".

    Args:
        path: of the table; None for none.
        scalars: columns of numbers to take.

    Raises:
        ConfigError: naming the line or the column; never the value, which may be a name.
    """
    if path is None:
        return SubjectTable()
    known = {*OTHER_NAMES, *(name for names in OTHER_NAMES.values() for name in names)}
    read = read_delimited_table(path, name="the subject table", wanted=known)
    table, second_names, notes = _with_own_names(read)
    if "source" not in table.columns and "subject" not in table.columns:
        raise ConfigError(
            'the subject table has neither a column "source" nor "subject" (or participant_id, patient_id, '
            f"case, file); one is needed to match rows; {describe_columns(table.columns, wanted=known)}"
        )
    lines = [TableRow(line=row.line, cells={k: _cell(v) for k, v in row.cells.items()}) for row in table.rows]
    named = [name for name in table.columns if name.startswith(CLASS_PREFIX)]
    classes = _class_numbers([row.cells.get("class", "") for row in lines])
    _refuse_names(lines, named)
    numbers, left_out = _scalar_columns(table, lines, wanted=scalars, passed={*RESERVED, *second_names})
    is_bids = "source" not in read.columns and any(_plain(name) == BIDS_SUBJECT for name in read.columns)
    rows: dict[str, SubjectRow] = {}
    cells: dict[str, TableRow] = {}
    repeated: list[int] = []
    for row in lines:
        source = row.cells.get("source") or row.cells.get("subject", "")
        if not source:
            raise ConfigError(f"line {row.line} of the subject table has no source")
        if (first := cells.setdefault(source, row)) is not row:
            if first.cells != row.cells:
                raise ConfigError(
                    f"line {row.line} of the subject table has a repeated source, that of line {first.line}, "
                    "with other values; keep one of them"
                )
            repeated.append(row.line)
            continue
        rows[source] = _row_of(row, classes=classes, numbers=numbers, named=named)
        if is_bids and not source.startswith("sub-"):
            rows.setdefault(f"sub-{source}", rows[source])
    if repeated:
        notes.append(f"{len(repeated)} rows repeat another one and are left out: {show_lines(repeated)}")
    notes += left_out
    for note in notes:
        logger.warning("the subject table: %s", note)
    return SubjectTable(rows=rows, classes=classes, notes=tuple(notes))


def _plain(name: str) -> str:
    return re.sub(r"[ -]+", "_", name.strip().lower())


def _with_own_names(table: DelimitedTable) -> tuple[DelimitedTable, set[str], list[str]]:
    """Give columns that name cases under another name the toolkit's own; return further ones to leave out.

    A number of a patient is no measurement: a second column of that kind would become a scalar.
    """
    renamed = {name: name for name in table.columns}
    left_out: set[str] = set()
    notes: list[str] = []
    for own, others in OTHER_NAMES.items():
        found = [name for name in table.columns if _plain(name) in (own, *others)]
        is_given = own in table.columns
        if not is_given and len(found) > 1:
            places = [table.columns.index(name) + 1 for name in found]
            raise ConfigError(
                f'columns {places} of the subject table could each be its "{own}"; rename the one that is'
            )
        for name in found:
            number = table.columns.index(name) + 1
            if not is_given:
                renamed[name] = own
                logger.info('column %d of the subject table (%s) is taken as "%s"', number, _plain(name), own)
            elif name != own:
                left_out.add(name)
                notes.append(f"column {number} ({_plain(name)}) names cases a second time and is left out")
    rows = [
        TableRow(line=row.line, cells={renamed[name]: row.cells[name] for name in renamed})
        for row in table.rows
    ]
    columns = tuple(renamed.values())
    return DelimitedTable(columns=columns, rows=tuple(rows), separator=table.separator), left_out, notes


def _cell(text: str) -> str:
    return "" if text.lower() in _ABSENT else text


def _row_of(
    row: TableRow,
    *,
    classes: Mapping[str, int],
    numbers: Mapping[str, Mapping[str, float]],
    named: Sequence[str],
) -> SubjectRow:
    cells, line = row.cells, row.line
    entry: dict[str, Any] = {}
    if text := cells.get("class"):
        entry["class"] = classes[text] if classes else int(text)
    for text in (cells[name] for name in ("class", *named) if cells.get(name)):
        if (problem := name_problem(text)) is not None:
            raise ConfigError(f"a category in line {line} of the subject table {problem}; rename it")
    if categories := {name.removeprefix(CLASS_PREFIX): cells[name] for name in named if cells[name]}:
        entry["classes"] = categories
    if text := cells.get("text"):
        entry["text"] = text
    if text := cells.get(STRUCTURES_IN_MAP):
        entry[STRUCTURES_IN_MAP] = [each.strip() for each in re.split("[|;,]", text) if each.strip()]
    if values := {name: known[cells[name]] for name, known in numbers.items() if cells[name]}:
        entry["scalars"] = values
    try:
        subject = check_identifier(cells["subject"]) if cells.get("subject") else None
    except ValueError as error:
        raise ConfigError(f"line {line} of the subject table: {error}") from None
    split = cells.get("split") or None
    if split is not None and split not in SPLITS:
        raise ConfigError(
            f"line {line} of the subject table has an unknown split; {', '.join(SPLITS)} are known"
        )
    return SubjectRow(subject=subject, split=split, label=cells.get("label") or None, entry=entry, line=line)


def _class_numbers(texts: Sequence[str]) -> dict[str, int]:
    present = sorted({text for text in texts if text})
    if all(text.isascii() and text.isdigit() for text in present):
        return {}
    return {text: number for number, text in enumerate(present)}


def _row_name(row: TableRow) -> str:
    return row.cells.get("subject") or row.cells.get("source", "")


def _refuse_names(rows: Sequence[TableRow], named: Sequence[str]) -> None:
    """Refuse categories that are another one in every subject, or whose column says that they name people."""
    for column in ("class", *named):
        texts = {_row_name(row): row.cells[column] for row in rows if row.cells.get(column)}
        if is_identifying_name(column.removeprefix(CLASS_PREFIX)) or is_unique_text(texts):
            raise ConfigError(
                f'the column "{column}" of the subject table names people, not categories: leave it out'
            )


def _scalar_columns(
    table: DelimitedTable, rows: Sequence[TableRow], *, wanted: Sequence[str], passed: set[str]
) -> tuple[dict[str, dict[str, float]], list[str]]:
    """Return each wanted column with the number of each of its texts, and notes on the others."""
    others = [name for name in table.columns if name not in passed and not name.startswith(CLASS_PREFIX)]
    for name in wanted:
        if name not in others:
            known = describe_columns(others, wanted=wanted)
            raise ConfigError(f"the subject table has no column {show(name)!r} for the scalars; {known}")
    left_out = [place for place, name in enumerate(table.columns, 1) if name in others and name not in wanted]
    notes = []
    if left_out:
        shown = f"column {left_out[0]} is" if len(left_out) == 1 else f"columns {_list(left_out)} are"
        notes.append(
            f"{shown} left out; name columns of numbers that are to be handed on with --scalars NAME,NAME, "
            "those of categories class:NAME, that of reports text"
        )
    scalars = {}
    for name in wanted:
        place = f"column {table.columns.index(name) + 1} of the subject table"
        scalars[name] = _read_numbers(table, rows, name=name, where=place)
    return scalars, notes


def _list(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:20])) + (", ..." if len(numbers) > 20 else "")


def _read_numbers(
    table: DelimitedTable, rows: Sequence[TableRow], *, name: str, where: str
) -> dict[str, float]:
    """Return the number of each text of a column.

    Raises:
        ConfigError: where they are no numbers, or say who somebody is.
    """
    if is_identifying_name(name):
        raise ConfigError(
            f"{where} says by its name who somebody is ({show(name)!r}): it is not handed on; leave it out "
            "of scalars, or rename it if it does not"
        )
    texts = {row.cells[name] for row in rows} - {""}
    values = {text: _number(text, name, separator=table.separator) for text in texts}
    known = {text: value for text, value in values.items() if value is not None}
    if table.separator != "," and any("," in text for text in texts) and any("." in text for text in texts):
        raise ConfigError(
            f"{where} has numbers with a comma and numbers with a point; write all with a point"
        )
    if len(known) < len(texts):
        lines = [row.line for row in rows if row.cells[name] and row.cells[name] not in known]
        raise ConfigError(
            f"{where} holds texts that are no numbers ({show_lines(lines)}): name it class:<name> or text, "
            "or encode it as numbers"
        )
    if is_unique_number({_row_name(row): known[row.cells[name]] for row in rows if row.cells[name]}):
        raise ConfigError(
            f"{where} holds another whole number in every subject, as a record number or a date is: it is "
            "not handed on; leave it out of scalars, or write what is measured with its decimals"
        )
    return known


def _number(text: str, column: str, *, separator: str) -> float | None:
    if column.lower() == "sex" and text.lower() in _SEX:
        return _SEX[text.lower()]
    number = decimal_number(text, decimal_comma=separator != ",")
    return number if number is not None and math.isfinite(number) else None
