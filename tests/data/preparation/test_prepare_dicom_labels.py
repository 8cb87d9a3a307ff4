"""From DICOM segmentations and structure sets to the label maps of a cohort."""

from __future__ import annotations

import gzip
import json
import logging
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medldm.data.cohort import read_cohort
from medldm.data.preparation.prepare import PrepareOptions, prepare
from tests.data.dicom.dicom_cases import Geometry, make_slices, save, stored_voxels
from tests.data.dicom.label_cases import (
    SHAPE,
    circle,
    flat,
    make_segmentation,
    make_series,
    make_structure_set,
    on_grid,
    random_masks,
    to_lps,
)


@pytest.fixture
def options(tmp_path: Path) -> PrepareOptions:
    return PrepareOptions(key_file=tmp_path / "secret" / "identity.key", workers=1, progress=False)


def label_of(root: Path, subject: str | None = None) -> np.ndarray:
    cases = [case for case in read_cohort(root, require_labels=False).cases if "label" in case]
    (case,) = [case for case in cases if subject in (None, case["subject"])]
    image, label = nib.load(case["image"]), nib.load(case["label"])
    np.testing.assert_array_equal(image.affine, label.affine)
    return np.asarray(label.dataobj)


def names_of(root: Path) -> dict[int, str]:
    content = json.loads((root / "labels.json").read_text())
    return {int(value): item["name"] if isinstance(item, dict) else item for value, item in content.items()}


@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL", "LABELMAP"])
def test_segmentation_becomes_the_label_map_and_never_an_image(
    kind: str, tmp_path: Path, options: PrepareOptions
) -> None:
    slices, masks = make_series(tmp_path / "in" / "ct"), random_masks()
    save([make_segmentation(slices, masks, kind=kind)], tmp_path / "in" / "elsewhere", prefix="SEG")
    result = prepare(tmp_path / "in", tmp_path / "out", options=options)
    assert (result.exit_code, len(result.cases)) == (0, 1), result.table()
    assert names_of(tmp_path / "out") == {1: "left kidney", 2: "liver"}
    found = label_of(tmp_path / "out")
    np.testing.assert_array_equal(found == 2, on_grid(masks[0])[0])
    np.testing.assert_array_equal(found == 1, on_grid(masks[1])[0])
    assert len(list((tmp_path / "out" / "images").iterdir())) == 1
    assert ("0.5 of the largest value" in result.table()) == (kind == "FRACTIONAL")


def test_structure_set_becomes_the_label_map(tmp_path: Path, options: PrepareOptions) -> None:
    slices = make_series(tmp_path / "in")
    ring = [circle((11.3, 9.2), radius, n=1500) for radius in ((8.21, 7.4), (3.3, 2.9))]
    contours = {
        "ring": [to_lps(flat(polygon, k)) for k in (3, 4, 5) for polygon in ring],
        "isocentre": [to_lps(np.array([[3.0, 3.0, 3.0]]))],
    }
    dataset = make_structure_set(slices, contours, kinds={"isocentre": "POINT"})
    save([dataset], tmp_path / "in", prefix="RS")
    result = prepare(tmp_path / "in", tmp_path / "out", options=options)
    assert result.exit_code == 0, result.table()
    assert "1 points and open contours of its structure set were passed over" in result.table()
    column, row, index = np.meshgrid(*map(np.arange, SHAPE), indexing="ij")
    outer, inner = (
        ((column - 11.3) / a) ** 2 + ((row - 9.2) / b) ** 2 < 1 for a, b in ((8.21, 7.4), (3.3, 2.9))
    )
    expected = outer & ~inner & (index >= 3) & (index <= 5)
    np.testing.assert_array_equal(label_of(tmp_path / "out") == 1, on_grid(expected)[0])


def test_objects_beside_a_series_are_neither_images_nor_labels_of_it(
    tmp_path: Path, options: PrepareOptions
) -> None:
    """A dose grid, a parametric map, a projection, a scout, a segmentation of an absent series."""
    root = tmp_path / "in"
    make_series(root)
    kinds = {"1.2.840.10008.5.1.4.1.1.481.2": "RTDOSE", "1.2.840.10008.5.1.4.1.1.30": "MR"}
    for number, (sop_class, modality) in enumerate(kinds.items()):
        others = make_slices(stored_voxels(seed=number), modality=modality)
        for dataset in others:
            dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = sop_class
        save(others, root, prefix=f"X{number}")
    for number, word in enumerate(("MIP", "LOCALIZER")):
        others = make_slices(stored_voxels(seed=number), Geometry(step_mm=4.0))
        for dataset in others:
            dataset.ImageType = ["DERIVED", "SECONDARY", word]
        save(others, root, prefix=f"Y{number}")
    absent = make_series(tmp_path / "absent", seed=9)
    save([make_segmentation(absent, random_masks())], root, prefix="SEG")
    result = prepare(root, tmp_path / "out", options=options)
    assert len(result.cases) == 1 and not result.cases[0].has_label
    assert result.passed_over == {
        "DICOM object that is no image (RT Dose)": 6,
        "DICOM object that is no image (Parametric Map)": 6,
        "projection series": 1,
        "localizer series": 1,
    }
    assert len(result.refused) == 1 and "not in the input" in result.refused[0].reason
    assert result.exit_code == 1


