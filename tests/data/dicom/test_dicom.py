"""Agreement with independent readers, choice of series, and damaged files."""

from __future__ import annotations

import logging
import pickle
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medldm.data.dicom import DicomError, Refusal, choose_series, pixels, read_dicom, read_series, scan_dicom
from tests.data.dicom.dicom_cases import CASES, make_slices, save, stored_voxels

BY_NAME = {case.name: case for case in CASES}
SINGLE_FRAME_STACKS = (
    "axial",
    "sagittal",
    "coronal",
    "oblique",
    "shuffled",
    "feet_first",
    "duplicated_instance_numbers",
    "slope_per_slice",
    "hounsfield",
    "jpeg_2000",
    "rle",
    "jpeg_lossless",
)


@pytest.mark.parametrize("name", SINGLE_FRAME_STACKS)
def test_volume_agrees_with_highdicom(name: str, tmp_path: Path) -> None:
    highdicom = pytest.importorskip("highdicom")
    import pydicom

    BY_NAME[name].build(tmp_path)
    datasets = [pydicom.dcmread(path) for path in sorted(tmp_path.rglob("*")) if path.is_file()]
    other = highdicom.get_volume_from_series(datasets, orientation_tol=2e-4, apply_presentation_lut=False)
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ other.affine
    image = nib.as_closest_canonical(nib.Nifti1Image(other.array, affine))
    volume = read_dicom(tmp_path)
    np.testing.assert_array_equal(volume.numpy()[0], np.asarray(image.dataobj, dtype=np.float32))
    np.testing.assert_allclose(volume.affine.numpy(), image.affine, atol=1e-4)


@pytest.mark.parametrize("name", ["enhanced", "enhanced_rle", "enhanced_legacy"])
def test_multi_frame_volume_agrees_with_highdicom(name: str, tmp_path: Path) -> None:
    highdicom = pytest.importorskip("highdicom")
    BY_NAME[name].build(tmp_path)
    other = highdicom.imread(next(tmp_path.iterdir())).get_volume()
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ other.affine
    image = nib.as_closest_canonical(nib.Nifti1Image(other.array.astype(np.float64), affine))
    volume = read_dicom(tmp_path)
    np.testing.assert_array_equal(volume.numpy()[0], np.asarray(image.dataobj, dtype=np.float32))
    np.testing.assert_allclose(volume.affine.numpy(), image.affine, atol=1e-4)


@pytest.mark.real_data
@pytest.mark.parametrize("name", ["t1_post", "hippocampus_crop"])
def test_real_series_agrees_with_dcm2niix(name: str, real_data: Path, tmp_path: Path) -> None:
    dcm2niix = pytest.importorskip("dcm2niix")
    folder = real_data / "brain_mri_dicom" / name
    command = [dcm2niix.bin, "-o", str(tmp_path), "-f", "volume", "-z", "n", "-b", "n", str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    image = nib.as_closest_canonical(nib.load(tmp_path / "volume.nii"))
    volume = read_dicom(folder)
    np.testing.assert_array_equal(volume.numpy()[0], np.asarray(image.dataobj, dtype=np.float32))
    np.testing.assert_allclose(volume.affine.numpy(), image.affine, atol=1e-4)


def test_series_are_chosen_by_modality_description_and_size(tmp_path: Path) -> None:
    for modality, description, n_slices in (("CT", "Thorax 1.0", 6), ("MR", "t1 post", 6), ("MR", "t2", 3)):
        slices = make_slices(stored_voxels(n_slices=n_slices), modality=modality)
        for dataset in slices:
            dataset.SeriesDescription = description
        save(slices, tmp_path, prefix=description.replace(" ", ""))
    scan = scan_dicom(tmp_path)
    assert [s.shape[2] for s in choose_series(scan, modality="mr")] == [6, 3] or [
        s.shape[2] for s in choose_series(scan, modality="mr")
    ] == [3, 6]
    assert [s.shape[2] for s in choose_series(scan, description="^T2$")] == [3]
    assert len(choose_series(scan, min_slices=4)) == 2
    assert choose_series(scan, min_size=(8, 5)) == ()
    assert read_dicom(tmp_path, modality="CT").shape == (1, 7, 5, 6)


def test_reading_one_of_several_fitting_series_is_refused(tmp_path: Path) -> None:
    BY_NAME["two_series"].build(tmp_path)
    with pytest.raises(DicomError, match="ambiguous: series 1, 2 fit"):
        read_dicom(tmp_path)
    with pytest.raises(DicomError, match="no_match"):
        read_dicom(tmp_path, modality="CT")


def test_refusal_names_the_slices(tmp_path: Path) -> None:
    BY_NAME["missing_slice"].build(tmp_path)
    message = str(scan_dicom(tmp_path).series[0].refusal)
    assert (
        "1 slices are missing: 1 after slice (InstanceNumber 3, position -31.50 12.25 145.00 mm)" in message
    )


def test_cap_is_kept_before_pixels_are_read(tmp_path: Path) -> None:
    BY_NAME["axial"].build(tmp_path)
    assert scan_dicom(tmp_path, max_bytes=5 * 7 * 6 * 4).series[0].refusal is None
    series = scan_dicom(tmp_path, max_bytes=5 * 7 * 6 * 4 - 1).series[0]
    assert series.refusal is not None and series.refusal.refusal is Refusal.TOO_LARGE


def test_absent_decoder_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    BY_NAME["jpeg_ls"].build(tmp_path)
    monkeypatch.setattr(pixels, "_has_module", lambda name: False)
    with pytest.raises(DicomError, match=r"pip install 'medldm\[dicom\]'") as caught:
        read_dicom(tmp_path)
    assert caught.value.refusal is Refusal.DECODER_MISSING


def test_error_survives_pickling() -> None:
    error = DicomError(Refusal.MOSAIC, "reason")
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.refusal, str(copy)) == (Refusal.MOSAIC, "mosaic: reason")


