"""Read what a BIDS participants.tsv says of its subjects.

Source: BIDS 1.10, data summary files: participant_id, age, sex, group, and any other column; "n/a" is absent.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from medldm.data.issues import Issue

FILE = "participants.tsv"
_ABSENT = {"", "n/a", "na", "nan"}
_SEX = {"f": 0.0, "female": 0.0, "m": 1.0, "male": 1.0}
_MOST_CATEGORIES = 20


def read_participants(root: Path, subjects: Collection[str]) -> tuple[dict[str, dict[str, Any]], list[Issue]]:
    """Return subject -> "scalars" and "classes", and what must be said of the table.

    A column of numbers, or "sex" with F and M, is a scalar; a column of at most 20 texts that repeat is a
    category; all others are left out by name.

    Args:
        root: folder of the data set.
        subjects: those that have scans.
    """
    file = root / FILE
    if not file.is_file():
        return {}, []
    with file.open(encoding="utf-8-sig", newline="") as opened:
        reader = csv.DictReader(opened, delimiter="\t")
        columns = [str(name) for name in reader.fieldnames or []]
        table = list(reader)
    if "participant_id" not in columns:
        return {}, [Issue.error("participants", FILE, 'it has no column "participant_id"; add it')]
    rows = {_subject(row): row for row in table}
    problems = _unmatched(rows, subjects, n_rows=len(table))
    entries: dict[str, dict[str, Any]] = {subject: {} for subject in rows}
    left_out = []
    for column in columns:
        if column == "participant_id":
            continue
        values = {subject: text for subject, row in rows.items() if (text := _cell(row.get(column)))}
        numbers = {subject: _number(text, column) for subject, text in values.items()}
        found: Mapping[str, Any]
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
    return entries, problems


def _subject(row: Mapping[str, Any]) -> str:
    name = str(row["participant_id"] or "").strip()
    return name if name.startswith("sub-") else f"sub-{name}"


def _unmatched(rows: Collection[str], subjects: Collection[str], *, n_rows: int) -> list[Issue]:
    problems = []
    if n_rows > len(rows):
        message = f"it has {n_rows - len(rows)} rows of a subject that has one already; keep one of each"
        problems.append(Issue.error("participants", FILE, message))
    if absent := sorted(set(subjects) - set(rows)):
        message = f"{FILE} has no row for it and {len(absent) - 1} of {len(subjects)} subjects more"
        problems.append(Issue.warning("participants", absent[0], message))
    if unused := sorted(set(rows) - set(subjects)):
        message = f"its row and {len(unused) - 1} of {len(rows)} more in {FILE} match no scan"
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
