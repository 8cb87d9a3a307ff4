"""What is an image: by SOP class, modality and image type, whatever else has pixels and a place."""

from __future__ import annotations

import gzip
import zipfile
from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from medldm.data.dicom import Refusal, is_dicom_tree, read_dicom, scan_dicom
from medldm.data.dicom.sop_classes import IMAGES, kind_of, name_of
from tests.data.dicom.dicom_cases import build_4d_by_time, make_slices, save, stored_voxels
from tests.data.dicom.label_cases import make_segmentation, make_series, make_structure_set, random_masks

OTHERS = {
    "1.2.840.10008.5.1.4.1.1.481.2": "RT Dose",
    "1.2.840.10008.5.1.4.1.1.30": "Parametric Map",
    "1.2.840.10008.5.1.4.1.1.481.1": "RT Image",
    "1.2.840.10008.5.1.4.1.1.1": "Computed Radiography Image",
    "1.2.840.10008.5.1.4.1.1.3.1": "Ultrasound Multi-frame Image",
    "1.2.840.10008.5.1.4.1.1.77.1.6": "VL Whole Slide Microscopy Image",
    "1.2.840.10008.5.1.4.1.1.66.8": "Height Map Segmentation",
    "1.2.840.10008.5.1.4.1.1.4.2": "MR Spectroscopy",
}


def with_class(sop_class: str, *, modality: str = "MR") -> list[Dataset]:
    """Return slices with pixels and a whole geometry that say they are of another SOP class."""
    slices = make_slices(stored_voxels(), modality=modality)
    for dataset in slices:
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = sop_class
    return slices


@pytest.mark.parametrize("sop_class", OTHERS)
def test_what_has_pixels_and_geometry_but_is_no_image_is_passed_over_by_name(
    sop_class: str, tmp_path: Path
) -> None:
    save(make_slices(stored_voxels(seed=1)), tmp_path, prefix="MR")
    save(with_class(sop_class), tmp_path, prefix="X")
    scan = scan_dicom(tmp_path)
    assert [series.refusal for series in scan.series] == [None]
    assert scan.ignored == {f"DICOM object that is no image ({OTHERS[sop_class]})": 6}


@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL", "LABELMAP"])
def test_segmentation_and_structure_set_are_labels_and_no_series(kind: str, tmp_path: Path) -> None:
    slices = make_series(tmp_path)
    save([make_segmentation(slices, random_masks(), kind=kind)], tmp_path, prefix="SEG")
    save([make_structure_set(slices, {"liver": [[[0, 0, 0], [1, 0, 0], [1, 1, 0]]]})], tmp_path, prefix="RS")
    scan = scan_dicom(tmp_path)
    assert [series.shape for series in scan.series] == [(24, 20, 9)]
    assert sorted(label.kind for label in scan.labels) == ["segmentation", "structure set"]
    assert "labels of other series: 1 files (segmentation)" in scan.table() and scan.ignored == {}
    assert read_dicom(tmp_path).shape == (1, 24, 20, 9)