def test_segmentation_on_another_grid_refuses_its_case(tmp_path: Path, options: PrepareOptions) -> None:
    slices = make_series(tmp_path / "in")
    moved = make_series(tmp_path / "moved", Geometry(origin=(-31.1, 12.25, 140.0)))
    dataset = make_segmentation(moved, random_masks())
    wanted = make_segmentation(slices, random_masks())
    dataset.ReferencedSeriesSequence = wanted.ReferencedSeriesSequence
    for group in dataset.PerFrameFunctionalGroupsSequence:
        group.DerivationImageSequence = []
    save([dataset], tmp_path / "in", prefix="SEG")
    result = prepare(tmp_path / "in", tmp_path / "out", options=options)
    assert len(result.cases) == 0
    assert result.refused[0].reason.startswith("GeometryError: a frame of its segmentation lies 0.500 voxels")


def test_two_readers_are_refused_until_one_is_chosen(tmp_path: Path, options: PrepareOptions) -> None:
    slices, masks = make_series(tmp_path / "in"), random_masks()
    for name, mask in zip(("reader one", "reader two"), masks, strict=True):
        dataset = make_segmentation(slices, mask[None], names=("liver",))
        dataset.SeriesDescription = name
        save([dataset], tmp_path / "in", prefix=name[-3:])
    result = prepare(tmp_path / "in", tmp_path / "out", options=options)
    assert "--segmentation" in result.refused[0].reason and not result.cases
    chosen = replace(options, segmentation="two$")
    result = prepare(tmp_path / "in", tmp_path / "more", options=chosen)
    assert result.exit_code == 0, result.table()
    np.testing.assert_array_equal(label_of(tmp_path / "more") == 1, on_grid(masks[1])[0])
    with pytest.raises(ValueError, match="segmentation is '\\(', which is no regular expression"):
        replace(options, segmentation="(")


def test_segmentation_and_label_file_of_one_series_are_refused(
    tmp_path: Path, options: PrepareOptions
) -> None:
    slices, masks = make_series(tmp_path / "in" / "p1"), random_masks()
    save([make_segmentation(slices, masks)], tmp_path / "in" / "p1", prefix="SEG")
    label = nib.Nifti1Image(masks[0].astype(np.uint8), Geometry().affine())
    nib.save(label, tmp_path / "in" / "p1" / "label.nii.gz")
    result = prepare(tmp_path / "in", tmp_path / "out", options=options)
    assert not result.cases
    assert "a segmentation or structure set in DICOM and a label map beside it" in result.refused[0].reason


def test_label_maps_of_two_patients_stay_with_their_patients(tmp_path: Path, options: PrepareOptions) -> None:
    """The second patient has no labels; the only segmentation lies in that patient's folder."""
    first = make_series(tmp_path / "in" / "p1", patient="p1", seed=1)
    make_series(tmp_path / "in" / "p2", patient="p2", seed=2)
    masks = random_masks()
    save([make_segmentation(first, masks)], tmp_path / "in" / "p2", prefix="SEG")
    table = tmp_path / "subjects.csv"
    table.write_text("source,subject\np1,S1\np2,S2\n")
    result = prepare(tmp_path / "in", tmp_path / "out", table=table, options=options)
    assert result.exit_code == 0 and [case.has_label for case in result.cases] == [True, False]
    np.testing.assert_array_equal(label_of(tmp_path / "out", "S1") == 2, on_grid(masks[0])[0])


MARKS = [f"Zq{number:02d}Mark" for number in range(5)]


def test_no_identity_of_labels_reaches_any_output_or_log_line(
    tmp_path: Path, options: PrepareOptions, caplog: pytest.LogCaptureFixture
) -> None:
    """Marks in the headers and file names of SEG and RTSTRUCT, read, refused, lost and damaged."""
    caplog.set_level(logging.DEBUG)
    patient, surname, file_name, folder, comment = MARKS
    name = f"{surname}^"
    root = tmp_path / "in" / folder
    slices = make_series(root / "a", patient=patient, PatientName=name)
    other = make_series(root / "b", Geometry(origin=(0.0, 0.0, 0.0)), patient=f"{patient}2", PatientName=name)
    absent = make_series(tmp_path / "absent", patient=patient, PatientName=name)
    ring = {"ring": [to_lps(flat(circle((11, 9), (5, 5)), k)) for k in (3, 4)]}
    objects = [
        make_segmentation(slices, random_masks(), kind="FRACTIONAL"),
        make_segmentation(absent, random_masks()),
        make_structure_set(other, ring),
        make_structure_set(absent, ring),
    ]
    for dataset in objects:
        dataset.PatientName, dataset.SeriesDescription = name, comment
        dataset.ContentCreatorName = dataset.OperatorsName = name
    paths = save(objects, root, prefix=file_name)
    damaged = root / f"{file_name}x"
    damaged.write_bytes(paths[0].read_bytes()[:1500])
    result = prepare(tmp_path / "in", tmp_path / "out", options=options)
    assert len(result.cases) == 1 and len(result.refused) == 4, result.table()
    said = [caplog.text, repr(result), result.table()]
    for path in (tmp_path / "out").rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        content = gzip.decompress(content) if path.suffix == ".gz" else content
        said += [path.relative_to(tmp_path / "out").as_posix(), content.decode("latin-1")]
    text = "\n".join(said).lower()
    assert [mark for mark in MARKS if mark.lower() in text] == [] and str(tmp_path / "in").lower() not in text