def test_series_without_readable_slice_is_reported(tmp_path: Path) -> None:
    BY_NAME["axial"].build(tmp_path / "good")
    for path in save(make_slices(stored_voxels(n_slices=3)), tmp_path / "bad"):
        path.write_bytes(path.read_bytes()[:-9])
    (tmp_path / "cut").write_bytes((tmp_path / "good" / "IM0000").read_bytes()[:200])
    scan = scan_dicom(tmp_path)
    assert [series.refusal for series in scan.series] == [None]
    assert [error.refusal for error in scan.damaged] == [Refusal.TRUNCATED, Refusal.UNREADABLE]
    assert "truncated" in scan.table()


def test_absent_folder_is_named_as_such(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="does not exist"):
        scan_dicom(tmp_path / "none")


def test_links_in_a_circle_are_followed_once(tmp_path: Path) -> None:
    BY_NAME["axial"].build(tmp_path / "a")
    (tmp_path / "a" / "loop").symlink_to(tmp_path, target_is_directory=True)
    assert [series.shape for series in scan_dicom(tmp_path).series] == [(7, 5, 6)]


def test_no_header_text_reaches_repr_log_or_meta(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    BY_NAME["axial"].build(tmp_path / "PHANTOM")
    scan = scan_dicom(tmp_path)
    volume = read_series(scan.series[0])
    said = "\n".join([repr(scan), repr(scan.series[0].frames), scan.table(), str(volume.meta), caplog.text])
    assert "phantom" not in said.lower()


@pytest.mark.slow
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), name=st.sampled_from(["axial", "deflated", "enhanced", "rle", "jpeg_ls"]))
def test_damaged_file_is_read_or_refused_and_nothing_else(
    data: st.DataObject, name: str, tmp_path: Path
) -> None:
    folder = tmp_path / name
    if not folder.exists():
        BY_NAME[name].build(folder)
        for path in folder.iterdir():
            (tmp_path / f"{name}-{path.name}").write_bytes(path.read_bytes())
    path = data.draw(st.sampled_from(sorted(folder.iterdir())))
    good = (tmp_path / f"{name}-{path.name}").read_bytes()
    damaged = bytearray(good)
    for _ in range(data.draw(st.integers(1, 8))):
        damaged[data.draw(st.integers(0, min(len(good), 3000) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(damaged[: data.draw(st.integers(0, len(good)) | st.just(len(good)))])
    try:
        for series in scan_dicom(folder, max_bytes=2**24).series:
            try:
                read_series(series, regularise=True, max_bytes=2**24)
            except DicomError:
                continue
    finally:
        path.write_bytes(good)
