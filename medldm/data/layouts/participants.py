"""Read what a BIDS participants.tsv says of its subjects.

Source: BIDS 1.10, data summary files: participant_id, age, sex, group, and any other column; "n/a" is absent.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from medldm.data.delimited_table import describe_columns, read_delimited_table, show_lines
from medldm.data.identifying_columns import is_identifying_name, is_unique_number, is_unique_text
from medldm.data.issues import Issue
from medldm.errors import ConfigError

FILE = "participants.tsv"
_ABSENT = {"", "n/a", "na", "nan"}
_SEX = {"f": 0.0, "female": 0.0, "m": 1.0, "male": 1.0}
_MOST_CATEGORIES = 20


def read_participants(root: Path, subjects: Collection[str]) -> tuple[dict[str, dict[str, Any]], list[Issue]]:
    """Return subject -> "scalars" and "classes", and what must be said of the table.

    A column of numbers, or "sex" with F and M, is a scalar; a column of at most 20 texts that repeat is a
    category; all others are left out by name, and so is what says who somebody is, with a count.

    Args:
        root: folder of the data set.
        subjects: those that have scans.
    """
    file = root / FILE
    if not file.is_file():
        return {}, []
    try:
        table = read_delimited_table(file, name="the table of participants", wanted=["participant_id"])
    except ConfigError as error:
        return {}, [Issue.error("participants", FILE, str(error))]
    columns = table.columns
    if "participant_id" not in columns:
        found_columns = describe_columns(columns, wanted=["participant_id"])
        message = f'it has no column "participant_id"; add it; {found_columns}'
        return {}, [Issue.error("participants", FILE, message)]
    rows = {_subject(row.cells): row.cells for row in table.rows}
    lines = {_subject(row.cells): row.line for row in table.rows}
    problems = _unmatched(lines, subjects, n_rows=len(table.rows))
    entries: dict[str, dict[str, Any]] = {subject: {} for subject in rows}
    left_out: list[str] = []
    identifying: list[str] = []
    for column in columns:
        if column == "participant_id":
            continue
        values = {subject: text for subject, row in rows.items() if (text := _cell(row.get(column)))}
        numbers = {subject: _number(text, column) for subject, text in values.items()}
        found: Mapping[str, Any]
        if _names_people(column, values, numbers):
            identifying.append(column)
            continue
        if all(number is not None for number in numbers.values()):
            kind, found = "scalars", numbers
        elif len(set(values.values())) <= min(_MOST_CATEGORIES, len(values) // 2):
            kind, found = "classes", values
        else:
            left_out.append(column)
            continue
        for subject, value in found.items():
            entries[subject].setdefault(kind, {})[column] = value
    if left_out:
        message = f"its columns {', '.join(left_out)} hold texts that are no categories and are left out"
        problems.append(Issue.warning("participants", FILE, message))
    if identifying:
        message = (
            f"{len(identifying)} columns say by their names or values who somebody is; they are left out"
        )
        problems.append(Issue.warning("participants", FILE, message))
    return entries, problems


def _names_people(column: str, values: Mapping[str, str], numbers: Mapping[str, float | None]) -> bool:
    known = {subject: number for subject, number in numbers.items() if number is not None}
    is_numbers = len(known) == len(values)
    return is_identifying_name(column) or (is_unique_number(known) if is_numbers else is_unique_text(values))


def _subject(row: Mapping[str, Any]) -> str:
    name = str(row["participant_id"] or "").strip()
    return name if name.startswith("sub-") else f"sub-{name}"


def _unmatched(rows: Mapping[str, int], subjects: Collection[str], *, n_rows: int) -> list[Issue]:
    """Say which rows, subject to line, and which subjects have no partner."""
    problems = []
    if n_rows > len(rows):
        message = f"it has {n_rows - len(rows)} rows of a subject that has one already; keep one of each"
        problems.append(Issue.error("participants", FILE, message))
    if absent := sorted(set(subjects) - set(rows)):
        message = f"{FILE} has no row for it and {len(absent) - 1} of {len(subjects)} subjects more"
        problems.append(Issue.warning("participants", absent[0], message))
    if unused := sorted(set(rows) - set(subjects)):
        lines = show_lines(sorted(rows[subject] for subject in unused))
        message = f"its row and {len(unused) - 1} of {len(rows)} more in {FILE} match no scan ({lines})"
        problems.append(Issue.warning("participants", unused[0], message))
    return problems


def _cell(text: Any) -> str:
    stripped = str(text or "").strip()
    return "" if stripped.lower() in _ABSENT else stripped


def _number(text: str, column: str) -> float | None:
    if column.lower() == "sex" and text.lower() in _SEX:
        return _SEX[text.lower()]
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
