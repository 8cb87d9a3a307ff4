"""Resampling is exact where theory says so and agrees with independent implementations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.ndimage import map_coordinates

from medldm.transforms.load import LoadVolume
from medldm.transforms.resampling import (
    AxisGrid,
    Interpolation,
    grid_affine,
    kernel_table,
    resample_image,
    spacing_grids,
)

SHAPE = (9, 7, 5)


def grids_for(factors: tuple[float, float, float], *, align: str = "centre") -> tuple[AxisGrid, ...]:
    return spacing_grids(SHAPE, np.ones(3), target=np.asarray(factors), align=align)  # type: ignore[arg-type]


def positions(grids: tuple[AxisGrid, ...]) -> np.ndarray:
    axes = [grid.start + grid.step * np.arange(grid.n_out) for grid in grids]
    return np.stack(np.meshgrid(*axes, indexing="ij"))


@pytest.mark.parametrize("factors", [(0.5, 0.7, 1.0), (1.3, 0.9, 2.1), (0.31, 1.0, 1.0)])
@pytest.mark.parametrize("align", ["centre", "first_voxel"])
def test_linear_agrees_with_scipy(factors: tuple[float, float, float], align: str) -> None:
    volume = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    grids = grids_for(factors, align=align)
    expected = map_coordinates(volume.astype(np.float64), positions(grids), order=1, mode="nearest")
    np.testing.assert_allclose(resample_image(volume, grids, anti_aliasing=False), expected, atol=1e-5)


@pytest.mark.parametrize("factors", [(0.5, 0.7, 1.0), (1.3, 0.9, 2.1)])
def test_bspline_agrees_with_scipy(factors: tuple[float, float, float]) -> None:
    volume = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    grids = grids_for(factors)
    expected = map_coordinates(volume.astype(np.float64), positions(grids), order=3, mode="mirror")
    result = resample_image(volume, grids, interpolation="bspline", anti_aliasing=False)
    np.testing.assert_allclose(result, expected, atol=2e-5)


@pytest.mark.parametrize("interpolation", ["linear", "bspline"])
@pytest.mark.parametrize("factors", [(0.4, 1.0, 1.7), (2.5, 3.0, 1.2)])
def test_constant_volume_stays_constant(
    interpolation: Interpolation, factors: tuple[float, float, float]
) -> None:
    volume = np.full(SHAPE, -1000.0, dtype=np.float32)
    result = resample_image(volume, grids_for(factors), interpolation=interpolation)
    np.testing.assert_allclose(result, -1000.0, rtol=1e-5)


def test_linear_ramp_is_reproduced_inside_the_grid() -> None:
    ramp = np.broadcast_to(np.arange(9.0, dtype=np.float32)[:, None, None], SHAPE)
    grids = grids_for((0.5, 1.0, 1.0))
    inside = np.clip(positions(grids)[0], 0, 8)
    np.testing.assert_allclose(resample_image(ramp, grids), inside, atol=1e-6)


def test_identity_grid_returns_the_same_voxels() -> None:
    volume = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    np.testing.assert_array_equal(resample_image(volume, grids_for((1.0, 1.0, 1.0))), volume)


def test_anti_aliasing_suppresses_what_the_coarser_grid_cannot_hold() -> None:
    stripes = np.broadcast_to((np.arange(60) % 2).astype(np.float32)[:, None, None] * 2 - 1, (60, 3, 3))
    grid = (AxisGrid(n_in=60, n_out=15, start=1.5, step=4.0),) + (
        AxisGrid(n_in=3, n_out=3, start=0.0, step=1.0),
    ) * 2
    shifted = (AxisGrid(n_in=60, n_out=15, start=1.0, step=4.0), *grid[1:])
    assert np.abs(resample_image(stripes, shifted, anti_aliasing=False)).min() == 1
    # The edge voxel stands for all beyond it, so the first and last output voxel are left out.
    assert np.abs(resample_image(stripes, shifted, anti_aliasing=True))[1:-1].max() < 0.01


def test_there_and_back_gives_the_same_grid() -> None:
    for grid in grids_for((0.5, 0.7, 1.9)):
        back = grid.inverted()
        assert (back.n_in, back.n_out) == (grid.n_out, grid.n_in)
        there = grid.start + grid.step * (back.start + back.step * np.arange(grid.n_in))
        np.testing.assert_allclose(there, np.arange(grid.n_in), atol=1e-12)


def test_centre_of_the_field_of_view_stays() -> None:
    grids = grids_for((0.7, 1.3, 2.4))
    affine = np.array([[0, -1, 0, 5.0], [1.0, 0, 0, 6.0], [0, 0, 1.0, 7.0], [0, 0, 0, 1]])
    before = affine @ [*((np.asarray(SHAPE) - 1) / 2), 1]
    after = grid_affine(affine, grids) @ [*((np.asarray([grid.n_out for grid in grids]) - 1) / 2), 1]
    np.testing.assert_allclose(after, before, atol=1e-12)


@pytest.mark.parametrize("interpolation", ["linear", "bspline"])
@pytest.mark.parametrize("width", [1.0, 2.7])
def test_weights_of_an_output_voxel_sum_to_one(interpolation: Interpolation, width: float) -> None:
    grid = AxisGrid(n_in=11, n_out=23, start=-0.7, step=0.53)
    index, weight = kernel_table(grid, interpolation=interpolation, width=width)
    np.testing.assert_allclose(weight.sum(axis=1), 1.0)
    assert index.min() >= 0 and index.max() < 11


def as_itk(volume: np.ndarray, affine: np.ndarray) -> sitk.Image:
    image = sitk.GetImageFromArray(volume.T)
    spacing = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    image.SetDirection((affine[:3, :3] / spacing).ravel().tolist())
    return image


@pytest.mark.real_data
@pytest.mark.parametrize("spacing", [(2.0, 2.0, 2.0), (1.7, 2.5, 4.1)])
def test_real_ct_agrees_with_simpleitk(real_data: Path, spacing: tuple[float, ...]) -> None:
    volume = LoadVolume()(real_data / "abdomen_ct" / "image.nii.gz")
    array, affine = volume[0].numpy(), volume.affine.numpy()
    present = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    grids = spacing_grids(array.shape, present, target=np.asarray(spacing))
    ours = resample_image(array, grids, anti_aliasing=False)
    reference = as_itk(np.zeros(ours.shape, dtype=np.float32), grid_affine(affine, grids))
    theirs = sitk.GetArrayFromImage(
        sitk.Resample(as_itk(array, affine), reference, sitk.Transform(), sitk.sitkLinear)
    ).T
    # ITK gives its default value outside the first and last voxel centre.
    inner = tuple(slice(2, -2) for _ in range(3))
    body = theirs[inner] > -500
    assert body.mean() > 0.2
    assert np.abs(ours[inner] - theirs[inner])[body].mean() < 0.01
