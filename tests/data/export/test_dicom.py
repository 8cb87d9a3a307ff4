"""The DICOM export, read back by highdicom, dcm2niix and this package's own reader."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest

from medldm.data.dicom.read import read_dicom
from medldm.data.export import ExportOptions, export_cohort
from medldm.data.export.dicom_header import make_uid
from medldm.data.export.dicom_pixels import store_pixels
from medldm.errors import ConfigError
from medldm.transforms import GeometryError, VoxelValueError
from tests.data.export.export_cases import (
    AFFINES,
    SCHEMA,
    VALUES,
    affine_of,
    save,
    voxels,
    write_cohort,
    write_synthetic,
)

hd = pytest.importorskip("highdicom")

FORMS = {"classic": False, "enhanced": True}


def canonical(array: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Turn a volume to RAS+ through nibabel."""
    image = nib.as_closest_canonical(nib.Nifti1Image(array, affine, dtype=array.dtype))
    return np.asarray(image.dataobj), np.asarray(image.affine)


def export_one(tmp_path: Path, *, enhanced: bool, modality: str = "CT", **options: object) -> Path:
    write_cohort(tmp_path / "real", ["a", "b"], **options)  # type: ignore[arg-type]
    settings = ExportOptions(enhanced=enhanced, modality=modality)
    export_cohort(tmp_path / "real", tmp_path / "out", format="dicom", options=settings)
    return tmp_path / "out" / "real" / "a"


def read_all(folder: Path) -> list[pydicom.Dataset]:
    return [pydicom.dcmread(path) for path in sorted(folder.rglob("*.dcm"))]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("modality", ["CT", "MR"])
@pytest.mark.parametrize("affine", AFFINES)
def test_highdicom_reads_voxels_and_affine(form: str, modality: str, affine: str, tmp_path: Path) -> None:
    folder = export_one(tmp_path, enhanced=FORMS[form], modality=modality, affines=[affine])
    series = read_all(folder / "image")
    volume = (
        hd.image.Image.from_dataset(series[0]).get_volume(apply_real_world_transform=False)
        if FORMS[form]
        else hd.get_volume_from_series(series, apply_real_world_transform=False)
    )
    volume = volume.to_patient_orientation("RAF")
    found, place = canonical(np.asarray(volume.array), np.diag([-1.0, -1, 1, 1]) @ volume.affine)
    source = tmp_path / "real" / "images" / "a.nii.gz"
    expected, expected_place = canonical(voxels(source), affine_of(source))
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose(place, expected_place, atol=1e-4)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("modality", ["CT", "MR"])
@pytest.mark.parametrize("affine", AFFINES)
def test_dcm2niix_reads_voxels_and_affine(form: str, modality: str, affine: str, tmp_path: Path) -> None:
    dcm2niix = pytest.importorskip("dcm2niix")
    folder = export_one(tmp_path, enhanced=FORMS[form], modality=modality, affines=[affine])
    (tmp_path / "nii").mkdir()
    command = [dcm2niix.bin, "-o", str(tmp_path / "nii"), "-f", "x", "-z", "n", str(folder / "image")]
    subprocess.run(command, check=True, capture_output=True)
    (path,) = (tmp_path / "nii").glob("*.nii")
    found, place = canonical(voxels(path), affine_of(path))
    source = tmp_path / "real" / "images" / "a.nii.gz"
    expected, expected_place = canonical(voxels(source), affine_of(source))
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose(place, expected_place, atol=1e-4)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("affine", AFFINES)
@pytest.mark.parametrize("kind", ["int16", "uint16", "float32"])
def test_the_own_reader_reads_voxels_and_affine(form: str, affine: str, kind: str, tmp_path: Path) -> None:
    folder = export_one(tmp_path, enhanced=FORMS[form], modality="MR", affines=[affine], kind=kind)
    volume = read_dicom(folder / "image")
    source = tmp_path / "real" / "images" / "a.nii.gz"
    expected, place = canonical(voxels(source), affine_of(source))
    np.testing.assert_allclose(volume.affine.numpy(), place, atol=1e-4)
    step = float(np.ptp(expected)) / (2**16 - 1) if kind == "float32" else 0.0
    np.testing.assert_allclose(volume.numpy()[0], expected, rtol=0, atol=0.51 * step + 1e-5 * bool(step))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("affine", AFFINES)
