"""One judgement of whether two grids are one, and time series named for what they are."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch

from medldm.transforms import LoadVolumed, ResampleToSpacingd, UnsupportedVolumeError, restore_file_geometry
from medldm.transforms.raw_volume import GRID_TOLERANCE, grid_difference
from medldm.transforms.readers import read_geometry

SHAPE = (200, 200, 80)
AFFINE = np.array([[-0.7, 0, 0, 512.3], [0, 0.7, 0, -233.1], [0, 0, 2.5, -1201.7], [0, 0, 0, 1.0]])


@pytest.mark.parametrize(("share", "is_one"), [(0.0, True), (0.9, True), (1.1, False)])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_grids_are_one_up_to_a_share_of_a_voxel_edge(axis: int, share: float, is_one: bool) -> None:
    moved = AFFINE.copy()
    moved[axis, 3] += share * GRID_TOLERANCE * 0.7
    assert (grid_difference(AFFINE, moved, SHAPE) == "") is is_one
    assert (grid_difference(moved, AFFINE, SHAPE) == "") is is_one


def test_the_difference_is_said_in_millimetres() -> None:
    moved = AFFINE.copy()
    moved[2, 3] += 2
    assert grid_difference(AFFINE, moved, SHAPE) == (
        "a corner 2 mm apart, at most 0.007 mm (1 % of a voxel edge) is allowed"
    )


def test_a_wrong_edge_adds_up_over_the_volume() -> None:
    stretched = AFFINE.copy()
    stretched[:3, 0] *= 1.001
    assert grid_difference(AFFINE, stretched, SHAPE)
    assert not grid_difference(AFFINE, stretched, (5, 5, 5))


def test_headers_in_float32_are_one_grid() -> None:
    rotation = np.eye(4)
    rotation[:3, :3] = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    oblique = rotation @ np.diag([0.4, 0.4, 0.4, 1])
    oblique[:3, 3] = [3000.123, -2000.456, 1000.789]
    rounded = oblique.astype(np.float32).astype(np.float64)
    assert not grid_difference(oblique, rounded, (512, 512, 512))


def test_volumes_of_one_grid_but_for_rounding_stay_on_one_grid_when_resampled(tmp_path) -> None:
    """19 voxels of 0.5 mm to 1 mm: the number of voxels hangs on the last digit of the spacing."""
    files, written = {}, {}
    for key, edge in {"image": 0.5, "label": 0.500002}.items():
        written[key] = np.diag([edge, edge, edge, 1])
        files[key] = str(tmp_path / f"{key}.nii.gz")
        nib.save(nib.Nifti1Image(np.ones((19, 19, 19), np.uint8), written[key]), files[key])
    keys = ["image", "label"]
    case = LoadVolumed(keys)(files)
    assert torch.equal(case["image"].affine, case["label"].affine)
    for key in keys:
        restored = restore_file_geometry(case[key])
        np.testing.assert_array_equal(restored.affine.numpy(), nib.load(files[key]).affine)
    case = ResampleToSpacingd(keys, 1.0)(case)
    assert case["image"].shape == case["label"].shape


@pytest.mark.parametrize(
    ("unit", "step", "message"),
    [
        ("sec", 2.5, r"time series of 7 volumes, one each 2\.5 s"),
        ("msec", 800, "time series of 7 volumes, one each 800 ms"),
        ("unknown", 0, r"time series of 7 volumes \(or of as many channels"),
    ],
)
def test_a_time_series_is_named_with_what_to_do(tmp_path, unit, step, message) -> None:
    image = nib.Nifti1Image(np.zeros((4, 5, 6, 7), np.int16), np.eye(4))
    image.header.set_xyzt_units("mm", unit)
    image.header["pixdim"][4] = step
    nib.save(image, tmp_path / "bold.nii.gz")
    with pytest.raises(UnsupportedVolumeError, match=message) as error:
        read_geometry(tmp_path / "bold.nii.gz")
    assert "file of its own" in str(error.value)
