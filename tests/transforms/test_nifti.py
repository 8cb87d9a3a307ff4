"""NIfTI files are read to their end, exactly, or refused."""

from __future__ import annotations

import gzip
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medldm.transforms.errors import (
    CorruptVolumeError,
    UnsupportedVolumeError,
    VolumeError,
    VolumeTooLargeError,
)
from medldm.transforms.nifti import read_nifti, read_nifti_header
from medldm.transforms.raw_volume import VolumeNumber

SaveNifti = Callable[..., Path]


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "u2", "i4", "u4", "f4", "f8", ">i2", ">f4"])
def test_voxels_and_affine_equal_nibabels(
    save_nifti: SaveNifti, oblique: np.ndarray, dtype: str, name: str
) -> None:
    array = np.random.default_rng(0).integers(0, 100, (5, 7, 3)).astype(dtype)
    path = save_nifti(array, oblique, name=name)
    raw = read_nifti(path)
    np.testing.assert_array_equal(raw.array, array)
    np.testing.assert_array_equal(raw.affine, nib.load(path).affine)


def test_slope_and_intercept_are_applied(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.arange(60, dtype=np.int16).reshape(3, 4, 5), np.eye(4))
    image.header.set_slope_inter(0.5, -1000)
    nib.save(image, tmp_path / "a.nii")
    np.testing.assert_allclose(read_nifti(tmp_path / "a.nii").array, nib.load(tmp_path / "a.nii").get_fdata())


def test_header_extensions_are_passed_over(tmp_path: Path) -> None:
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    image = nib.Nifti1Image(array, np.eye(4))
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"x" * 5000))
    nib.save(image, tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(read_nifti(tmp_path / "a.nii.gz").array, array)


def test_several_gzip_members_are_one_file(save_nifti: SaveNifti, tmp_path: Path) -> None:
    array = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
    raw = save_nifti(array, name="a.nii").read_bytes()
    joined = tmp_path / "b.nii.gz"
    joined.write_bytes(gzip.compress(raw[:400]) + gzip.compress(raw[400:]))
    np.testing.assert_array_equal(read_nifti(joined).array, array)


def test_highly_compressible_file_larger_than_one_piece_is_read(save_nifti: SaveNifti) -> None:
    array = np.zeros((160, 160, 120), dtype=np.float32)
    array[-1, -1, -1] = 1
    np.testing.assert_array_equal(read_nifti(save_nifti(array)).array, array)


@pytest.mark.parametrize("keep", [0, 1, 100, 351, 352, 500, -1])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_truncated_file_is_refused_by_name(save_nifti: SaveNifti, keep: int, name: str) -> None:
    path = save_nifti(np.random.default_rng(0).normal(size=(8, 8, 8)).astype(np.float32), name=name)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(VolumeError, match=f"^{name}: "):
        read_nifti(path)


def test_missing_checksum_alone_is_refused(save_nifti: SaveNifti) -> None:
    path = save_nifti(np.ones((8, 8, 8), dtype=np.float32))
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(CorruptVolumeError, match="end too early"):
        read_nifti(path)


def test_flipped_byte_in_gzip_fails_its_checksum(save_nifti: SaveNifti) -> None:
    path = save_nifti(np.random.default_rng(0).normal(size=(16, 16, 16)).astype(np.float32))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)
    with pytest.raises(CorruptVolumeError, match="checksum"):
        read_nifti(path)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_small_file_that_declares_gigabytes_allocates_little(save_nifti: SaveNifti, name: str) -> None:
    path = save_nifti(np.zeros((2, 2, 2), dtype=np.float32), name=name)
    data = bytearray(gzip.decompress(path.read_bytes()) if name.endswith("gz") else path.read_bytes())
    data[40:56] = np.array([3, 1000, 1000, 1000, 1, 1, 1, 1], dtype="<i2").tobytes()
    path.write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    tracemalloc.start()
    try:
        with pytest.raises(CorruptVolumeError, match="cannot hold"):
            read_nifti(path)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


