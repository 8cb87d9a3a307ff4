"""Cohorts are found, split by subject, and refused as a whole with every offending file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from medldm.data import CohortError, check_cohort, read_cohort, split_by_subject
from medldm.transforms import write_nifti

MakeCohort = Callable[..., Path]


def ids(cases: list[dict[str, object]]) -> list[object]:
    return [case["id"] for case in cases]


def test_folders_become_cases_with_absolute_paths_and_an_inferred_schema(make_cohort: MakeCohort) -> None:
    cohort = read_cohort(make_cohort(10))
    assert len(cohort.training) == 9 and len(cohort.validation) == 1
    assert sorted(ids(cohort.cases)) == sorted(f"case_{number}" for number in range(10))
    assert cohort.schema is not None and dict(cohort.schema.structures) == {
        1: "structure_1",
        2: "structure_2",
    }
    for case in cohort.cases:
        assert Path(case["image"]).is_file() and Path(case["label"]).is_file()
        assert Path(case["image"]).name == Path(case["label"]).name


def test_labels_json_names_the_structures(make_cohort: MakeCohort) -> None:
    root = make_cohort()
    (root / "labels.json").write_text('{"1": "anterior", "2": "posterior"}')
    schema = read_cohort(root).schema
    assert schema is not None and schema.names == ("anterior", "posterior")


def test_split_follows_from_the_seed_and_the_subjects_alone(make_cohort: MakeCohort) -> None:
    root = make_cohort(12)
    first = read_cohort(root, seed=3, validation_fraction=0.25)
    again = read_cohort(root, seed=3, validation_fraction=0.25)
    assert ids(first.validation) == ids(again.validation)
    assert len(first.validation) == 3
    others = {tuple(ids(read_cohort(root, seed=seed).validation)) for seed in range(8)}
    assert len(others) > 1
    shuffled = split_by_subject(first.cases[::-1], validation_fraction=0.25, seed=3)[1]
    assert set(ids(shuffled)) == set(ids(first.validation))


def test_removing_a_training_subject_moves_no_other_subject() -> None:
    cases = [{"id": str(number), "subject": str(number)} for number in range(40)]
    _, before, _ = split_by_subject(cases, validation_fraction=0.1, seed=0)
    kept = [case for case in cases if case not in before][1:] + before
    _, after, _ = split_by_subject(kept, validation_fraction=0.1, seed=0)
    assert set(ids(after)) == set(ids(before))


def test_all_cases_of_a_subject_stay_on_one_side(make_cohort: MakeCohort) -> None:
    names = [f"sub-{subject:02d}_ses-{session}" for subject in range(6) for session in (1, 2)]
    cohort = read_cohort(make_cohort(names=names), validation_fraction=0.34)
    training = {case["subject"] for case in cohort.training}
    validation = {case["subject"] for case in cohort.validation}
    assert len(validation) == 2 and not training & validation
    assert len(cohort.validation) == 4


@pytest.mark.parametrize(("fraction", "expected"), [(0.0, 0), (0.01, 1), (0.5, 2), (0.99, 3)])
def test_validation_share_leaves_at_least_one_training_subject(
    make_cohort: MakeCohort, fraction: float, expected: int
) -> None:
    assert len(read_cohort(make_cohort(4), validation_fraction=fraction).validation) == expected


def test_datalist_paths_are_relative_to_its_folder_and_extra_fields_stay(make_cohort: MakeCohort) -> None:
    root = make_cohort(3)
    entries = [
        {
            "image": f"images/case_{n}.nii.gz",
            "label": f"labels/case_{n}.nii.gz",
            "class": n,
            "scalars": {"age": 60 + n},
        }
        for n in range(3)
    ]
    (root / "list.json").write_text(json.dumps({"training": entries[:2], "validation": entries[2:]}))
    cohort = read_cohort(root / "list.json")
    assert ids(cohort.training) == ["case_0", "case_1"] and ids(cohort.validation) == ["case_2"]
    assert cohort.validation[0]["scalars"] == {"age": 62} and cohort.validation[0]["class"] == 2
    (root / "list.json").rename(root / "cohort.json")
    assert ids(read_cohort(root).training) == ["case_0", "case_1"]


def test_datalist_without_validation_is_split(make_cohort: MakeCohort) -> None:
    root = make_cohort(4)
    entries = [{"image": f"images/case_{n}.nii.gz", "label": f"labels/case_{n}.nii.gz"} for n in range(4)]
    (root / "list.json").write_text(json.dumps({"training": entries}))
    assert len(read_cohort(root / "list.json").validation) == 1


def test_one_error_lists_every_offending_file(make_cohort: MakeCohort) -> None:
    root = make_cohort(5)
    (root / "labels" / "case_0.nii.gz").unlink()
    (root / "images" / "case_1.nii.gz").unlink()
    write_nifti(root / "labels" / "case_2.nii.gz", np.ones((8, 7, 5)), np.eye(4), dtype=np.uint8)
    write_nifti(
        root / "labels" / "case_3.nii.gz", np.ones((8, 7, 6)), np.diag([1, 1, 2.0, 1]), dtype=np.uint8
    )
    (root / "images" / "case_4.nii.gz").write_bytes(b"no image")
    with pytest.raises(CohortError) as caught:
        read_cohort(root)
    message = str(caught.value)
    assert "5 problems" in message
    for expected in (
        "images/case_0.nii.gz: it has no label map",
        "labels/case_1.nii.gz: it has no image",
        "labels/case_2.nii.gz: its shape is (8, 7, 5), its image's (8, 7, 6)",
        "labels/case_3.nii.gz: its affine puts a corner 5 mm",
        "images/case_4.nii.gz: it is not a NIfTI file",
    ):
        assert expected in message


@pytest.mark.parametrize("folder", ["images", "labels"])
def test_missing_folder_is_named(make_cohort: MakeCohort, folder: str) -> None:
    root = make_cohort(2)
    (root / folder).rename(root / "elsewhere")
    with pytest.raises(CohortError, match=f"{folder}/: the folder is missing"):
        read_cohort(root)


def test_empty_folders_are_named(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    with pytest.raises(CohortError, match="images/: it holds no volume") as caught:
        read_cohort(tmp_path)
    assert "labels/: it holds no volume" in str(caught.value)


def test_stray_files_are_reported_and_passed_over(make_cohort: MakeCohort) -> None:
    root = make_cohort(2)
    (root / "images" / "notes.txt").write_text("x")
    (root / "images" / ".DS_Store").write_text("x")
    cohort = read_cohort(root)
    assert [issue.file for issue in cohort.issues] == ["images/notes.txt"]


def test_images_alone_are_a_cohort_only_on_request(make_cohort: MakeCohort) -> None:
    root = make_cohort(3)
    for file in (root / "labels").iterdir():
        file.unlink()
    (root / "labels").rmdir()
    cohort = read_cohort(root, require_labels=False)
    assert len(cohort.cases) == 3 and cohort.schema is None
    with pytest.raises(CohortError, match="labels/"):
        read_cohort(root)


def test_unsound_datalists_are_refused(make_cohort: MakeCohort) -> None:
    root = make_cohort(1)
    listing = root / "list.json"
    for content, message in [
        ("{", "not JSON"),
        ("{}", '"training"'),
        ('{"training": [{"label": "labels/case_0.nii.gz"}]}', r'training\[0\] has no "image"'),
        (
            '{"training": [{"image": "images/x.nii", "label": "labels/case_0.nii.gz"}]}',
            r"x\.nii: the image of case x",
        ),
        ('{"training": [{"image": "images/case_0.nii.gz"}]}', "has no label map"),
        ('{"training": []}', "no training case"),
    ]:
        listing.write_text(content)
        with pytest.raises(CohortError, match=message):
            read_cohort(listing)


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "x/" * 5000])
@pytest.mark.parametrize("list_name", ["cohort.json", "list.json"])
def test_a_text_that_no_system_takes_for_a_path_is_a_missing_file(
    make_cohort: MakeCohort, name: str, list_name: str
) -> None:
    root = make_cohort()
    (root / list_name).write_text(json.dumps({"training": [{"id": "a", "image": f"{name}.nii"}]}))
    with pytest.raises(CohortError, match="the image of case a does not exist"):
        read_cohort(root / list_name, require_labels=False)


def test_absent_cohort_and_impossible_share_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no cohort"):
        read_cohort(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="validation_fraction is 1"):
        read_cohort(tmp_path, validation_fraction=1.0)


@pytest.mark.real_data
def test_real_cohort_is_read_and_split(real_data: Path) -> None:
    cohort = read_cohort(real_data / "hippocampus_mri")
    assert (len(cohort.training), len(cohort.validation)) == (180, 20)
    assert cohort.schema is not None and cohort.schema.values == (1, 2)


def test_condition_images_join_the_cases_of_their_names(make_cohort: MakeCohort) -> None:
    root = make_cohort(3)
    for name in ("case_0", "case_2"):
        write_nifti(root / "condition_images" / f"{name}.nii.gz", np.ones((8, 7, 6)), np.eye(4))
    cohort = read_cohort(root)
    found = {
        case["id"]: Path(case["condition_image"]).parent.name
        for case in cohort.cases
        if "condition_image" in case
    }
    assert found == {"case_0": "condition_images", "case_2": "condition_images"}


def test_a_condition_image_on_another_grid_or_without_image_is_an_error(make_cohort: MakeCohort) -> None:
    root = make_cohort(2)
    write_nifti(root / "condition_images" / "case_0.nii.gz", np.ones((8, 7, 5)), np.eye(4))
    write_nifti(root / "condition_images" / "case_9.nii.gz", np.ones((8, 7, 6)), np.eye(4))
    with pytest.raises(CohortError) as error:
        read_cohort(root)
    assert "condition_images/case_9.nii.gz" in str(error.value)
    assert "condition_images/case_0.nii.gz" in str(error.value)


def test_label_maps_without_images_are_a_cohort_only_where_that_is_allowed(make_cohort: MakeCohort) -> None:
    root = make_cohort(3)
    shutil.rmtree(root / "images")
    with pytest.raises(CohortError, match="images/"):
        read_cohort(root)
    cohort = read_cohort(root, validation_fraction=0.0, require_images=False)
    assert ids(cohort.cases) == ["case_0", "case_1", "case_2"]
    assert all("image" not in case and Path(case["label"]).is_file() for case in cohort.cases)
    assert cohort.schema is not None
    assert not [issue for issue in check_cohort(cohort, full=True) if issue.severity == "error"]
    (root / "labels" / "case_1.nii.gz").write_bytes(b"no volume")
    (issue,) = [each for each in check_cohort(cohort, full=True) if each.severity == "error"]
    assert issue.file == "labels/case_1.nii.gz"
