"""Islands of label maps against maps drawn by hand."""

from __future__ import annotations

import numpy as np
import pytest

from medldm.label_maps.islands import remove_islands

CUBIC_CM = (10.0, 10.0, 10.0)  # a voxel is 1 ml


def make_body() -> np.ndarray:
    labels = np.zeros((12, 12, 12), dtype=np.uint8)
    labels[3:9, 3:9, 3:9] = 1
    return labels


def test_a_map_without_islands_is_left_alone() -> None:
    labels = make_body()
    cleaned, n_changed = remove_islands(labels, CUBIC_CM, min_island_ml=50.0)
    assert np.array_equal(cleaned, labels)
    assert (n_changed, cleaned.dtype) == (0, labels.dtype)


def test_islands_holes_and_specks_take_what_surrounds_them() -> None:
    labels = make_body()
    labels[0, 0, 0] = 1  # an island in the background
    labels[5, 5, 5:7] = 0  # a hole of background in the body
    labels[7, 7, 7] = 2  # a speck of another structure, whose body is elsewhere
    labels[10:, 10:, :4] = 2
    cleaned, n_changed = remove_islands(labels, CUBIC_CM, min_island_ml=3.0)
    expected = make_body()
    expected[10:, 10:, :4] = 2
    assert np.array_equal(cleaned, expected)
    assert n_changed == 4


def test_components_of_the_least_volume_stay() -> None:
    labels = make_body()
    labels[0, 0, :3] = 1
    for limit, n_changed in ((3.0, 0), (3.1, 3)):
        assert remove_islands(labels, CUBIC_CM, min_island_ml=limit)[1] == n_changed


def test_the_limit_is_a_volume_not_a_number_of_voxels() -> None:
    labels = make_body()
    labels[0, 0, :3] = 1
    assert remove_islands(labels, (1.0, 1.0, 1.0), min_island_ml=0.003)[1] == 0
    assert remove_islands(labels, (1.0, 1.0, 0.5), min_island_ml=0.003)[1] == 3


def test_the_largest_part_of_a_small_structure_stays() -> None:
    labels = make_body()
    labels[5, 5, 5:7] = 2
    labels[7, 7, 7] = 2
    cleaned, _ = remove_islands(labels, CUBIC_CM, min_island_ml=100.0)
    assert np.argwhere(cleaned == 2).tolist() == [[5, 5, 5], [5, 5, 6]]


def test_voxels_that_touch_by_a_corner_belong_together() -> None:
    labels = make_body()
    labels[9, 9, 9] = 1
    assert remove_islands(labels, CUBIC_CM, min_island_ml=2.0)[1] == 0


@pytest.mark.parametrize(("spacing_mm", "expected"), [((1.0, 1.0, 5.0), 1), ((5.0, 5.0, 1.0), 2)])
def test_the_nearest_neighbour_is_nearest_in_millimetres(spacing_mm, expected) -> None:
    """A speck in a sheet of 1 that lies in a body of 2."""
    labels = np.full((7, 7, 7), 2, dtype=np.uint8)
    labels[:, :, 3] = 1
    labels[:, :, 6] = 3
    labels[3, 3, 3] = 3
    cleaned, n_changed = remove_islands(labels, spacing_mm, min_island_ml=0.2)
    assert n_changed == 1
    assert cleaned[3, 3, 3] == expected


@pytest.mark.parametrize("seed", range(3))
def test_cleaning_twice_changes_no_more_than_once_on_noise_free_bodies(seed: int) -> None:
    generator = np.random.default_rng(seed)
    labels = make_body()
    labels[generator.random(labels.shape) < 0.02] = 2
    labels[5:8, 5:8, 5:8] = 2
    once, _ = remove_islands(labels, CUBIC_CM, min_island_ml=10.0)
    again, n_changed = remove_islands(once, CUBIC_CM, min_island_ml=10.0)
    assert n_changed == 0
    assert np.array_equal(once, again)