@pytest.mark.parametrize(
    ("sop_class", "word"),
    [("", "absent"), ("1.3.46.670589.5.0.10", "private or unknown"), ("1.2.840.10008.5.1.9.9", "unknown")],
)
def test_unknown_class_with_pixels_is_refused_by_name(sop_class: str, word: str, tmp_path: Path) -> None:
    slices = with_class(sop_class or "1.2")
    for dataset in slices:
        if not sop_class:
            del dataset.SOPClassUID
            del dataset.file_meta.MediaStorageSOPClassUID
    save(slices, tmp_path, enforce_file_format=False)
    (series,) = scan_dicom(tmp_path).series
    assert series.refusal is not None and series.refusal.refusal is Refusal.SOP_CLASS
    assert word in str(series.refusal)


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"ImageType": ["DERIVED", "SECONDARY", "MIP"]}, Refusal.PROJECTION),
        ({"ImageType": ["DERIVED", "PRIMARY", "PROJECTION IMAGE", "M"]}, Refusal.PROJECTION),
        ({"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}, Refusal.PROJECTION),
        ({"VolumeBasedCalculationTechnique": "MAX_IP"}, Refusal.PROJECTION),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, Refusal.LOCALIZER),
        ({"ImageType": ["DERIVED", "PRIMARY", "AXIAL", "SCOUT"]}, Refusal.LOCALIZER),
        ({"BurnedInAnnotation": "YES"}, Refusal.BURNED_IN_TEXT),
        ({"Modality": "SEG"}, Refusal.SOP_CLASS),
        ({"Modality": "RTDOSE"}, Refusal.SOP_CLASS),
    ],
)
def test_image_class_that_holds_no_volume_is_refused_by_name(
    changes: dict[str, object], refusal: Refusal, tmp_path: Path
) -> None:
    slices = make_slices(stored_voxels())
    for dataset in slices:
        for keyword, value in changes.items():
            setattr(dataset, keyword, value)
    save(slices, tmp_path)
    (series,) = scan_dicom(tmp_path).series
    assert series.refusal is not None and series.refusal.refusal is refusal


def test_series_of_two_patients_is_refused(tmp_path: Path) -> None:
    slices = make_slices(stored_voxels())
    slices[4].PatientID = "phantom-2"
    save(slices, tmp_path)
    (series,) = scan_dicom(tmp_path).series
    assert series.refusal is not None and series.refusal.refusal is Refusal.PATIENTS
    assert "phantom" not in str(series.refusal)


def test_other_class_within_a_series_is_a_stack_of_its_own(tmp_path: Path) -> None:
    slices = make_slices(stored_voxels())
    captures = make_slices(stored_voxels(seed=4))
    for dataset in captures:
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
        dataset.SeriesInstanceUID = slices[0].SeriesInstanceUID
    save(slices, tmp_path, prefix="MR")
    save(captures, tmp_path, prefix="SC")
    assert [series.refusal for series in scan_dicom(tmp_path).series] == [None, None]


def test_table_knows_each_class_once_by_the_name_of_the_standard() -> None:
    assert all(kind_of(sop_class) == "image" and name_of(sop_class) for sop_class in IMAGES)
    assert kind_of("1.2.840.10008.5.1.4.1.1.66.7") == "segmentation"
    assert {kind_of(sop_class) for sop_class in OTHERS} == {"other"}


def test_time_series_that_nothing_tells_apart_says_so_with_its_time_points(tmp_path: Path) -> None:
    build_4d_by_time(tmp_path)
    import pydicom

    for path in tmp_path.iterdir():
        dataset = pydicom.dcmread(path)
        del dataset.TemporalPositionIdentifier, dataset.AcquisitionTime
        dataset.save_as(path)
    (series,) = scan_dicom(tmp_path).series
    assert series.refusal is not None and series.refusal.refusal is Refusal.TIME_SERIES
    message = str(series.refusal)
    assert "time series (4D): 6 places hold up to 3 slices each, so 3 time points" in message
    assert "export each time point" in message and "keep one" not in message


def test_dicom_tree_is_told_by_its_files(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    assert not is_dicom_tree(tmp_path) and not is_dicom_tree(tmp_path / "absent")
    save(make_slices(stored_voxels()), tmp_path / "deep" / "er")
    assert is_dicom_tree(tmp_path)


def test_files_of_macos_are_skipped_and_packed_files_named(tmp_path: Path) -> None:
    slices = make_slices(stored_voxels())
    (first, *_) = save(slices, tmp_path)
    (tmp_path / "._IM0000").write_bytes(b"\0\5\x16\7" + bytes(60))
    (tmp_path / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    (tmp_path / "more.dcm.gz").write_bytes(gzip.compress(first.read_bytes()))
    with zipfile.ZipFile(tmp_path / "study.zip", "w") as archive:
        archive.write(first)
    scan = scan_dicom(tmp_path)
    assert scan.n_files == 8
    assert scan.ignored == {
        "a packed DICOM file; unpack it first, then convert it with `medldm prepare`": 1,
        "a zip archive; unpack it first": 1,
    }
