from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medldm.data.dicom import DicomError, Refusal, read_series, scan_dicom
from tests.data.dicom.dicom_cases import (
    CASES,
    Geometry,
    make_slices,
    oblique_orientation,
    save,
    stored_voxels,
)

GRADIENT = np.array([7.0, -11.0, 5.0])


def linear_field(positions: np.ndarray, geometry: Geometry, *, rows: int, columns: int) -> np.ndarray:
    """Return stored values that are linear in patient coordinates: (slices, rows, columns), in tenths."""
    row, column = np.array(geometry.orientation[:3]), np.array(geometry.orientation[3:])
    in_plane = (
        np.arange(rows)[:, None, None] * column * geometry.row_spacing
        + np.arange(columns)[None, :, None] * row * geometry.column_spacing
    )
    return (positions[:, None, None, :] + in_plane) @ GRADIENT


def build(folder: Path, positions: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Write slices of a linear field at given positions, quantised to 0.01; return the values."""
    values = np.rint(linear_field(positions, geometry, rows=20, columns=24) * 100)
    slices = make_slices(values.astype(np.int32), geometry, positions=positions)
    for dataset in slices:
        dataset.RescaleSlope, dataset.RescaleIntercept = 0.01, 0
    save(slices, folder)
    return values / 100


def irregular_positions(kind: str, geometry: Geometry) -> np.ndarray:
    regular = geometry.positions(9)
    row, column = np.array(geometry.orientation[:3]), np.array(geometry.orientation[3:])
    if kind == "tilt":
        return regular + np.outer(np.arange(9) * 2.5 * np.tan(np.radians(15)), column)
    if kind == "backward tilt":
        return regular - np.outer(np.arange(9) * 2.5 * np.tan(np.radians(8)), column + 0.3 * row)
    if kind == "missing":
        return np.delete(regular, [3, 4, 6], axis=0)
    if kind == "variable":
        return regular + np.outer([0, 0, 0.4, 0.9, 1.7, 1.9, 2.0, 2.6, 4.0], geometry.normal)
    return regular + np.outer([0, 0, 1.1, 0, 0, -2.3, 0, 0.2, 0], row)


@pytest.mark.parametrize("kind", ["tilt", "backward tilt", "missing", "variable", "shifted"])
@pytest.mark.parametrize(
    "orientation", [(1.0, 0, 0, 0, 1.0, 0), oblique_orientation()], ids=["axial", "oblique"]
)
def test_linear_field_is_reproduced_at_true_positions(
    kind: str, orientation: tuple[float, ...], tmp_path: Path
) -> None:
    geometry = Geometry(orientation=orientation)
    stored = build(tmp_path, irregular_positions(kind, geometry), geometry)
    volume = read_series(scan_dicom(tmp_path).series[0], regularise=True)
    voxels = volume.numpy()[0].astype(np.float64)
    index = np.stack(np.meshgrid(*[np.arange(size) for size in voxels.shape], indexing="ij"), axis=-1)
    ras = index @ volume.affine.numpy()[:3, :3].T + volume.affine.numpy()[:3, 3]
    expected = (ras * [-1, -1, 1]) @ GRADIENT
    is_filled = np.isclose(voxels, stored.min(), atol=1e-3)
    assert np.abs(voxels - expected)[~is_filled].max() < 0.05
    assert (~is_filled).mean() > 0.5


def test_slices_on_the_new_grid_come_out_to_the_bit(tmp_path: Path) -> None:
    stored = stored_voxels(n_slices=8)
    slices = make_slices(stored)
    save([*slices[:3], *slices[4:]], tmp_path)
    volume = read_series(scan_dicom(tmp_path).series[0], regularise=True)
    expected = nib.as_closest_canonical(nib.Nifti1Image(stored.transpose(2, 1, 0), Geometry().affine()))
    kept = [0, 1, 2, 4, 5, 6, 7]
    np.testing.assert_array_equal(volume.numpy()[0][..., kept], np.asarray(expected.dataobj)[..., kept])
    np.testing.assert_allclose(
        volume.numpy()[0][..., 3], np.asarray(expected.dataobj)[..., [2, 4]].mean(axis=-1), atol=1e-3
    )
    np.testing.assert_allclose(volume.affine.numpy(), expected.affine, atol=1e-6)


@pytest.mark.parametrize("case", [case for case in CASES if case.regularised], ids=lambda case: case.name)
def test_irregular_series_is_resampled_only_on_request(case, tmp_path: Path) -> None:
    case.build(tmp_path)
    series = scan_dicom(tmp_path).series[0]
    with pytest.raises(DicomError, match=case.refusals[0].value):
        read_series(series)
    affine = read_series(series, regularise=True).affine.numpy()[:3, :3]
    directions = affine / np.linalg.norm(affine, axis=0)
    np.testing.assert_allclose(directions.T @ directions, np.eye(3), atol=1e-6)


def test_wide_gap_is_not_interpolated(tmp_path: Path) -> None:
    slices = make_slices(stored_voxels(n_slices=20))
    save([*slices[:5], *slices[12:]], tmp_path)
    with pytest.raises(DicomError) as caught:
        read_series(scan_dicom(tmp_path).series[0], regularise=True)
    assert caught.value.refusal is Refusal.MISSING_SLICES
