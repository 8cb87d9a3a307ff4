"""Written files hold the voxels, the affine to the bit, and nothing else."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from medldm.transforms import GeometryError, LoadVolume, VoxelValueError, restore_file_geometry, write_nifti


@pytest.mark.parametrize("dtype", [np.float32, np.int16, np.uint8])
@pytest.mark.parametrize("name", ["a.nii", "sub/a.nii.gz"])
def test_voxels_and_dtype_come_back(tmp_path: Path, oblique: np.ndarray, dtype: type, name: str) -> None:
    array = np.random.default_rng(0).integers(0, 200, (4, 5, 6)).astype(dtype)
    path = write_nifti(tmp_path / name, array, oblique, dtype=dtype)
    image = nib.load(path)
    assert image.get_data_dtype() == np.dtype(dtype)
    np.testing.assert_array_equal(np.asanyarray(image.dataobj), array)
    np.testing.assert_allclose(image.affine, oblique, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("form", ["sform", "qform"])
def test_affine_of_a_file_is_written_back_to_the_bit(tmp_path: Path, oblique: np.ndarray, form: str) -> None:
    rotation, _ = np.linalg.qr(oblique[:3, :3])
    affine = oblique.copy()
    if form == "qform":
        affine[:3, :3] = rotation * [0.7, 1.3, 2.1]
    source = nib.Nifti1Image(np.zeros((4, 5, 6), dtype=np.float32), None)
    getattr(source.header, f"set_{form}")(affine, code=1)
    nib.save(source, tmp_path / "source.nii")
    volume = restore_file_geometry(LoadVolume()(tmp_path / "source.nii"))
    written = write_nifti(tmp_path / "copy.nii.gz", volume, volume.affine)
    np.testing.assert_array_equal(nib.load(written).affine, nib.load(tmp_path / "source.nii").affine)


def test_sform_and_qform_say_the_same(tmp_path: Path) -> None:
    affine = np.array([[-2.0, 0, 0, 90], [0, 0, 3.0, -70], [0, 1.5, 0, 10], [0, 0, 0, 1]])
    header = nib.load(write_nifti(tmp_path / "a.nii", np.zeros((3, 4, 5)), affine)).header
    assert (int(header["sform_code"]), int(header["qform_code"])) == (1, 1)
    np.testing.assert_allclose(header.get_sform(), header.get_qform(), atol=1e-5)
    assert header.get_xyzt_units()[0] == "mm"


def test_header_carries_no_text(tmp_path: Path) -> None:
    header = nib.load(write_nifti(tmp_path / "a.nii", np.zeros((3, 4, 5)), np.eye(4))).header
    for field in ("descrip", "aux_file", "db_name", "intent_name", "data_type"):
        assert bytes(header[field]).strip(b"\0") == b""
    assert len(header.extensions) == 0


def test_failed_writing_leaves_neither_a_file_nor_the_old_one_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_nifti(tmp_path / "a.nii", np.ones((3, 3, 3)), np.eye(4))
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(nib, "save", fail)
    with pytest.raises(OSError, match="no space"):
        write_nifti(path, np.zeros((3, 3, 3)), np.eye(4))
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.nii"]


def test_channel_axis_and_metatensors_are_taken(tmp_path: Path) -> None:
    volume = MetaTensor(torch.rand(1, 3, 4, 5), affine=torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0])))
    path = write_nifti(tmp_path / "a.nii", volume, volume.affine)
    np.testing.assert_array_equal(nib.load(path).get_fdata(dtype=np.float32), volume[0].numpy())


def test_values_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(VoxelValueError, match=r"do not fit uint8 \(0 to 255\)"):
        write_nifti(tmp_path / "a.nii", np.full((2, 2, 2), 300.0), np.eye(4), dtype=np.uint8)
    with pytest.raises(VoxelValueError, match="NaN or Inf"):
        write_nifti(tmp_path / "a.nii", np.full((2, 2, 2), np.nan), np.eye(4))
    assert not list(tmp_path.iterdir())


def test_impossible_targets_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\.nii or \.nii\.gz"):
        write_nifti(tmp_path / "a.mha", np.zeros((2, 2, 2)), np.eye(4))
    with pytest.raises(ValueError, match=r"shape \(2, 2\)"):
        write_nifti(tmp_path / "a.nii", np.zeros((2, 2)), np.eye(4))
    with pytest.raises(GeometryError, match="spacing"):
        write_nifti(tmp_path / "a.nii", np.zeros((2, 2, 2)), np.zeros((4, 4)))
