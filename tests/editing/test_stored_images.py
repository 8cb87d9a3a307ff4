"""Stored images: bits, types and scalings of files survive what is edited in them."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medldm.editing.stored_images import read_stored_image, require_same_grid
from medldm.transforms import LoadVolume, UnsupportedVolumeError, VolumeError

AFFINE = np.array([[-0.9, 0.1, 0, 8.5], [0.1, 0.9, 0.2, -9], [0, -0.25, 1.1, 3], [0, 0, 0, 1]])
KINDS = ["uint8", "int16", "uint16", "int32", "float32", "float64", ">i2", ">f4"]


def write(
    path: Path, array: np.ndarray, *, affine: np.ndarray = AFFINE, scaling: tuple[float, float] | None = None
) -> Path:
    image = nib.Nifti1Image(array, affine)
    if np.dtype(array.dtype).byteorder == ">":
        image = nib.Nifti1Image(array, affine, nib.Nifti1Header(endianness=">"))
        image.set_data_dtype(array.dtype)
    if scaling is not None:
        image.header.set_slope_inter(*scaling)
    nib.save(image, path)
    return path


def values(kind: str, shape: tuple[int, ...] = (5, 6, 7)) -> np.ndarray:
    rng = np.random.default_rng(0)
    high = 200 if kind == "uint8" else 1000
    array = rng.integers(0, high, shape).astype(kind)
    return array + array.dtype.type(0.123) if array.dtype.kind == "f" else array


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scaling", [None, (0.37, -12.5)])
def test_what_is_not_edited_keeps_values_type_scaling_and_affine(tmp_path, kind, scaling) -> None:
    original = write(tmp_path / "a.nii.gz", values(kind), scaling=scaling)
    image = read_stored_image(original)
    region = np.zeros((5, 6, 7), dtype=bool)
    region[1:3, 2:5, 3] = True
    new = np.full(region.shape, 25.0)
    stored, n_clipped = image.replace(region, new)
    written = nib.load(image.write(tmp_path / "out" / "b.nii.gz", stored))
    before = nib.load(original)
    assert np.array_equal(written.affine, before.affine)
    assert written.get_data_dtype() == before.get_data_dtype().newbyteorder("=")
    assert (written.dataobj.slope, written.dataobj.inter) == (before.dataobj.slope, before.dataobj.inter)
    assert np.array_equal(np.asarray(written.dataobj)[~region], np.asarray(before.dataobj)[~region])
    tolerance = 0 if scaling is None else 0.37 / 2
    assert np.allclose(np.asarray(written.dataobj)[region], 25.0, atol=tolerance + 1e-6)
    assert n_clipped == 0


@pytest.mark.parametrize("scaling", [None, (0.5, 3.0)])
def test_intensities_are_those_that_nibabel_reads(tmp_path, scaling) -> None:
    file = write(tmp_path / "a.nii", values("int16"), scaling=scaling)
    assert np.array_equal(read_stored_image(file).intensities, nib.load(file).get_fdata())


def test_nifti_2_and_a_fourth_axis_of_one_are_read(tmp_path) -> None:
    nib.save(nib.Nifti2Image(values("int16")[..., None], AFFINE), tmp_path / "a.nii.gz")
    image = read_stored_image(tmp_path / "a.nii.gz")
    assert np.array_equal(image.stored, values("int16"))
    assert np.array_equal(image.affine, AFFINE)


def test_intensities_that_the_type_cannot_hold_are_clipped_and_counted(tmp_path) -> None:
    image = read_stored_image(write(tmp_path / "a.nii", values("uint8")))
    region = np.zeros((5, 6, 7), dtype=bool)
    region[0, 0, :4] = True
    new = np.zeros(region.shape)
    new[0, 0, :4] = [-3.0, 255.4, 300.0, 17.6]
    stored, n_clipped = image.replace(region, new)
    assert stored[0, 0, :4].tolist() == [0, 255, 255, 18]
    assert n_clipped == 2
    assert image.stored.dtype == stored.dtype == np.uint8


def test_other_formats_are_refused(tmp_path) -> None:
    np.save(tmp_path / "a.npy", values("float32"))
    with pytest.raises(UnsupportedVolumeError, match="convert it first"):
        read_stored_image(tmp_path / "a.npy")


def test_other_grids_are_refused(tmp_path) -> None:
    first = LoadVolume()(write(tmp_path / "a.nii", values("uint8")))
    shifted = AFFINE.copy()
    shifted[1, 3] += 0.5
    names = ("the image", "its label map")
    with pytest.raises(VolumeError, match=r"a corner 0\.5 mm apart"):
        require_same_grid(
            first, LoadVolume()(write(tmp_path / "b.nii", values("uint8"), affine=shifted)), names=names
        )
    with pytest.raises(VolumeError, match=r"the image has \(5, 6, 7\) voxels, its label map \(5, 6, 8\)"):
        require_same_grid(
            first, LoadVolume()(write(tmp_path / "c.nii", values("uint8", (5, 6, 8)))), names=names
        )
    require_same_grid(first, LoadVolume()(tmp_path / "a.nii"), names=names)
