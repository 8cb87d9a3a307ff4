"""Keys of a cohort's list that nothing reads."""

from __future__ import annotations

import json

import pytest

from medldm.data.cohort import read_cohort
from medldm.data.entry_keys import check_list_keys
from medldm.data.issues import CohortError


def entry(**more: object) -> dict[str, object]:
    return {"image": "a.nii.gz", "label": "b.nii.gz", **more}


@pytest.mark.parametrize(
    ("content", "key", "meant"),
    [
        ({"training": [{"image": "a.nii.gz", "lable": "b.nii.gz"}]}, "lable", "label"),
        ({"training": [entry(subject_id="p1")]}, "subject_id", "subject"),
        ({"training": [entry(scalar={"age": 3})]}, "scalar", "scalars"),
        ({"training": [entry()], "validaton": [entry()]}, "validaton", "validation"),
        ({"training": [entry()], "Channels": ["t1"]}, "Channels", "channels"),
    ],
)
def test_a_misspelt_key_is_an_error_that_says_what_is_meant(content, key, meant) -> None:
    (issue,) = check_list_keys(content, name="cohort.json")
    assert issue.severity == "error"
    assert repr(key) in issue.message
    assert f"did you mean {meant!r}?" in issue.message


def test_other_keys_are_named_once_with_their_number() -> None:
    content = {
        "name": "mine",
        "numTraining": 2,
        "training": [entry(age=61, fold=0), entry(fold=1), "c.nii.gz"],
    }
    (issue,) = check_list_keys(content, name="cohort.json")
    assert issue.severity == "warning"
    assert "'age' of 1, 'fold' of 2" in issue.message


def test_all_that_is_read_passes() -> None:
    every = entry(condition_image="c", id="1", subject="2", classes={}, scalars={}, text="t")
    assert check_list_keys({"training": [{**every, "class": 1}], "validation": []}, name="x") == []


def test_a_cohort_with_a_misspelt_key_is_refused(make_cohort) -> None:
    folder = make_cohort(2)
    listing = {"training": [{"image": f"images/case_{i}.nii.gz", "labl": "x"} for i in range(2)]}
    (folder / "cohort.json").write_text(json.dumps(listing))
    with pytest.raises(CohortError, match=r"training\[1\] has the key 'labl'.*did you mean 'label'"):
        read_cohort(folder, require_labels=False)
