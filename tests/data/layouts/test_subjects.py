"""One person is one subject however often it was scanned; where names leave that open, they say so."""

from __future__ import annotations

from pathlib import PurePath

import pytest

from medldm.data.layouts.names import read_names
from medldm.data.layouts.subjects import Subjects, decide_subjects, subjects_of_list


def decide(paths: list[str], subject_from: str | None = None) -> Subjects:
    names = read_names(PurePath(f"{path}.nii.gz") for path in paths)
    return decide_subjects(list(names.values()), subject_from=subject_from)


SURE = {
    "contrasts in a case folder": (["P01/P01-t1n", "P01/P01-t2f", "P02/P02-t1n"], "P01 P01 P02"),
    "contrasts in a list": (["P01-t1n", "P01-t2f", "P02-t1n"], "P01 P01 P02"),
    "contrasts as folders": (["T1/P01", "T2/P01", "T1/P02"], "P01 P01 P02"),
    "channels": (["x_0000", "x_0001", "y_0000"], "x x y"),
    "bids sessions": (["sub-1/ses-1/sub-1_ses-1_T1w", "sub-1/ses-2/sub-1_ses-2_T1w"], "sub-1 sub-1"),
    "sessions": (["P01_ses-1", "P01_ses-2", "P02_ses-1"], "P01 P01 P02"),
    "session and number apart": (["P01_session_1", "P01_session_2", "P02"], "P01 P01 P02"),
    "visits": (["P01_v1", "P01_v2", "P02_v1"], "P01 P01 P02"),
    "OASIS": (["OAS1_0001_MR1", "OAS1_0001_MR2", "OAS1_0002_MR1"], "OAS1_0001 OAS1_0001 OAS1_0002"),
    "dates": (["P01_2019-01-03", "P01_20200103", "P02"], "P01 P01 P02"),
    "time folders": (["P01/baseline/t1", "P01/followup/t1", "P02/baseline/t1"], "P01 P01 P02"),
    "date folders": (["P01/03-23-2003-NA/ct", "P01/03-24-2003-NA/ct", "P02/01-01-2001-NA/ct"], "P01 P01 P02"),
    "visit in the folder's name": (["P01_v1/ct", "P01_v2/ct", "P02_v1/ct"], "P01 P01 P02"),
    "sides": (["P01_L", "P01_R", "P02_L"], "P01 P01 P02"),
    "crops": (["P01_crop1", "P01_crop2", "P02_crop1"], "P01 P01 P02"),
    "frames": (["p1/p1_frame01", "p1/p1_frame12", "p2/p2_frame01"], "p1 p1 p2"),
    "BraTS time points": (["BraTS-GLI-00001-000-t1n", "BraTS-GLI-00001-001-t1n"], "BraTS-GLI-00001 " * 2),
    "numbered cases": ([f"case_{number}" for number in range(3)], "case_0 case_1 case_2"),
    "splits": (["train/a", "val/b"], "a b"),
    "one folder over all": (["set/p1/ct", "set/p2/ct"], "p1 p2"),
}  # fmt: skip


@pytest.mark.parametrize("name", SURE)
def test_scans_of_one_person_have_one_subject(name: str) -> None:
    paths, expected = SURE[name]
    found = decide(paths)
    assert (list(found.names), found.unsure) == (expected.split(), frozenset())


UNSURE = {
    "visits or persons": ["a_1", "a_2", "b_1", "b_2"],
    "letters on numbers": ["P01a", "P01b", "P02a"],
    "a name and its second": ["P01", "P01_2", "P02"],
    "patient and study": ["10000_1000000", "10000_1000001", "10005_1000003"],
    "several to a folder": ["a/one", "a/two", "b/one", "b/two"],
    "folders in folders": ["x/p1/ct", "x/p2/ct", "y/p3/ct"],
    "endings that come again": ["c_before", "c_after", "d_before"],
    "all of one beginning": ["site_scan_1", "site_scan_2", "site_scan_3"],
    "two bids subjects": ["sub-01/anat/sub-02_T1w"],
}


@pytest.mark.parametrize("name", UNSURE)
def test_names_that_leave_it_open_are_unsure(name: str) -> None:
    assert decide(UNSURE[name]).unsure
    assert decide(UNSURE[name]).reason


@pytest.mark.parametrize(
    ("subject_from", "expected"),
    [("folder", "p1 p2 p3"), ("top-folder", "x x y"), ("name", "a b a")],
)
def test_the_user_decides_where_names_do_not(subject_from: str, expected: str) -> None:
    found = decide(["x/p1/a", "x/p2/b", "y/p3/a"], subject_from)
    assert (list(found.names), found.unsure) == (expected.split(), frozenset())


def test_a_bids_subject_is_not_overruled() -> None:
    assert decide(["sub-1/x/sub-1_T1w", "sub-1/y/sub-1_T2w"], "name").names == ("sub-1", "sub-1")


def test_unknown_choice_is_refused() -> None:
    with pytest.raises(ValueError, match="subject_from is 'patient'"):
        decide(["a"], "patient")


def test_synthetic_volumes_are_cases_and_not_channels() -> None:
    assert len(set(subjects_of_list([f"synthetic_{number:04d}" for number in range(3)]).names)) == 3
