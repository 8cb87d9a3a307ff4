"""Every format gives the same voxels and geometry; what is not read is refused by name."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from medldm.transforms.errors import (
    CorruptVolumeError,
    GeometryError,
    HeaderError,
    UnsupportedVolumeError,
    VolumeTooLargeError,
    VoxelValueError,
)
from medldm.transforms.raw_volume import VolumeNumber
from medldm.transforms.readers import (
    check_voxels_finite,
    read_geometry,
    read_raw_volume,
    volume_stem,
    volume_suffix,
)


def itk_image() -> sitk.Image:
    image = sitk.GetImageFromArray(np.arange(60, dtype=np.int16).reshape(5, 4, 3))
    image.SetSpacing((0.8, 1.2, 2.5))
    image.SetOrigin((10.0, -20.0, 30.0))
    angle = 0.3
    image.SetDirection([np.cos(angle), -np.sin(angle), 0, np.sin(angle), np.cos(angle), 0, 0, 0, 1])
    return image


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_itk_formats_equal_itks_own_nifti(tmp_path: Path, suffix: str) -> None:
    sitk.WriteImage(itk_image(), str(tmp_path / f"a{suffix}"))
    sitk.WriteImage(itk_image(), str(tmp_path / "a.nii"))
    nifti = nib.load(tmp_path / "a.nii")
    raw = read_raw_volume(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(raw.array, nifti.get_fdata())
    np.testing.assert_allclose(raw.affine, nifti.affine, atol=1e-5)
    geometry = read_geometry(tmp_path / f"a{suffix}")
    assert geometry.shape == (3, 4, 5)
    np.testing.assert_array_equal(geometry.affine, raw.affine)


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_truncated_itk_file_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    sitk.WriteImage(itk_image(), str(path))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(CorruptVolumeError, match=f"^a{suffix}: "):
        read_raw_volume(path)


def test_itk_file_above_the_cap_is_refused_before_reading(tmp_path: Path) -> None:
    sitk.WriteImage(itk_image(), str(tmp_path / "a.mha"))
    with pytest.raises(VolumeTooLargeError, match="cap is 100 bytes"):
        read_raw_volume(tmp_path / "a.mha", max_bytes=100)


def test_colour_image_is_refused(tmp_path: Path) -> None:
    sitk.WriteImage(sitk.Image([3, 4, 5], sitk.sitkVectorUInt8, 3), str(tmp_path / "a.mha"))
    with pytest.raises(UnsupportedVolumeError, match="3 channels"):
        read_raw_volume(tmp_path / "a.mha")


@pytest.mark.parametrize("name", ["a.mha", "a.npy", "a.mgz"])
def test_several_channels_in_one_file_are_read_from_nifti_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\0" * 400)
    with pytest.raises(UnsupportedVolumeError, match=f"^{name}: .*NIfTI alone"):
        read_raw_volume(tmp_path / name, volume=VolumeNumber(0, 2))


@pytest.mark.parametrize("order", ["C", "F"])
def test_numpy_array_takes_the_users_spacing(tmp_path: Path, order: str) -> None:
    array = np.asarray(np.random.default_rng(0).normal(size=(3, 4, 5)), order=order)
    np.save(tmp_path / "a.npy", array)
    raw = read_raw_volume(tmp_path / "a.npy", spacing_mm=(0.02, 0.02, 0.1))
    np.testing.assert_array_equal(raw.array, array)
    np.testing.assert_array_equal(raw.affine, np.diag([0.02, 0.02, 0.1, 1]))


def test_numpy_array_without_spacing_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((2, 2, 2)))
    with pytest.raises(GeometryError, match="give spacing_mm"):
        read_raw_volume(tmp_path / "a.npy")


def test_pickled_array_is_not_loaded(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(UnsupportedVolumeError, match="dtype is object"):
        read_raw_volume(tmp_path / "a.npy", spacing_mm=(1, 1, 1))


def test_cut_and_damaged_numpy_files_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((4, 4, 4)))
    content = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "a.npy").write_bytes(content[:-1])
    with pytest.raises(CorruptVolumeError, match="holds 511 bytes"):
        read_raw_volume(tmp_path / "a.npy", spacing_mm=(1, 1, 1))
    (tmp_path / "a.npy").write_bytes(content[:20])
    with pytest.raises(HeaderError, match="damaged"):
        read_raw_volume(tmp_path / "a.npy", spacing_mm=(1, 1, 1))


@pytest.mark.parametrize("header", ["{'descr': (2,", "(" * 5000, "-" * 5000 + "1", "\0"])
def test_headers_that_are_no_literals_are_refused(tmp_path: Path, header: str) -> None:
    start = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()
    (tmp_path / "a.npy").write_bytes(start + bytes(48))
    with pytest.raises(HeaderError, match="damaged"):
        read_raw_volume(tmp_path / "a.npy", spacing_mm=(1, 1, 1))


def test_unknown_format_and_missing_file_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_bytes(b"")
    with pytest.raises(UnsupportedVolumeError, match=r"a\.dcm: .*medldm prepare"):
        read_raw_volume(tmp_path / "a.dcm")
    with pytest.raises(FileNotFoundError, match=r"b\.nii"):
        read_raw_volume(tmp_path / "b.nii")


@pytest.mark.parametrize(
    ("name", "stem", "suffix"),
    [
        ("a.b.nii.gz", "a.b", ".nii.gz"),
        ("A.NII", "A", ".nii"),
        ("a.npy", "a", ".npy"),
        ("a.txt", "a.txt", None),
    ],
)
def test_names_are_split_at_the_volume_suffix(name: str, stem: str, suffix: str | None) -> None:
    assert (volume_stem(name), volume_suffix(name)) == (stem, suffix)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_voxels_that_are_not_finite_are_counted_and_refused(value: float) -> None:
    array = np.zeros((3, 3, 3), dtype=np.float32)
    check_voxels_finite(array)
    array[1, 1, :2] = value
    with pytest.raises(VoxelValueError, match=r"a\.nii: 2 of 27 voxels"):
        check_voxels_finite(array, file="x/a.nii")
