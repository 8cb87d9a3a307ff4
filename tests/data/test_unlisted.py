"""Volumes that a cohort's list does not name are counted."""

from __future__ import annotations

import json
from pathlib import Path

from medldm.data.checks import run_check
from medldm.data.cohort import read_cohort

Entries = list[dict[str, str]]


def entries(*names: str) -> Entries:
    return [{"image": f"images/{name}.nii.gz", "label": f"labels/{name}.nii.gz"} for name in names]


def write(folder: Path, training: Entries, validation: Entries, name: str = "cohort.json") -> Path:
    (folder / name).write_text(json.dumps({"training": training, "validation": validation}))
    return folder / name


def test_volumes_beside_the_list_are_counted_in_each_folder(make_cohort) -> None:
    folder = make_cohort(5)
    (folder / "images" / "._case_0.nii.gz").write_bytes(b"x")
    (folder / "labels" / "notes.txt").write_text("x")
    write(folder, entries("case_0", "case_1"), entries("case_2"))
    issues = [issue for issue in read_cohort(folder).issues if issue.check == "datalist"]
    assert [issue.file for issue in issues] == ["images/case_3.nii.gz", "labels/case_3.nii.gz"]
    assert "first of 2 volumes in images/" in issues[0].message and issues[0].severity == "warning"
    text, code = run_check(folder, full=False)
    assert code == 0 and "images/case_3.nii.gz" in text


def test_a_complete_list_is_not_mentioned(make_cohort) -> None:
    folder = make_cohort(3)
    write(folder, entries("case_0", "case_1"), entries("case_2"))
    assert not [issue for issue in read_cohort(folder).issues if issue.check == "datalist"]


def test_a_list_given_by_itself_is_a_choice(make_cohort) -> None:
    folder = make_cohort(4)
    listing = write(folder, entries("case_0"), entries("case_1"), name="fold_1.json")
    assert not [issue for issue in read_cohort(listing).issues if issue.check == "datalist"]