def test_the_segmentation_is_the_label_map(form: str, affine: str, tmp_path: Path) -> None:
    folder = export_one(tmp_path, enhanced=FORMS[form], affines=[affine])
    segmentation = hd.seg.segread(folder / "segmentation" / "0001.dcm")
    volume = segmentation.get_volume(combine_segments=True)
    found, place = canonical(np.asarray(volume.array), np.diag([-1.0, -1, 1, 1]) @ volume.affine)
    source = tmp_path / "real" / "labels" / "a.nii.gz"
    expected, expected_place = canonical(voxels(source), affine_of(source))
    # highdicom leaves out slices without a segment.
    shift = np.rint(np.linalg.inv(expected_place) @ place[:, 3])[:3].astype(int)
    whole = np.zeros(expected.shape, int)
    whole[tuple(slice(n, n + size) for n, size in zip(shift, found.shape, strict=True))] = found
    np.testing.assert_array_equal(np.array([0, *VALUES])[whole], expected)
    np.testing.assert_allclose(place[:, :3], expected_place[:, :3], atol=1e-4)
    segments = segmentation.SegmentSequence
    assert [item.SegmentLabel for item in segments] == [entry["name"] for entry in SCHEMA.values()]
    assert segments[1].SegmentedPropertyTypeCodeSequence[0].CodeValue == "10200004"
    assert {item.SegmentAlgorithmType for item in segments} == {"MANUAL"}
    colour = hd.color.CIELabColor.from_dicom_value(segments[0].RecommendedDisplayCIELabValue).to_rgb()
    np.testing.assert_allclose(colour, [0x10, 0x80, 0xF0], atol=2)
    image = read_all(folder / "image")[0]
    assert segmentation.FrameOfReferenceUID == image.FrameOfReferenceUID
    assert segmentation.StudyInstanceUID == image.StudyInstanceUID
    assert segmentation.PatientID == image.PatientID


@pytest.mark.parametrize("form", FORMS)
def test_every_object_of_a_synthetic_case_says_so(form: str, tmp_path: Path) -> None:
    write_cohort(tmp_path / "real", ["a", "b"])
    write_synthetic(tmp_path / "made")
    export_cohort(
        tmp_path / "real",
        tmp_path / "out",
        format="dicom",
        synthetic=[tmp_path / "made"],
        options=ExportOptions(enhanced=FORMS[form]),
    )
    made = read_all(tmp_path / "out" / "synthetic")
    assert len(made) == 2 * (2 if FORMS[form] else 8)
    for item in made:
        assert item.PatientID in ("SYNTHETIC-0000", "SYNTHETIC-0001")
        assert item.SeriesDescription.startswith("SYNTHETIC ")
        assert item.ImageComments.startswith("SYNTHETIC DATA")
        assert item.SyntheticData == "YES"
        assert list(item.ImageType[:2]) == (
            ["DERIVED", "PRIMARY"] if item.Modality == "SEG" else ["DERIVED", "SECONDARY"]
        )
    segments = [segment for item in made if item.Modality == "SEG" for segment in item.SegmentSequence]
    assert {segment.SegmentAlgorithmType for segment in segments} == {"AUTOMATIC"}
    for item in read_all(tmp_path / "out" / "real"):
        assert "SYNTHETIC" not in str(item)
        assert item.PatientID in ("a", "b")


@pytest.mark.parametrize("form", FORMS)
def test_there_is_no_date_but_an_artificial_one(form: str, tmp_path: Path) -> None:
    for item in read_all(export_one(tmp_path, enhanced=FORMS[form])):
        dated = [element for element in item.iterall() if element.VR in ("DA", "DT", "TM")]
        assert {str(element.value) for element in dated} <= {"", "None", "19000101", "000000"}
        assert not item.StudyDate
        assert not item.PatientBirthDate


@pytest.mark.parametrize("form", FORMS)
def test_identifiers_are_valid_and_only_once(form: str, tmp_path: Path) -> None:
    export_one(tmp_path, enhanced=FORMS[form], channels=["t1n", "t2w"])
    items = read_all(tmp_path / "out")
    assert all(item.SOPInstanceUID.is_valid for item in items)
    assert len({item.SOPInstanceUID for item in items}) == len(items)
    assert all(item.file_meta.MediaStorageSOPInstanceUID == item.SOPInstanceUID for item in items)
    # Two patients with a study each of two series and a segmentation.
    assert len({item.StudyInstanceUID for item in items}) == 2
    assert len({item.SeriesInstanceUID for item in items}) == 6
    assert len({item.FrameOfReferenceUID for item in items}) == 2


def test_other_voxels_have_other_identifiers(tmp_path: Path) -> None:
    first = read_all(export_one(tmp_path, enhanced=False))[0]
    shutil.rmtree(tmp_path / "out")
    image = voxels(tmp_path / "real/images/a.nii.gz").copy()
    image[0, 0, 0] += 1
    save(tmp_path / "real/images/a.nii.gz", image, AFFINES["ras"])
    export_cohort(tmp_path / "real", tmp_path / "out", format="dicom")
    second = read_all(tmp_path / "out" / "real" / "a")[0]
    assert first.SeriesInstanceUID != second.SeriesInstanceUID
    assert first.SOPInstanceUID != second.SOPInstanceUID


