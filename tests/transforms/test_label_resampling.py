"""Label maps keep their values and their structures' volume."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medldm.transforms.label_resampling import bounding_box, distinct_values, resample_labels
from medldm.transforms.load import LoadVolume
from medldm.transforms.resampling import resample_image, spacing_grids


def ball(shape: tuple[int, int, int], centre: tuple[float, float, float], radius: float) -> np.ndarray:
    grid = np.stack(np.meshgrid(*[np.arange(size) for size in shape], indexing="ij"))
    return ((grid - np.asarray(centre)[:, None, None, None]) ** 2).sum(axis=0) <= radius**2


def phantom() -> np.ndarray:
    labels = np.zeros((24, 20, 17), dtype=np.float32)
    labels[ball(labels.shape, (8, 8, 8), 6)] = 3
    labels[ball(labels.shape, (14, 12, 9), 5)] = 11
    labels[:2] = 7
    return labels


@pytest.mark.parametrize("factors", [(0.5, 0.8, 1.0), (1.4, 0.6, 2.0), (2.0, 2.0, 2.0)])
def test_result_is_the_structure_with_the_largest_linear_share(factors: tuple[float, ...]) -> None:
    labels = phantom()
    grids = spacing_grids(labels.shape, np.ones(3), target=np.asarray(factors))
    values = np.array([3, 7, 11, 0])
    shares = np.stack(
        [resample_image((labels == value).astype(np.float32), grids, anti_aliasing=False) for value in values]
    )
    result = resample_labels(labels, grids)
    chosen = np.take_along_axis(shares, np.searchsorted([3, 7, 11], result)[None] % 4, axis=0)[0]
    chosen[result == 0] = shares[3][result == 0]
    np.testing.assert_allclose(chosen, shares.max(axis=0), atol=2e-6)


def test_only_known_values_come_out_and_the_dtype_stays() -> None:
    labels = phantom().astype(np.uint8)
    grids = spacing_grids(labels.shape, np.ones(3), target=np.array([0.7, 0.7, 0.7]))
    result = resample_labels(labels, grids)
    assert result.dtype == np.uint8
    assert set(np.unique(result)) == {0, 3, 7, 11}


def test_structure_that_fills_the_volume_reaches_its_faces() -> None:
    labels = np.full((6, 6, 6), 5.0, dtype=np.float32)
    grids = spacing_grids(labels.shape, np.ones(3), target=np.array([0.4, 1.0, 2.0]))
    assert (resample_labels(labels, grids) == 5).all()


def test_empty_map_stays_empty() -> None:
    grids = spacing_grids((4, 4, 4), np.ones(3), target=np.array([0.5, 0.5, 0.5]))
    assert not resample_labels(np.zeros((4, 4, 4), dtype=np.float32), grids).any()


def test_bounding_box_is_tight() -> None:
    mask = np.zeros((5, 6, 7), dtype=bool)
    mask[1, 2:4, 3:7] = True
    assert bounding_box(mask) == (slice(1, 2), slice(2, 4), slice(3, 7))


@pytest.mark.parametrize("largest", [3, 70_000])
def test_distinct_values_agree_with_numpy(largest: int) -> None:
    labels = np.array([0, 2, 2, largest], dtype=np.float32).reshape(1, 2, 2)
    np.testing.assert_array_equal(distinct_values(labels), np.unique(labels))


@pytest.mark.real_data
def test_real_structures_keep_their_volume_from_3_to_2_to_3_mm(real_data: Path) -> None:
    labels = LoadVolume(is_label=True)(real_data / "abdomen_ct" / "label.nii.gz")[0].numpy()
    there = spacing_grids(labels.shape, np.full(3, 3.0), target=np.full(3, 2.0))
    back = resample_labels(resample_labels(labels, there), tuple(grid.inverted() for grid in there))
    values, counts = np.unique(labels, return_counts=True)
    large = [(value, count) for value, count in zip(values, counts, strict=True) if value and count > 500]
    assert len(large) > 20
    changes = {int(value): abs((back == value).sum() / count - 1) for value, count in large}
    assert max(changes.values()) < 0.02, changes