def test_more_voxels_than_declared_are_refused(save_nifti: SaveNifti) -> None:
    path = save_nifti(np.zeros((4, 4, 4), dtype=np.float32), name="a.nii")
    path.write_bytes(path.read_bytes() + bytes(2 * 1024**2))
    with pytest.raises(CorruptVolumeError, match="follow the voxels its header declares"):
        read_nifti(path)


def test_header_alone_is_read_from_a_file_cut_in_its_voxels(save_nifti: SaveNifti) -> None:
    path = save_nifti(np.zeros((4, 5, 6), dtype=np.float32), name="a.nii")
    path.write_bytes(path.read_bytes()[:360])
    assert read_nifti_header(path).shape == (4, 5, 6)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("dtype", ["u1", "i2", "f4", ">i2"])
def test_one_volume_of_several_equals_nibabels(
    save_nifti: SaveNifti, oblique: np.ndarray, dtype: str, name: str
) -> None:
    array = np.random.default_rng(0).integers(0, 100, (5, 7, 3, 4)).astype(dtype)
    path = save_nifti(array, oblique, name=name)
    for index in range(4):
        raw = read_nifti(path, volume=VolumeNumber(index, 4))
        np.testing.assert_array_equal(raw.array, array[..., index])
        np.testing.assert_array_equal(raw.affine, nib.load(path).affine)


def test_slope_and_intercept_are_applied_to_one_volume_of_several(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.arange(120, dtype=np.int16).reshape(3, 4, 5, 2), np.eye(4))
    image.header.set_slope_inter(0.5, -1000)
    nib.save(image, tmp_path / "a.nii")
    found = read_nifti(tmp_path / "a.nii", volume=VolumeNumber(1, 2)).array
    np.testing.assert_allclose(found, nib.load(tmp_path / "a.nii").get_fdata()[..., 1])


@pytest.mark.parametrize(("shape", "found"), [((3, 4, 5, 3), 3), ((3, 4, 5), 1), ((3, 4, 5, 2, 2), 2)])
def test_another_number_of_volumes_is_refused_with_both_numbers(
    save_nifti: SaveNifti, shape: tuple[int, ...], found: int
) -> None:
    path = save_nifti(np.zeros(shape, np.float32))
    with pytest.raises(UnsupportedVolumeError, match=f"case.nii.gz: .*{found} on the fourth axis, but 2 ch"):
        read_nifti(path, volume=VolumeNumber(0, 2))


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_cut_in_any_volume_is_found_whichever_is_read(save_nifti: SaveNifti, name: str, index: int) -> None:
    array = np.random.default_rng(0).normal(size=(40, 30, 20, 3)).astype(np.float32)
    path = save_nifti(array, name=name)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(CorruptVolumeError, match="truncated"):
        read_nifti(path, volume=VolumeNumber(index, 3))


def test_a_flipped_byte_in_another_volume_is_found(save_nifti: SaveNifti) -> None:
    path = save_nifti(np.random.default_rng(0).normal(size=(40, 30, 20, 3)).astype(np.float32))
    content = bytearray(path.read_bytes())
    content[-1000] ^= 1
    path.write_bytes(content)
    with pytest.raises(CorruptVolumeError, match="damaged"):
        read_nifti(path, volume=VolumeNumber(0, 3))


def test_memory_is_that_of_one_volume_and_so_is_the_cap(save_nifti: SaveNifti) -> None:
    array = np.random.default_rng(0).integers(0, 9, (64, 64, 64, 16)).astype(np.float32)
    path = save_nifti(array, name="a.nii")
    n_bytes = array[..., 0].nbytes
    tracemalloc.start()
    try:
        raw = read_nifti(path, volume=VolumeNumber(15, 16), max_bytes=n_bytes)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    np.testing.assert_array_equal(raw.array, array[..., 15])
    assert peak < 2.5 * n_bytes < array.nbytes / 4
    with pytest.raises(VolumeTooLargeError):
        read_nifti(path, volume=VolumeNumber(0, 16), max_bytes=n_bytes - 1)
