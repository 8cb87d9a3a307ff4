"""Read the user's table of subjects: identifiers, class, report text, split and scalars."""

from __future__ import annotations

import csv
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medldm.data.identity import check_identifier
from medldm.errors import ConfigError

logger = logging.getLogger(__name__)

SPLITS = ("training", "validation")
CLASS_PREFIX = "class:"
RESERVED = ("source", "subject", "class", "text", "split", "label")
_ABSENT = {"", "na", "n/a", "nan", "none", "null"}
_SEX = {"f": 0.0, "female": 0.0, "m": 1.0, "male": 1.0}


@dataclass(frozen=True, kw_only=True)
class SubjectRow:
    """What the table says of one source.

    Args:
        subject: identifier in the outputs; None asks for a keyed hash.
        split: "training", "validation" or None.
        label: the label map of this source, as a path relative to the input or a file name; None without.
        entry: "class" (int), "classes", "text" and "scalars" for the case's dictionary, where given.
    """

    subject: str | None = None
    split: str | None = None
    label: str | None = None
    entry: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class SubjectTable:
    """Rows by the name of their source.

    Args:
        rows: PatientID, folder, file name or stem of the source -> its row.
        classes: name -> number, where classes were given as texts.
    """

    rows: Mapping[str, SubjectRow] = field(default_factory=dict)
    classes: Mapping[str, int] = field(default_factory=dict)

    def row_of(self, names: Iterable[str]) -> SubjectRow | None:
        """Return the row of a source known under several names, the most specific first; None without one."""
        return next((self.rows[name] for name in names if name in self.rows), None)


def read_subject_table(path: str | Path | None) -> SubjectTable:
    """Read a CSV or TSV file.

    Columns: "source" matches the DICOM PatientID, the folder, the file name or its stem; "subject" is the
    identifier to use in the outputs and, without "source", what is matched; "class" (numbers, or texts that
    are then numbered in alphabetical order); "class:<name>", further categories, whose texts are kept;
    "text"; "split" ("training" or "validation"); "label", the label map of the source, where names do not
    say which it is. Every other column whose values are numbers is a scalar;
    "sex" may hold F (0) and M (1). Empty cells, "NA" and "nan" are absent values. Other columns are left out,
    with a line in the log.

    Raises:
        ConfigError: naming the line; never the value, which may be a name.
    """
    if path is None:
        return SubjectTable()
    path = Path(path).expanduser()
    try:
        columns, lines = _read_lines(path)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(
            f"the subject table {path.name} cannot be read ({type(error).__name__}); a CSV or TSV file in "
            "UTF-8 is needed"
        ) from error
    if "source" not in columns and "subject" not in columns:
        raise ConfigError(
            'the subject table has neither a column "source" nor "subject"; one is needed to match rows'
        )
    if len(set(columns)) < len(columns):
        raise ConfigError("the subject table has two columns of one name; rename one")
    named = [name for name in columns if name.startswith(CLASS_PREFIX)]
    classes = _class_numbers([row.get("class", "") for _, row in lines])
    scalars = _scalar_columns(columns, [row for _, row in lines])
    rows: dict[str, SubjectRow] = {}
    for line, row in lines:
        source = row.get("source") or row.get("subject", "")
        if not source or source in rows:
            raise ConfigError(
                f"line {line} of the subject table has {'a repeated' if source else 'no'} source"
            )
        rows[source] = _row_of(row, line=line, classes=classes, scalars=scalars, named=named)
    return SubjectTable(rows=rows, classes=classes)


def _cell(text: Any) -> str:
    stripped = str(text or "").strip()
    return "" if stripped.lower() in _ABSENT else stripped


def _read_lines(path: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """Return the columns, and each row with the number of its line."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        delimiter = "\t" if path.suffix.lower() in (".tsv", ".tab") else ","
        reader = csv.DictReader(file, delimiter=delimiter, strict=True)
        columns = [str(name).strip() for name in reader.fieldnames or []]
        reader.fieldnames = columns
        return columns, [(reader.line_num, {key: _cell(row.get(key)) for key in columns}) for row in reader]


def _row_of(
    row: Mapping[str, str],
    *,
    line: int,
    classes: Mapping[str, int],
    scalars: Sequence[str],
    named: Sequence[str],
) -> SubjectRow:
    entry: dict[str, Any] = {}
    if text := row.get("class"):
        entry["class"] = classes[text] if classes else int(text)
    if categories := {name.removeprefix(CLASS_PREFIX): row[name] for name in named if row[name]}:
        entry["classes"] = categories
    if text := row.get("text"):
        entry["text"] = text
    if values := {name: _number(row[name], name) for name in scalars if row[name]}:
        entry["scalars"] = values
    try:
        subject = check_identifier(row["subject"]) if row.get("subject") else None
    except ValueError as error:
        raise ConfigError(f"line {line} of the subject table: {error}") from None
    split = row.get("split") or None
    if split is not None and split not in SPLITS:
        raise ConfigError(
            f"line {line} of the subject table has an unknown split; {' and '.join(SPLITS)} are known"
        )
    return SubjectRow(subject=subject, split=split, label=row.get("label") or None, entry=entry)


def _class_numbers(texts: Sequence[str]) -> dict[str, int]:
    present = sorted({text for text in texts if text})
    if all(text.isascii() and text.isdigit() for text in present):
        return {}
    return {text: number for number, text in enumerate(present)}


def _scalar_columns(columns: Sequence[str], rows: Sequence[Mapping[str, str]]) -> list[str]:
    scalars = []
    for name in columns:
        if name in RESERVED or name.startswith(CLASS_PREFIX):
            continue
        if all(_number(row[name], name) is not None for row in rows if row[name]):
            scalars.append(name)
        else:
            logger.warning(
                "column %d of the subject table holds texts that are no numbers and was left out; name it "
                "class, class:<name> or text, or encode it as numbers",
                columns.index(name) + 1,
            )
    return scalars


def _number(text: str, column: str) -> float | None:
    if column.lower() == "sex" and text.lower() in _SEX:
        return _SEX[text.lower()]
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
