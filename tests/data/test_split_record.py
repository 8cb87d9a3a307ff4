"""The record of a split: it tells cases by what they hold, and says nothing to who lacks the key."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from medldm.data.identity import default_key_file
from medldm.data.split_record import SplitRecord
from medldm.training import open_cohort

SHARES = {"validation_fraction": 0.2, "test_fraction": 0.2}


@pytest.fixture
def folder(make_cohort: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return make_cohort(10)


def test_each_case_has_its_part_wherever_it_lies_and_whatever_it_is_called(
    folder: Path, tmp_path: Path
) -> None:
    cohort = open_cohort(str(folder), **SHARES, seed=1)
    moved = tmp_path / "moved"
    for part in ("images", "labels"):
        (moved / part).mkdir(parents=True)
        for place, file in enumerate(sorted((folder / part).iterdir())):
            shutil.copy(file, moved / part / f"other_{9 - place}.nii.gz")
    other = open_cohort(str(moved), validation_fraction=0.4, test_fraction=0.1, seed=5)
    part_of = {case["id"]: part for part, cases in cohort.splits.items() for case in cases}
    record = SplitRecord.from_dict(json.loads(json.dumps(cohort.split_record.to_dict())))
    roles = record.roles(other.cases)
    assert roles == [part_of[f"case_{9 - int(case['id'][-1])}"] for case in other.cases]
    assert {part: roles.count(part) for part in cohort.splits} == {"training": 6, "validation": 2, "test": 2}


def test_a_new_scan_of_a_known_subject_belongs_to_its_part_and_a_new_subject_to_none(folder: Path) -> None:
    record = open_cohort(str(folder), **SHARES, seed=1).split_record
    cases = open_cohort(str(folder), **SHARES, seed=1).training
    changed = {"content": {"image": ["another"], "label": ["another"]}}
    again, new = {**cases[0], **changed}, {**cases[0], **changed, "subject": "new"}
    assert record.roles([cases[0], again, new]) == ["training", "training", None]


def test_without_the_key_nothing_is_told_of_a_case_and_the_parts_are_still_recognised(folder: Path) -> None:
    cohort = open_cohort(str(folder), **SHARES, seed=1)
    record = cohort.split_record
    contents = {each for case in cohort.cases for files in case["content"].values() for each in files}
    said = json.dumps(record.to_dict())
    assert not any(each in said or each[:16] in said for each in contents)
    assert not any(case["id"] in said for case in cohort.cases)
    key = default_key_file().read_bytes()
    for instead in (None, bytes(32)):
        default_key_file().unlink()
        if instead is not None:
            default_key_file().write_bytes(instead)
        assert record.roles(cohort.cases) is None
        assert record.is_of(cohort.splits)
        assert not record.is_of(open_cohort(str(folder), **SHARES, seed=2).splits)
    default_key_file().write_bytes(key)
    assert record.roles(cohort.cases) is not None


def test_a_key_that_cannot_be_made_leaves_the_settings(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "file"))
    record = open_cohort(str(folder), **SHARES, seed=1).split_record
    assert record.settings == {**SHARES, "seed": 1}
    assert record.cases == {} and record.key_id is None
    assert "there is no identity key" in caplog.text
