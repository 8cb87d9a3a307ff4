"""Say which cases of a cohort are of one subject: by its list, by subjects.csv, else by all names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from medldm.data.issues import Issue
from medldm.data.layouts.names import read_names
from medldm.data.layouts.subjects import decide_subjects
from medldm.data.preparation.table import SubjectTable, read_subject_table
from medldm.errors import ConfigError
from medldm.transforms.readers import volume_stem

SUBJECTS_FILES = ("subjects.csv", "subjects.tsv")


def settle_subjects(
    cases: Sequence[dict[str, Any]], root: Path, *, doubts: Mapping[str, str], issues: list[Issue]
) -> None:
    """Give each case its "subject"; what stays unsure joins `issues` as one error.

    Args:
        cases: of all splits; those whose list names a subject keep it.
        root: the cohort's folder, with subjects.csv or subjects.tsv where names do not say it: the columns
            "source" (a case) and "subject", and any that `medldm prepare --table` knows.
        doubts: case -> why the subject that it has is unsure.
        issues: receives what is found.
    """
    open_cases = [case for case in cases if "subject" not in case]
    decided = decide_names(open_cases, root)
    doubts = dict(doubts)
    for index, case in enumerate(open_cases):
        case["subject"] = decided.names[index] or case["id"]
        if index in decided.unsure:
            doubts[case["id"]] = decided.reason
    settled = _apply_table(cases, root, issues)
    unsure = [case["id"] for case in cases if case["id"] in doubts and case["id"] not in settled]
    if unsure:
        message = (
            f"the subjects of {len(unsure)} of {len(cases)} cases are unsure: {doubts[unsure[0]]}; say it in "
            f'{SUBJECTS_FILES[0]} in its folder, with the columns "source" (the case) and "subject", or as '
            '"subject" in cohort.json'
        )
        issues.append(Issue.error("subject", unsure[0], message))


def decide_names(cases: Sequence[Mapping[str, Any]], root: Path) -> Any:
    """Decide on subjects by the names of cases alone; see `decide_subjects`."""
    paths = [_name_of(case, root) for case in cases]
    labels = [PurePath("labels", f"{case['id']}.nii") for case in cases if "label" in case]
    names = read_names([*labels, *paths])
    return decide_subjects([names[path] for path in paths])


def _name_of(case: Mapping[str, Any], root: Path) -> PurePath:
    """Return the path of the case's image in the cohort, or its identifier where that is no file's name."""
    image = case.get("image")
    if isinstance(image, str) and volume_stem(image) == case["id"] and Path(image).is_relative_to(root):
        return Path(image).relative_to(root)
    return PurePath("images", f"{case['id']}.nii")


def _apply_table(cases: Sequence[dict[str, Any]], root: Path, issues: list[Issue]) -> set[str]:
    """Apply subjects.csv; return the cases whose subject it names."""
    table = _read_table(root, issues)
    settled: set[str] = set()
    used: set[str] = set()
    for case in cases:
        names = [case["id"], *(Path(case[key]).name for key in ("image",) if isinstance(case.get(key), str))]
        name = next((name for name in names if name in table.rows), None)
        if name is None:
            continue
        row = table.rows[name]
        used.add(name)
        case.update({key: value for key, value in row.entry.items() if key not in case})
        if row.subject is not None:
            case["subject"] = row.subject
            settled.add(case["id"])
    if unused := sorted(set(table.rows) - used):
        message = f"{len(unused)} of its {len(table.rows)} rows match no case, the first is {unused[0]}"
        issues.append(Issue.warning("subject", SUBJECTS_FILES[0], message))
    return settled


def _read_table(root: Path, issues: list[Issue]) -> SubjectTable:
    file = next((root / name for name in SUBJECTS_FILES if (root / name).is_file()), None)
    try:
        return read_subject_table(file)
    except ConfigError as error:
        issues.append(Issue.error("subject", SUBJECTS_FILES[0], str(error)))
        return SubjectTable()
