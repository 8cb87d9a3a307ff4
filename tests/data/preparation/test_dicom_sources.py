from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom import uid
from pydicom.dataset import FileDataset

from medldm.data.dicom import choose_series, read_series, scan_dicom
from medldm.data.preparation.dicom_sources import DicomLabels, pair_label_objects
from medldm.transforms.errors import VoxelValueError
from tests.data.dicom.dicom_cases import CASES, CORONAL, Geometry, Truth, canonical, save
from tests.data.dicom.label_cases import (
    box,
    flat,
    make_segmentation,
    make_series,
    make_structure_set,
    on_grid,
    random_masks,
    to_lps,
)

BY_NAME = {case.name: case for case in CASES}
LIVER = {"liver": [to_lps(flat(box((2, 2), (9, 9)), 3))]}


def add(folder: Path, dataset: FileDataset, name: str = "SEG") -> None:
    save([dataset], folder, prefix=name)


def paired(folder: Path, *, description: str | None = None, series: str | None = None) -> DicomLabels:
    scan = scan_dicom(folder)
    chosen = choose_series(scan, description=series, refused=True)
    return pair_label_objects(scan, chosen, description=description)


def owner_of(folder: Path, labels: DicomLabels) -> list[str]:
    """Return the Series Instance UIDs that have labels."""
    return [one.image.series_uid for one in scan_dicom(folder).series if one.number in labels.by_series]


def without_references(dataset: FileDataset) -> FileDataset:
    del dataset.ReferencedSeriesSequence
    for group in (*dataset.PerFrameFunctionalGroupsSequence, *dataset.SharedFunctionalGroupsSequence):
        if "DerivationImageSequence" in group:
            del group.DerivationImageSequence
    if "SourceImageSequence" in dataset:
        del dataset.SourceImageSequence
    return dataset


@pytest.mark.parametrize("make", ["segmentation", "structure set"])
def test_labels_go_to_the_series_they_name_wherever_they_lie(make: str, tmp_path: Path) -> None:
    series = [make_series(tmp_path / f"p{k}", patient=f"p{k}", seed=k) for k in range(3)]
    owner = series[1]
    dataset = (
        make_segmentation(owner, random_masks())
        if make == "segmentation"
        else make_structure_set(owner, LIVER)
    )
    add(tmp_path / "p2", dataset)
    labels = paired(tmp_path)
    assert owner_of(tmp_path, labels) == [owner[0].SeriesInstanceUID]
    assert labels.lost == () and labels.passed_over == {}


def test_two_series_of_one_frame_and_grid_are_told_apart_by_reference(tmp_path: Path) -> None:
    first, second = (make_series(tmp_path / name, seed=k) for k, name in enumerate("ab"))
    add(tmp_path, make_segmentation(second, random_masks()))
    assert owner_of(tmp_path, paired(tmp_path)) == [second[0].SeriesInstanceUID]
    assert first[0].FrameOfReferenceUID == second[0].FrameOfReferenceUID


@pytest.mark.parametrize("make", ["segmentation", "structure set"])
def test_labels_of_an_absent_series_are_lost_though_one_image_stands_beside_them(
    make: str, tmp_path: Path
) -> None:
    make_series(tmp_path / "in", seed=1)
    absent = make_series(tmp_path / "elsewhere", seed=2)
    dataset = (
        make_segmentation(absent, random_masks())
        if make == "segmentation"
        else make_structure_set(absent, LIVER)
    )
    add(tmp_path / "in", dataset)
    labels = paired(tmp_path / "in")
    assert labels.by_series == {} and len(labels.lost) == 1
    assert f"a {make} belongs to images that are not in the input" in labels.lost[0]


def test_without_references_the_one_series_of_the_very_grid_is_taken(tmp_path: Path) -> None:
    slices = make_series(tmp_path / "ct")
    make_series(tmp_path / "other grid", Geometry(step_mm=5.0))
    make_series(tmp_path / "other patient", patient="p9")
    make_series(tmp_path / "other frame", FrameOfReferenceUID=uid.generate_uid())
    add(tmp_path / "other grid", without_references(make_segmentation(slices, random_masks())))
    labels = paired(tmp_path)
    assert owner_of(tmp_path, labels) == [slices[0].SeriesInstanceUID] and labels.lost == ()


def test_without_references_two_series_of_one_grid_are_not_guessed(tmp_path: Path) -> None:
    slices = make_series(tmp_path / "a", seed=1)
    make_series(tmp_path / "b", seed=2)
    add(tmp_path / "a", without_references(make_segmentation(slices, random_masks())))
    labels = paired(tmp_path)
    assert labels.by_series == {}
    assert (
        "names no images, and 2 series of its patient and frame of reference have its grid" in labels.lost[0]
    )


def test_structure_set_without_references_needs_the_very_slices(tmp_path: Path) -> None:
    slices = make_series(tmp_path / "a")
    make_series(tmp_path / "b", Geometry(origin=(-31.5, 12.25, 141.2)))
    add(tmp_path / "b", make_structure_set(slices, LIVER, with_images=False), "RS")
    assert owner_of(tmp_path, paired(tmp_path)) == [slices[0].SeriesInstanceUID]


def test_labels_that_name_another_patient_or_frame_are_lost(tmp_path: Path) -> None:
    slices = make_series(tmp_path)
    other_patient = make_segmentation(slices, random_masks())
    other_patient.PatientID = "p2"
    other_frame = make_segmentation(slices, random_masks())
    other_frame.FrameOfReferenceUID = uid.generate_uid()
    add(tmp_path, other_patient, "A")
    add(tmp_path, other_frame, "B")
    labels = paired(tmp_path)
    assert labels.by_series == {}
    assert "another Patient ID" in labels.lost[0] and "another frame of reference" in labels.lost[1]


