"""FreeSurfer volumes: nibabel's voxels and affine to the bit, or refused by name."""

from __future__ import annotations

import gzip
import tracemalloc
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medldm.transforms import (
    CorruptVolumeError,
    GeometryError,
    LoadVolume,
    UnsupportedVolumeError,
    VolumeError,
)
from medldm.transforms.errors import HeaderError
from medldm.transforms.mgh import DATA_OFFSET, MGH, read_mgh
from medldm.transforms.readers import read_geometry, read_raw_volume, volume_stem


def load(path: Path) -> nib.MGHImage:
    """Load with nibabel, which leaves a file open that it loads by name."""
    content = path.read_bytes()
    return nib.MGHImage.from_bytes(gzip.decompress(content) if path.suffix == ".mgz" else content)


def save(path: Path, array: np.ndarray, affine: np.ndarray) -> Path:
    nib.save(nib.MGHImage(array, affine), path)
    return path


@pytest.mark.parametrize("name", ["a.mgh", "a.mgz"])
@pytest.mark.parametrize("dtype", ["u1", "i2", "i4", "f4"])
def test_voxels_and_affine_equal_nibabels(tmp_path: Path, oblique: np.ndarray, dtype: str, name: str) -> None:
    array = np.random.default_rng(0).integers(0, 100, (5, 7, 3)).astype(dtype)
    path = save(tmp_path / name, array, oblique)
    raw = read_raw_volume(path)
    np.testing.assert_array_equal(raw.array, array)
    np.testing.assert_array_equal(raw.affine, load(path).affine)
    np.testing.assert_array_equal(read_geometry(path).affine, raw.affine)
    np.testing.assert_allclose(raw.affine, oblique, atol=1e-4)
    assert volume_stem(path) == "a"


def test_a_conformed_volume_is_turned_and_a_label_map_read(tmp_path: Path) -> None:
    affine = np.array([[-1.0, 0, 0, 128], [0, 0, 1, -128], [0, -1, 0, 128], [0, 0, 0, 1]])
    labels = np.random.default_rng(0).choice([0, 17, 2035], (6, 5, 4)).astype(np.int32)
    path = save(tmp_path / "aseg.mgz", labels, affine)
    canonical = nib.as_closest_canonical(load(path))
    volume = LoadVolume(is_label=True)(path)
    np.testing.assert_array_equal(volume[0].numpy(), np.asarray(canonical.dataobj))
    np.testing.assert_allclose(volume.affine.numpy(), canonical.affine)


def header_with(**fields: object) -> bytes:
    image = nib.MGHImage(np.zeros((3, 4, 5), dtype=np.float32), np.eye(4))
    header = np.zeros(1, dtype=MGH)
    raw = bytearray(image.header.binaryblock[:DATA_OFFSET].ljust(DATA_OFFSET, b"\0"))
    header = np.frombuffer(raw, dtype=MGH).copy()
    for name, value in fields.items():
        header[name] = value
    return header.tobytes()


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"version": 2}, HeaderError, "its version is 2"),
        ({"type": 7}, UnsupportedVolumeError, "data type is 7"),
        ({"dims": [3, 4, 5, 12]}, UnsupportedVolumeError, "time series of 12 volumes"),
        ({"dims": [3, -4, 5, 1]}, UnsupportedVolumeError, "at least one voxel"),
        ({"dims": [2**30, 2**30, 2**30, 1]}, VolumeError, "cap is"),
        ({"has_geometry": 0}, GeometryError, "orientation is unknown"),
        ({"delta": [1, 0, 1]}, GeometryError, "spacing is"),
        ({"axes": np.full((3, 3), np.nan)}, GeometryError, "NaN or Inf"),
        ({"dims": [400, 400, 400, 1]}, CorruptVolumeError, "cannot hold"),
    ],
)
def test_unsound_headers_are_refused_by_name(tmp_path: Path, fields, error, message) -> None:
    path = tmp_path / "a.mgh"
    path.write_bytes(header_with(**fields) + bytes(240))
    tracemalloc.start()
    with pytest.raises(error, match=message):
        read_raw_volume(path)
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()


@pytest.mark.parametrize("keep", [0, 3, 283, 284, 300, -9])
@pytest.mark.parametrize("name", ["a.mgh", "a.mgz"])
def test_truncated_files_are_refused(tmp_path: Path, keep: int, name: str) -> None:
    path = tmp_path / name
    array = np.random.default_rng(0).normal(size=(8, 8, 8)).astype(np.float32)
    content = header_with(dims=[8, 8, 8, 1]) + array.astype(">f4").tobytes("F")
    content = gzip.compress(content) if name.endswith("z") else content
    path.write_bytes(content)
    np.testing.assert_array_equal(read_raw_volume(path).array, array)
    path.write_bytes(content[:keep])
    with pytest.raises(VolumeError, match=f"^{name}: "):
        read_raw_volume(path)


@settings(
    max_examples=300, deadline=None, suppress_health_check=list(HealthCheck), database=None, derandomize=True
)
@given(place=st.integers(0, DATA_OFFSET - 8), value=st.binary(min_size=1, max_size=8))
def test_mutated_headers_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, place: int, value: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.mgz"
    content = bytearray(header_with() + bytes(240))
    content[place : place + len(value)] = value
    path.write_bytes(gzip.compress(bytes(content), 1))
    try:
        volume = LoadVolume(max_bytes=1 << 20)(path)
    except VolumeError:
        return
    assert volume.ndim == 4 and bool(volume.isfinite().all())


def test_trailing_tags_are_passed_over(tmp_path: Path) -> None:
    array = np.arange(60, dtype=np.uint8).reshape(3, 4, 5)
    path = save(tmp_path / "a.mgh", array, np.eye(4))
    path.write_bytes(path.read_bytes() + b"tags" * 100)
    np.testing.assert_array_equal(read_mgh(path).array, array)
