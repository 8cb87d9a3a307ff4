"""Anatomy of label maps: exact ratios, areas of known bodies, distances of known distributions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import ks_2samp, wasserstein_distance

from medldm.evaluation.errors import TooFewCasesError
from medldm.evaluation.metrics.anatomy import (
    count_components,
    distribution_distance,
    ks_statistic,
    measure_anatomy,
    surface_area_cm2,
    volumes_ml,
)


def make_ball(radius_mm: float, spacing_mm: tuple[float, ...], shape: tuple[int, ...]) -> np.ndarray:
    axes = [(np.arange(n) - n / 2 + 0.3) * edge for n, edge in zip(shape, spacing_mm, strict=True)]
    return sum(axis**2 for axis in np.meshgrid(*axes, indexing="ij")) < radius_mm**2


def test_scaled_labels_give_the_exact_volume_ratio() -> None:
    labels = np.zeros((6, 7, 5), dtype=np.int64)
    labels[1:4, 2:5, 1:3], labels[4, 2, 2] = 1, 7
    large = labels.repeat(2, axis=0).repeat(2, axis=1).repeat(3, axis=2)
    small_table, large_table = (
        measure_anatomy([each], (1.0, 1.0, 1.5), values=(1, 7)) for each in (labels, large)
    )
    np.testing.assert_array_equal(large_table.volume_ml, 12 * small_table.volume_ml)
    np.testing.assert_array_equal(large_table.n_components, small_table.n_components)


@pytest.mark.parametrize(
    ("radius_mm", "spacing_mm"), [(5.0, (1.0, 1.0, 1.0)), (8.0, (1.0, 1.0, 1.0)), (8.0, (1.0, 1.0, 2.0))]
)
def test_surface_of_a_ball_is_right_within_two_percent(
    radius_mm: float, spacing_mm: tuple[float, ...]
) -> None:
    area = surface_area_cm2(make_ball(radius_mm, spacing_mm, (26, 26, 26)), spacing_mm)
    assert area == pytest.approx(4 * math.pi * radius_mm**2 / 100, rel=0.02)


def test_surface_counts_faces_at_the_border() -> None:
    inside = np.zeros((14, 14, 14), dtype=bool)
    inside[2:12, 2:12, 2:12] = True
    at_border = np.ones((10, 10, 10), dtype=bool)
    assert surface_area_cm2(at_border, (1, 1, 1)) == surface_area_cm2(inside, (1, 1, 1))


def test_surface_of_nothing_is_undefined() -> None:
    assert math.isnan(surface_area_cm2(np.zeros((3, 3, 3)), (1, 1, 1)))


def test_voxels_that_touch_by_a_corner_are_one_piece() -> None:
    mask = np.zeros((5, 5, 5))
    mask[0, 0, 0] = mask[1, 1, 1] = mask[4, 4, 4] = 1
    assert count_components(mask) == 2


def test_distances_agree_with_scipy() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=13), rng.normal(0.4, 2, size=17)
    assert ks_statistic(first, second) == pytest.approx(ks_2samp(first, second).statistic, abs=1e-12)
    assert distribution_distance(first, second) == pytest.approx(
        wasserstein_distance(first, second), abs=1e-12
    )


def test_weights_count_as_repeated_cases() -> None:
    rng = np.random.default_rng(1)
    first, second, times = rng.normal(size=6), rng.normal(size=5), np.array([2, 0, 1, 3, 1, 0])
    for distance in (ks_statistic, distribution_distance):
        weighted = distance(first, second, weights=(times, None))
        assert weighted == pytest.approx(distance(first.repeat(times), second), abs=1e-12)


def test_absent_structures_are_left_out_of_areas() -> None:
    assert distribution_distance([1.0, math.nan], [3.0]) == pytest.approx(2.0)
    assert math.isnan(distribution_distance([1.0, math.nan], [3.0], weights=([0, 1], None)))
    with pytest.raises(TooFewCasesError, match="no case of a set"):
        distribution_distance([math.nan], [3.0])


def test_no_maps_are_refused() -> None:
    with pytest.raises(TooFewCasesError, match="no label maps"):
        measure_anatomy([], (1, 1, 1), values=(1,))


def make_map(n_box: int, n_bar: int) -> np.ndarray:
    labels = np.zeros((10, 10, 10), dtype=np.uint8)
    labels.reshape(-1)[:n_box] = 2
    labels.reshape(-1)[500 : 500 + n_bar] = 7
    return labels


def test_a_box_has_the_volume_of_its_edges() -> None:
    labels = np.zeros((9, 8, 7), dtype=np.int16)
    labels[1:5, 2:7, 3:6] = 2  # 4 x 5 x 3 voxels of 1.5 x 2 x 3 mm: 6 mm x 10 mm x 9 mm
    volumes = volumes_ml(labels, (1.5, 2.0, 3.0), values=(2, 7))
    assert volumes.tolist() == pytest.approx([6 * 10 * 9 / 1000, 0.0], abs=1e-15)


def test_volumes_of_all_values_add_up_to_the_grid() -> None:
    labels = np.random.default_rng(0).integers(0, 6, size=(11, 12, 13))
    assert volumes_ml(labels, (0.7, 1.1, 2.3), values=range(6)).sum() == pytest.approx(
        11 * 12 * 13 * 0.7 * 1.1 * 2.3 / 1000, rel=1e-12
    )


def test_the_order_is_that_of_the_values_asked_for() -> None:
    labels = make_map(3, 5)
    assert volumes_ml(labels, (10, 10, 10), values=(7, 2)).tolist() == [5.0, 3.0]


@pytest.mark.parametrize(
    ("labels", "spacing", "message"),
    [
        (np.zeros((2, 2), dtype=int), (1, 1, 1), r"shape \(2, 2\)"),
        (np.zeros((2, 2, 2)), (1, 1, 1), "type float64; integers"),
        (np.zeros((2, 2, 2), dtype=int), (1, 0, 1), "three positive lengths"),
        (np.zeros((2, 2, 2), dtype=int), (1, 1), "three positive lengths"),
    ],
)
def test_what_is_no_label_map_is_refused(labels, spacing, message) -> None:
    with pytest.raises(ValueError, match=message):
        volumes_ml(labels, spacing, values=(1,))