def test_labels_of_a_series_that_was_not_asked_for_are_passed_over(tmp_path: Path) -> None:
    make_series(tmp_path / "a", SeriesDescription="portal")
    other = make_series(tmp_path / "b", SeriesDescription="arterial")
    add(tmp_path, make_segmentation(other, random_masks()))
    labels = paired(tmp_path, series="portal")
    assert (labels.by_series, labels.lost) == ({}, ())
    assert labels.passed_over == {"segmentation of a series that was not asked for": 1}


def test_labels_that_name_two_series_are_lost_unless_one_is_asked_for(tmp_path: Path) -> None:
    first = make_series(tmp_path / "a", SeriesDescription="portal")
    second = make_series(tmp_path / "b", SeriesDescription="arterial")
    dataset = make_structure_set(first, LIVER)
    study = dataset.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0]
    study.RTReferencedSeriesSequence.extend(
        make_structure_set(second, LIVER)
        .ReferencedFrameOfReferenceSequence[0]
        .RTReferencedStudySequence[0]
        .RTReferencedSeriesSequence
    )
    add(tmp_path, dataset, "RS")
    assert "a structure set names 2 series or volumes" in paired(tmp_path).lost[0]
    labels = paired(tmp_path, series="arterial")
    assert owner_of(tmp_path, labels) == [second[0].SeriesInstanceUID]


def test_two_segmentations_of_one_series_merge_where_their_names_differ(tmp_path: Path) -> None:
    slices, masks = make_series(tmp_path), random_masks(3)
    add(tmp_path, make_segmentation(slices, masks[:2]), "A")
    add(tmp_path, make_segmentation(slices, masks[2:], names=("spleen",), kind="LABELMAP"), "B")
    volume = read_series(scan_dicom(tmp_path).series[0])
    (structures,) = paired(tmp_path).by_series.values()
    found = structures.read(tuple(volume.shape[1:]), volume.affine.numpy())
    assert structures.names == tuple(found) == ("liver", "left kidney", "spleen")
    for name, mask in zip(structures.names, masks, strict=True):
        np.testing.assert_array_equal(found[name], on_grid(mask)[0])
    assert "put together from 2 segmentations" in structures.notes[0]


def test_two_segmentations_of_one_structure_are_refused_or_chosen_by_description(tmp_path: Path) -> None:
    slices, masks = make_series(tmp_path), random_masks(2)
    for name, mask in zip(("reader one", "reader two"), masks, strict=True):
        dataset = make_segmentation(slices, mask[None], names=("liver",))
        dataset.SeriesDescription = name
        add(tmp_path, dataset, name[-3:])
    volume = read_series(scan_dicom(tmp_path).series[0])
    grid = tuple(volume.shape[1:]), volume.affine.numpy()
    (structures,) = paired(tmp_path).by_series.values()
    with pytest.raises(
        VoxelValueError, match="2 segmentations of its series name 1 structures more than once"
    ):
        structures.read(*grid)
    labels = paired(tmp_path, description="READER TWO")
    (structures,) = labels.by_series.values()
    np.testing.assert_array_equal(structures.read(*grid)["liver"], on_grid(masks[1])[0])
    assert labels.passed_over == {"segmentation of another description than asked for": 1}


def test_copy_of_a_segmentation_counts_once(tmp_path: Path) -> None:
    slices = make_series(tmp_path)
    dataset = make_segmentation(slices, random_masks())
    add(tmp_path / "a", dataset)
    add(tmp_path / "b", dataset)
    scan = scan_dicom(tmp_path)
    assert len(scan.labels) == 1 and scan.ignored == {"copy of a segmentation": 1}


def test_names_that_differ_in_case_and_separators_are_one_structure(tmp_path: Path) -> None:
    slices, masks = make_series(tmp_path), random_masks(2)
    for name, mask in zip(("Left_Kidney", "left kidney"), masks, strict=True):
        add(tmp_path, make_segmentation(slices, mask[None], names=(name,)), name[:4])
    (structures,) = paired(tmp_path).by_series.values()
    with pytest.raises(VoxelValueError, match="name 1 structures more than once"):
        structures.read((1, 1, 1), np.eye(4))


def test_segmentation_of_a_multi_frame_image_goes_to_it(tmp_path: Path) -> None:
    (truth,) = BY_NAME["enhanced_legacy"].build(tmp_path)
    make_series(tmp_path / "other")
    (image,) = [pydicom.dcmread(path) for path in tmp_path.iterdir() if path.is_file()]
    mask = np.random.default_rng(0).random(truth.voxels.shape) > 0.5
    groups = image.PerFrameFunctionalGroupsSequence
    positions = np.array(
        [group.PlanePositionSequence[0].ImagePositionPatient for group in groups], dtype=float
    )
    slice_of_frame = np.argsort(np.argsort(positions @ Geometry(orientation=CORONAL).normal))
    add(tmp_path, make_segmentation([image], mask[None][..., slice_of_frame], names=("liver",)))
    labels = paired(tmp_path)
    assert owner_of(tmp_path, labels) == [image.SeriesInstanceUID] and labels.lost == ()
    series = next(one for one in scan_dicom(tmp_path).series if one.number in labels.by_series)
    volume = read_series(series)
    found = labels.by_series[series.number].read(tuple(volume.shape[1:]), volume.affine.numpy())
    expected, _ = canonical(Truth(voxels=mask.astype(np.uint8), affine=truth.affine))
    np.testing.assert_array_equal(found["liver"], expected > 0)
