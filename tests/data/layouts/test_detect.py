"""Every layout is read where it lies: the same voxels, names of structures and subjects come out."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medldm.data import CohortError, check_cohort, read_cohort, run_check
from medldm.data.layouts.detect import read_layout
from medldm.data.preparation.prepare import PrepareOptions, prepare
from medldm.transforms import LoadVolume
from tests.data.layouts.made import (
    AFFINE,
    LAYOUTS,
    Truth,
    image_of,
    labels_of,
    make_bids,
    make_msd,
    make_nnunet,
    make_own,
    make_totalsegmentator,
    write,
)

IN_PLACE = [name for name in LAYOUTS if name != "TotalSegmentator"]


@pytest.fixture
def options(tmp_path: Path) -> PrepareOptions:
    return PrepareOptions(key_file=tmp_path / "secret" / "identity.key", workers=1, progress=False)


def assert_is(root: Path, truth: Truth) -> None:
    """Compare a cohort with the truth, in world coordinates."""
    cohort = read_cohort(root)
    assert len(cohort.cases) == len(truth.images)
    assert len({case["subject"] for case in cohort.cases}) == truth.n_subjects
    assert cohort.schema is not None and dict(cohort.schema.structures) == truth.structures
    found = set()
    for case in cohort.cases:
        image, label = (nib.as_closest_canonical(nib.load(case[key])) for key in ("image", "label"))
        voxels = np.asarray(image.dataobj)
        number = next(
            n for n, truth_image in truth.images.items() if np.array_equal(voxels, canonical(truth_image))
        )
        found.add(number)
        np.testing.assert_array_equal(np.asarray(label.dataobj), canonical(truth.labels[number]))
        expected = nib.as_closest_canonical(nib.Nifti1Image(truth.images[number], AFFINE)).affine
        np.testing.assert_allclose(image.affine, expected, atol=1e-5)
        np.testing.assert_allclose(label.affine, expected, atol=1e-5)
    assert found == set(truth.images)
    assert [issue for issue in check_cohort(cohort, full=True) if issue.severity == "error"] == []


def canonical(voxels: np.ndarray) -> np.ndarray:
    return np.asarray(nib.as_closest_canonical(nib.Nifti1Image(voxels, AFFINE)).dataobj)


@pytest.mark.parametrize("layout", IN_PLACE)
def test_a_layout_is_read_where_it_lies(layout: str, tmp_path: Path) -> None:
    truth = LAYOUTS[layout](tmp_path / "in")
    before = sorted(path for path in (tmp_path / "in").rglob("*"))
    assert_is(tmp_path / "in", truth)
    assert sorted(path for path in (tmp_path / "in").rglob("*")) == before


@pytest.mark.parametrize("layout", LAYOUTS)
def test_prepare_makes_an_equal_cohort_of_a_layout(
    layout: str, tmp_path: Path, options: PrepareOptions
) -> None:
    truth = LAYOUTS[layout](tmp_path / "in")
    names = "labels.json" if layout == "own" else None
    settings = PrepareOptions(**{**options.__dict__, "labels": names and tmp_path / "in" / names})
    result = prepare(tmp_path / "in", tmp_path / "out", options=settings)
    assert (result.exit_code, result.refused) == (0, ())
    assert_is(tmp_path / "out", truth)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_check_names_the_layout(layout: str, tmp_path: Path) -> None:
    LAYOUTS[layout](tmp_path / "in")
    text, code = run_check(tmp_path / "in")
    named = "" if layout == "own" else layout.split()[0]
    assert named in text
    assert code == (1 if layout == "TotalSegmentator" else 0)
    assert ("`medldm prepare IN OUT`" in text) == (layout == "TotalSegmentator")


def test_masks_where_they_lie_are_one_error_that_names_prepare(tmp_path: Path) -> None:
    make_totalsegmentator(tmp_path)
    with pytest.raises(CohortError, match="1 problem") as caught:
        read_cohort(tmp_path)
    assert "TotalSegmentator" in str(caught.value) and "medldm prepare" in str(caught.value)


def test_a_dicom_folder_names_prepare(tmp_path: Path) -> None:
    (tmp_path / "series").mkdir()
    (tmp_path / "series" / "1.dcm").write_bytes(b"\0" * 128 + b"DICM")
    with pytest.raises(CohortError, match="medldm prepare IN OUT"):
        read_cohort(tmp_path)


def test_nnunet_channels_are_one_case_and_a_missing_one_is_named(tmp_path: Path) -> None:
    make_nnunet(tmp_path)
    for n in range(3):
        write(tmp_path / f"imagesTr/case_{n:03d}_0001.nii.gz", image_of(10 + n))
    content = json.loads((tmp_path / "dataset.json").read_text())
    content["channel_names"] = {"0": "T1", "1": "T2 FS"}
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    cohort = read_cohort(tmp_path)
    assert cohort.channels == ("T1", "T2-FS") and len(cohort.cases) == 3
    for case in cohort.cases:
        assert [Path(file).name[-11:-7] for file in case["image"]] == ["0000", "0001"]
    assert read_cohort(tmp_path, channels=["T2-FS"]).cases[0]["image"].endswith("_0001.nii.gz")
    (tmp_path / "imagesTr/case_001_0001.nii.gz").unlink()
    with pytest.raises(CohortError, match=r"case_001.*lacks T2-FS"):
        read_cohort(tmp_path)
    assert len(read_cohort(tmp_path, drop_incomplete=True).cases) == 2


def test_nnunet_channels_become_channels_of_the_prepared_cohort(
    tmp_path: Path, options: PrepareOptions
) -> None:
    truth = make_nnunet(tmp_path / "in")
    for n in range(3):
        write(tmp_path / f"in/imagesTr/case_{n:03d}_0001.nii.gz", image_of(10 + n))
    content = json.loads((tmp_path / "in/dataset.json").read_text())
    content["channel_names"] = {"0": "T1", "1": "T2"}
    (tmp_path / "in/dataset.json").write_text(json.dumps(content))
    assert prepare(tmp_path / "in", tmp_path / "out", options=options).exit_code == 0
    cohort = read_cohort(tmp_path / "out")
    assert cohort.channels == ("T1", "T2")
    pairs = {(canonical(truth.images[n]).tobytes(), canonical(image_of(10 + n)).tobytes()) for n in range(3)}
    found = {
        tuple(np.asarray(nib.load(file).dataobj).tobytes() for file in case["image"]) for case in cohort.cases
    }
    assert found == pairs


def test_test_images_are_welcome_where_labels_are_not_needed(tmp_path: Path) -> None:
    make_nnunet(tmp_path)
    write(tmp_path / "imagesTs/case_100_0000.nii.gz", image_of(7))
    labelled = read_cohort(tmp_path)
    assert len(labelled.cases) == 3
    assert any("1 test images" in issue.message for issue in labelled.issues)
    assert len(read_cohort(tmp_path, require_labels=False).cases) == 4


@pytest.mark.parametrize("make", [make_nnunet, make_msd])
def test_a_map_left_over_is_an_error(make, tmp_path: Path) -> None:
    make(tmp_path)
    next(iter(sorted((tmp_path / "imagesTr").glob("[!.]*")))).unlink()
    with pytest.raises(CohortError) as caught:
        read_cohort(tmp_path)
    assert any(issue.check in ("pair", "missing") for issue in caught.value.issues)


def test_msd_list_that_gives_another_map_is_an_error(tmp_path: Path) -> None:
    make_msd(tmp_path)
    content = json.loads((tmp_path / "dataset.json").read_text())
    content["training"][0]["label"] = "./labelsTr/organ_001.nii.gz"
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(CohortError, match="label map of another name"):
        read_cohort(tmp_path)


def test_nnunet_channels_of_one_name_are_told_apart_and_said(tmp_path: Path) -> None:
    make_nnunet(tmp_path)
    for n in range(3):
        write(tmp_path / f"imagesTr/case_{n:03d}_0001.nii.gz", image_of(10 + n))
    content = json.loads((tmp_path / "dataset.json").read_text())
    content["channel_names"] = {"0": "MRI", "1": "MRI"}
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    cohort = read_cohort(tmp_path)
    assert cohort.channels == ("MRI", "MRI-2")
    assert any("MRI, MRI-2" in issue.message for issue in cohort.issues)


def test_regions_of_nnunet_are_said_and_values_kept(tmp_path: Path) -> None:
    make_nnunet(tmp_path)
    content = json.loads((tmp_path / "dataset.json").read_text())
    content["labels"] = {"background": 0, "whole": [1, 2], "core": 2}
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    cohort = read_cohort(tmp_path)
    assert cohort.schema is not None and dict(cohort.schema.structures) == {1: "structure_1", 2: "core"}
    assert any("regions" in issue.message for issue in cohort.issues)


def test_bids_brings_sessions_of_one_subject_colours_and_participants(tmp_path: Path) -> None:
    make_bids(tmp_path)
    cohort = read_cohort(tmp_path)
    assert {case["id"]: case["subject"] for case in cohort.cases} == {
        "sub-01_ses-1": "sub-01", "sub-01_ses-2": "sub-01", "sub-02_ses-1": "sub-02",
    }  # fmt: skip
    by_id = {case["id"]: case for case in cohort.cases}
    assert by_id["sub-01_ses-2"]["scalars"] == {"age": 61.0, "sex": 0.0}
    assert by_id["sub-02_ses-1"]["scalars"] == {"sex": 1.0}
    assert by_id["sub-02_ses-1"]["classes"] == {"group": "AD"}
    assert cohort.schema is not None and dict(cohort.schema.colours) == {1: "#aa0000", 2: "#00aa00"}
    ids = [{case["subject"] for case in part} for part in (cohort.training, cohort.validation)]
    assert not ids[0] & ids[1]


def test_bids_passes_over_what_is_neither_image_nor_map(tmp_path: Path) -> None:
    make_bids(tmp_path)
    folder = tmp_path / "derivatives/seg/sub-01/ses-1/anat"
    for name in ("label-GM_probseg", "desc-brain_mask", "desc-preproc_T1w"):
        write(folder / f"sub-01_ses-1_{name}.nii.gz", image_of(3))
    cohort = read_cohort(tmp_path)
    assert len(cohort.cases) == 3
    said = " ".join(issue.message for issue in cohort.issues)
    assert "probability" in said and "brain masks" in said and "derivatives" in said


def test_bids_rows_that_match_no_scan_are_counted(tmp_path: Path) -> None:
    make_bids(tmp_path)
    (tmp_path / "participants.tsv").write_text("participant_id\tage\nsub-01\t61\nsub-O2\t62\n")
    issues = {issue.file: issue.message for issue in read_cohort(tmp_path).issues}
    assert "no row" in issues["sub-02"] and "match no scan" in issues["sub-O2"]


def test_bids_contrasts_are_cases_of_one_subject_or_channels(tmp_path: Path) -> None:
    make_bids(tmp_path)
    for path in list(tmp_path.glob("sub-*/ses-*/anat/*_T1w.nii.gz")):
        write(path.with_name(path.name.replace("T1w", "T2w")), image_of(20))
    for path in list(tmp_path.glob("derivatives/**/*_dseg.nii.gz")):
        path.rename(path.with_name(path.name.replace("_space-T1w", "")))
    assert len(read_cohort(tmp_path).cases) == 6
    joined = read_cohort(tmp_path, channels=["t2w", "t1w"])
    assert len(joined.cases) == 3 and joined.channels == ("t2w", "t1w")
    assert all("T2w" in case["image"][0] and "T1w" in case["image"][1] for case in joined.cases)


def test_volumes_outside_the_layout_are_counted(tmp_path: Path) -> None:
    make_nnunet(tmp_path)
    write(tmp_path / "elsewhere/x.nii.gz", image_of(1))
    (issue,) = read_cohort(tmp_path).issues
    assert issue.file == "elsewhere/x.nii.gz" and "passed over" in issue.message


def test_own_folders_win_over_guesses_and_say_nothing_of_layouts(tmp_path: Path) -> None:
    make_own(tmp_path)
    assert read_layout(tmp_path) is None
    assert read_cohort(tmp_path).layout == ""


def test_own_folders_of_folders_are_understood(tmp_path: Path) -> None:
    for n in range(3):
        write(tmp_path / f"images/p{n}/ct.nii.gz", image_of(n))
        write(tmp_path / f"labels/p{n}/ct.nii.gz", labels_of(n))
    cohort = read_cohort(tmp_path)
    assert {case["subject"] for case in cohort.cases} == {"p0", "p1", "p2"}
    assert all(Path(case["label"]).parent.name == case["subject"] for case in cohort.cases)
    assert LoadVolume()(cohort.cases[0]["image"]).shape == (1, 8, 7, 6)
