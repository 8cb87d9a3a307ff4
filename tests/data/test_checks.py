"""Every planted fault is found, named with its file, and stops a training where it must."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medldm.data import (
    CohortError,
    Issue,
    check_cohort,
    file_info_cache,
    read_cohort,
    require_sound,
    run_check,
)
from medldm.transforms import write_nifti

MakeCohort = Callable[..., Path]
SHAPE = (8, 7, 6)


def image(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(200, 5, SHAPE)


def found(root: Path, *, full: bool = True) -> list[Issue]:
    return check_cohort(read_cohort(root, strict=False), full=full)


def assert_found(
    root: Path, *, severity: str, check: str, file: str, message: str, full: bool = True
) -> None:
    matching = [item for item in found(root, full=full) if item.check == check and item.file == file]
    assert matching, found(root)
    assert matching[0].severity == severity
    assert message in matching[0].message


def test_sound_cohort_has_no_issues(make_cohort: MakeCohort) -> None:
    root = make_cohort(5)
    assert found(root) == []
    assert require_sound(read_cohort(root)) == []


@pytest.mark.real_data
def test_real_cohort_is_sound(real_data: Path) -> None:
    assert found(real_data / "hippocampus_mri") == []


def break_shape(root: Path) -> None:
    write_nifti(root / "labels/case_1.nii.gz", np.ones((8, 7, 5)), np.eye(4))


def break_affine(root: Path) -> None:
    affine = np.eye(4)
    affine[0, 3] = 0.02
    write_nifti(root / "labels/case_1.nii.gz", np.ones(SHAPE), affine)


def break_dimensions(root: Path) -> None:
    nib.save(
        nib.Nifti1Image(np.zeros((8, 7, 6, 2), dtype=np.float32), np.eye(4)), root / "images/case_1.nii.gz"
    )


def break_gzip(root: Path) -> None:
    path = root / "images/case_1.nii.gz"
    path.write_bytes(path.read_bytes()[:-10])


def put_nan(root: Path) -> None:
    array = image(1).astype(np.float32)
    array[0, 0, 0] = np.nan
    nib.save(nib.Nifti1Image(array, np.eye(4)), root / "images/case_1.nii.gz")


def make_constant(root: Path) -> None:
    write_nifti(root / "images/case_1.nii.gz", np.full(SHAPE, 3.0), np.eye(4))


def put_fractions(root: Path) -> None:
    write_nifti(root / "labels/case_1.nii.gz", np.full(SHAPE, 0.5), np.eye(4))


def put_undeclared_value(root: Path) -> None:
    (root / "labels.json").write_text('{"1": "a", "2": "b"}')
    write_nifti(root / "labels/case_1.nii.gz", np.full(SHAPE, 9), np.eye(4), dtype=np.uint8)


@pytest.mark.parametrize(
    ("fault", "check", "file", "message"),
    [
        (break_shape, "shape", "labels/case_1.nii.gz", "its shape is (8, 7, 5)"),
        (break_affine, "affine", "labels/case_1.nii.gz", "0.02 mm"),
        (break_dimensions, "unreadable", "images/case_1.nii.gz", "three axes are read"),
        (break_gzip, "unreadable", "images/case_1.nii.gz", "end too early"),
        (put_nan, "unreadable", "images/case_1.nii.gz", "NaN or Inf"),
        (make_constant, "constant", "images/case_1.nii.gz", "all voxels are 3"),
        (put_fractions, "unreadable", "labels/case_1.nii.gz", "no integers"),
        (put_undeclared_value, "label value", "labels/case_1.nii.gz", "9 are not declared"),
    ],
)
def test_faults_that_stop_a_training(
    make_cohort: MakeCohort, fault: Callable[[Path], None], check: str, file: str, message: str
) -> None:
    root = make_cohort()
    fault(root)
    assert_found(root, severity="error", check=check, file=file, message=message)
    with pytest.raises(CohortError, match=r"case_1\.nii\.gz"):
        require_sound(read_cohort(root))
    text, code = run_check(root)
    assert code == 1 and file in text


@pytest.mark.parametrize("fault", [break_shape, break_affine, break_dimensions])
def test_fast_part_finds_faults_of_headers(make_cohort: MakeCohort, fault: Callable[[Path], None]) -> None:
    root = make_cohort()
    fault(root)
    assert [item.severity for item in found(root, full=False)] == ["error"]


def test_every_offending_file_is_in_the_one_error(make_cohort: MakeCohort) -> None:
    root = make_cohort(6)
    for number in (1, 3, 5):
        write_nifti(root / f"images/case_{number}.nii.gz", np.full(SHAPE, float(number)), np.eye(4))
    with pytest.raises(CohortError) as caught:
        require_sound(read_cohort(root))
    assert [item.file for item in caught.value.issues] == [
        f"images/case_{number}.nii.gz" for number in (1, 3, 5)
    ]


def test_empty_label_is_a_warning(make_cohort: MakeCohort) -> None:
    root = make_cohort()
    write_nifti(root / "labels/case_1.nii.gz", np.zeros(SHAPE), np.eye(4), dtype=np.uint8)
    assert_found(root, severity="warning", check="empty label", file="labels/case_1.nii.gz", message="empty")
    assert len(require_sound(read_cohort(root))) == 1


def test_spacing_field_of_view_and_orientation_outliers_are_warnings(make_cohort: MakeCohort) -> None:
    root = make_cohort(6)
    for folder, dtype in (("images", np.float32), ("labels", np.uint8)):
        array = image(1) if folder == "images" else np.ones(SHAPE)
        write_nifti(root / folder / "case_1.nii.gz", array, np.diag([1, 1, 3, 1]), dtype=dtype)
        write_nifti(root / folder / "case_2.nii.gz", array + 1, np.diag([-1, -1, 1, 1]), dtype=dtype)
    (root / "labels.json").write_text('{"1": "a", "2": "b"}')
    warnings = {(item.check, item.file) for item in found(root, full=False)}
    assert warnings == {
        ("spacing", "images/case_1.nii.gz"),
        ("field of view", "images/case_1.nii.gz"),
        ("orientation", "images/case_2.nii.gz"),
    }


def test_duplicate_voxels_are_an_error_across_splits_and_a_warning_within(make_cohort: MakeCohort) -> None:
    root = make_cohort(4)
    write_nifti(root / "images/case_1.nii.gz", nib.load(root / "images/case_0.nii.gz").get_fdata(), np.eye(4))
    entries = [{"image": f"images/case_{n}.nii.gz", "label": f"labels/case_{n}.nii.gz"} for n in range(4)]
    (root / "across.json").write_text(json.dumps({"training": entries[1:], "validation": entries[:1]}))
    (root / "within.json").write_text(json.dumps({"training": entries[:3], "validation": entries[3:]}))
    across, within = found(root / "across.json"), found(root / "within.json")
    assert [(item.severity, item.check) for item in across] == [("error", "duplicate")]
    assert [(item.severity, item.check) for item in within] == [("warning", "duplicate")]


def test_subject_in_both_splits_is_an_error(make_cohort: MakeCohort) -> None:
    root = make_cohort(names=["sub-1_ses-1", "sub-1_ses-2", "sub-2_ses-1"])
    entries = [
        {"image": f"images/{name}.nii.gz", "label": f"labels/{name}.nii.gz"}
        for name in ("sub-1_ses-1", "sub-1_ses-2", "sub-2_ses-1")
    ]
    (root / "list.json").write_text(json.dumps({"training": entries[1:], "validation": entries[:1]}))
    assert [(item.check, item.file) for item in found(root / "list.json")] == [("subject leak", "sub-1")]


def test_declared_structure_that_never_occurs_is_a_warning(make_cohort: MakeCohort) -> None:
    root = make_cohort()
    (root / "labels.json").write_text('{"1": "a", "2": "b", "4": "c"}')
    assert [(item.severity, item.file) for item in found(root)] == [("warning", "4 (c)")]


def test_implausible_hounsfield_units_are_a_warning(make_cohort: MakeCohort) -> None:
    root = make_cohort(5)
    for number in range(5):
        shift = 1024 if number == 2 else 0
        array = np.random.default_rng(number).normal(0, 100, SHAPE)
        array[0] = -1000
        write_nifti(root / f"images/case_{number}.nii.gz", array + shift, np.eye(4), dtype=np.int16)
    assert [(item.check, item.file) for item in found(root)] == [("hounsfield", "images/case_2.nii.gz")]


def test_full_check_is_remembered_until_a_file_changes(
    make_cohort: MakeCohort, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_cohort()
    read: list[str] = []
    inspect = file_info_cache.inspect_voxels

    def counting(path: str, *, is_label: bool) -> object:
        read.append(Path(path).name)
        return inspect(path, is_label=is_label)

    monkeypatch.setattr(file_info_cache, "inspect_voxels", counting)
    first = found(root)
    assert len(read) == 8
    assert found(root) == first and len(read) == 8
    write_nifti(root / "images/case_2.nii.gz", np.zeros(SHAPE), np.eye(4))
    assert [item.check for item in found(root)] == ["constant"]
    assert read[8:] == ["case_2.nii.gz"]


def test_damaged_cache_is_passed_over(make_cohort: MakeCohort, tmp_path: Path) -> None:
    root = make_cohort()
    found(root)
    (store,) = (tmp_path / "cache").glob("cohort-*.json")
    for content in ("{", "[]", '{"a": 3}', '{"a": ["b", {"shape": 3}]}'):
        store.write_text(content)
        assert found(root) == []


def test_cache_holds_no_names(make_cohort: MakeCohort, tmp_path: Path) -> None:
    found(make_cohort(names=["Doe_Jane", "Roe_John"]))
    (store,) = (tmp_path / "cache").glob("cohort-*.json")
    content = store.name + store.read_text()
    assert "Doe" not in content and "cohort/" not in content


def test_json_form_holds_the_issues(make_cohort: MakeCohort) -> None:
    root = make_cohort()
    make_constant(root)
    text, code = run_check(root, as_json=True)
    content = json.loads(text)
    assert code == 1 and content["n_errors"] == 1 and not content["is_sound"]
    assert content["issues"][0]["file"] == "images/case_1.nii.gz"
    assert content["issues"][0]["check"] == "constant"


def test_layout_faults_are_findings_of_the_check_not_exceptions(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels.json").write_text("{")
    text, code = run_check(tmp_path)
    assert code == 1
    for expected in ("labels/", "images/", "labels.json"):
        assert expected in text


def test_label_map_in_the_place_of_an_image_is_an_error(make_cohort: MakeCohort) -> None:
    """A segmentation converted as if it were a series: as it is, as one mask of it, and of another scan."""
    root = make_cohort(4)
    label = nib.load(root / "labels/case_0.nii.gz")
    voxels = np.asarray(label.dataobj)
    write_nifti(root / "images/case_0.nii.gz", voxels.astype(np.float32), label.affine)
    write_nifti(root / "images/case_1.nii.gz", (voxels > 0) * 255, label.affine, dtype=np.int16)
    same = "this image is a label map: its voxels are those of labels/case_0.nii.gz"
    few = "this image looks like a label map: it holds 2 whole values and no others"
    for file, message in (("images/case_0.nii.gz", same), ("images/case_1.nii.gz", few)):
        assert_found(root, severity="error", check="label map as image", file=file, message=message)
    assert len([item for item in found(root) if item.check == "label map as image"]) == 2


def test_label_map_of_declared_structures_is_told_from_an_image_of_whole_numbers(
    make_cohort: MakeCohort,
) -> None:
    root = make_cohort(4)
    names = {str(value): f"structure {value}" for value in range(1, 41)}
    (root / "labels.json").write_text(json.dumps(names))
    generator = np.random.default_rng(0)
    write_nifti(root / "images/case_2.nii.gz", generator.integers(0, 41, SHAPE), np.eye(4), dtype=np.int16)
    write_nifti(root / "images/case_3.nii.gz", generator.integers(0, 60, SHAPE), np.eye(4), dtype=np.int16)
    named = [item.file for item in found(root) if item.check == "label map as image"]
    assert named == ["images/case_2.nii.gz"]


def test_cohort_of_few_valued_images_alone_is_not_judged(make_cohort: MakeCohort) -> None:
    root = make_cohort(2)
    for k in range(2):
        voxels = np.random.default_rng(k).integers(0, 3, SHAPE)
        write_nifti(root / f"images/case_{k}.nii.gz", voxels, np.eye(4), dtype=np.int16)
    assert not [item for item in found(root) if item.check == "label map as image"]


def test_check_of_a_dicom_tree_names_prepare(tmp_path: Path) -> None:
    from tests.data.dicom.dicom_cases import make_slices, save, stored_voxels

    save(make_slices(stored_voxels()), tmp_path / "study" / "series")
    text, code = run_check(tmp_path / "study")
    assert code == 1 and "it holds DICOM files" in text and "`medldm prepare IN OUT`" in text
    assert "phantom" not in text.lower()