def test_identifiers_follow_from_their_parts() -> None:
    assert make_uid("a", 1) == make_uid("a", 1)
    assert make_uid("a", 1) != make_uid("a1")
    assert pydicom.uid.UID(make_uid("a")).is_valid


@pytest.mark.parametrize("form", FORMS)
def test_names_of_any_letters_are_kept(form: str, tmp_path: Path) -> None:
    write_cohort(tmp_path / "real", ["Fall ö", "x" * 80])
    export_cohort(
        tmp_path / "real", tmp_path / "out", format="dicom", options=ExportOptions(enhanced=FORMS[form])
    )
    names = {str(item.PatientID) for item in read_all(tmp_path / "out")}
    assert "Fall ö" in names
    assert {len(name) for name in names} == {6, 64}
    assert (tmp_path / "out" / "real" / "Fall_o").is_dir()


@pytest.mark.parametrize("shape", [(9, 11, 1), (1, 11, 7), (9, 1, 7)])
def test_a_single_slice_is_refused(shape: tuple[int, int, int], tmp_path: Path) -> None:
    for seed, name in enumerate("ab"):
        image = np.random.default_rng(seed).integers(0, 9, shape).astype(np.int16)
        save(tmp_path / "real" / "images" / f"{name}.nii.gz", image, AFFINES["ras"])
    size = " x ".join(str(n) for n in shape)
    with pytest.raises(ConfigError, match=f"{size} voxels; a DICOM series needs 2 or more along each axis"):
        export_cohort(tmp_path / "real", tmp_path / "out", format="dicom")
    assert not (tmp_path / "out").exists()


def test_a_sheared_grid_is_refused(tmp_path: Path) -> None:
    sheared = np.eye(4)
    sheared[0, 2] = 0.1
    for seed, name in enumerate("ab"):
        image = np.random.default_rng(seed).integers(0, 9, (5, 6, 7)).astype(np.int16)
        save(tmp_path / "real" / "images" / f"{name}.nii.gz", image, sheared)
    with pytest.raises(GeometryError, match=r"a\.nii\.gz: its axes are 5\.71 degrees off"):
        export_cohort(tmp_path / "real", tmp_path / "out", format="dicom")


@pytest.mark.parametrize(
    "values",
    [
        np.array([-1024, 0, 3071], np.int16),
        np.array([-32768, 32767], np.int32),
        np.array([0, 65535], np.uint16),
        np.array([-5, 65530], np.int64),
        np.array([100000, 165535], np.int32),
        np.array([-3.0, 2000.0], np.float32),
        np.array([7, 7], np.uint8),
    ],
)
def test_whole_numbers_are_exact(values: np.ndarray) -> None:
    pixels = store_pixels(values.reshape(-1, 1, 1))
    assert pixels.step is None
    back = pixels.stored.astype(np.float64) * float(pixels.slope) + float(pixels.intercept)
    np.testing.assert_array_equal(back.ravel(), values)


@pytest.mark.parametrize("scale", [1e-6, 0.37, 1.0, 12345.6])
@pytest.mark.parametrize("offset", [0.0, -17.3, 1e4 / 3])
def test_other_numbers_come_back_within_half_a_step(scale: float, offset: float) -> None:
    values = np.random.default_rng(0).normal(offset, scale, (9, 10, 11))
    pixels = store_pixels(values)
    assert pixels.step is not None
    assert max(len(pixels.slope), len(pixels.intercept)) <= 16
    assert pixels.step <= np.ptp(values) / 65535 * (1 + 1e-6)
    back = pixels.stored * float(pixels.slope) + float(pixels.intercept)
    np.testing.assert_allclose(back, values, rtol=0, atol=pixels.step * 0.5001 + 1e-9 * abs(offset))


def test_a_constant_fraction_is_stored() -> None:
    pixels = store_pixels(np.full((2, 2, 2), 0.25))
    np.testing.assert_array_equal(pixels.stored * float(pixels.slope) + float(pixels.intercept), 0.25)


def test_voxels_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(VoxelValueError, match="NaN or Inf"):
        store_pixels(np.array([[[0.0, np.nan]]]))


def test_the_step_of_other_numbers_is_said(tmp_path: Path) -> None:
    write_cohort(tmp_path / "real", ["a", "b"], kind="float32")
    result = export_cohort(tmp_path / "real", tmp_path / "out", format="dicom")
    assert any("stored in steps of at most 0.00" in note for note in result.notes)


def test_the_command_does_not_log_what_highdicom_copies(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_cohort(tmp_path / "real", ["a", "b"])
    with caplog.at_level("INFO"):
        export_cohort(tmp_path / "real", tmp_path / "out", format="dicom")
    assert not [record for record in caplog.records if record.name.startswith("highdicom")]
