from __future__ import annotations

import numpy as np
import pytest

from medldm.data.dicom.polygons import CrossingContoursError, fill_contours
from tests.data.dicom.label_cases import box, circle

SHAPE = (40, 31)
X, Y = np.meshgrid(np.arange(SHAPE[0]), np.arange(SHAPE[1]), indexing="ij")


def in_ellipse(centre: tuple[float, float], radius: tuple[float, float]) -> np.ndarray:
    return ((X - centre[0]) / radius[0]) ** 2 + ((Y - centre[1]) / radius[1]) ** 2 < 1


def in_box(low: tuple[float, float], high: tuple[float, float]) -> np.ndarray:
    return (low[0] <= X) & (high[0] >= X) & (low[1] <= Y) & (high[1] >= Y)


@pytest.mark.parametrize("shift", [(0.0, 0.0), (0.31, 0.17), (-0.47, 0.5), (0.123, -0.321)])
def test_disc_is_filled_exactly_at_sub_voxel_shifts(shift: tuple[float, float]) -> None:
    centre = (19.2 + shift[0], 14.7 + shift[1])
    polygon = circle(centre, (11.37, 7.93), n=20000)
    np.testing.assert_array_equal(fill_contours([polygon], SHAPE), in_ellipse(centre, (11.37, 7.93)))


def test_ring_two_discs_and_island_in_a_hole() -> None:
    contours = [circle((14.1, 15.2), (r, r), n=20000) for r in (13.13, 8.21, 3.07)]
    contours.append(circle((33.3, 15.2), (4.41, 6.6), n=20000))
    rings = [in_ellipse((14.1, 15.2), (r, r)) for r in (13.13, 8.21, 3.07)]
    expected = (rings[0] & ~rings[1]) | rings[2] | in_ellipse((33.3, 15.2), (4.41, 6.6))
    for order in ((0, 1, 2, 3), (3, 2, 1, 0), (1, 3, 0, 2)):
        np.testing.assert_array_equal(fill_contours([contours[k] for k in order], SHAPE), expected)


def test_keyhole_equals_two_nested_contours() -> None:
    outer, inner = circle((20.2, 15.1), (12.3, 11.2)), circle((20.2, 15.1), (5.4, 4.7))
    keyhole = np.concatenate([outer, outer[:1], inner[::-1], inner[-1:]])
    np.testing.assert_array_equal(fill_contours([keyhole], SHAPE), fill_contours([outer, inner], SHAPE))


@pytest.mark.parametrize("turn", [1, -1])
@pytest.mark.parametrize("start", [0, 1, 3])
def test_contour_through_voxel_centres_keeps_the_voxels_on_it(turn: int, start: int) -> None:
    polygon = np.roll(box((5, 7), (21, 18)), start, axis=0)[::turn]
    np.testing.assert_array_equal(fill_contours([polygon], SHAPE), in_box((5, 7), (21, 18)))
    diamond = np.array([[10, 4], [16, 10], [10, 16], [4, 10]])[::turn]
    np.testing.assert_array_equal(fill_contours([diamond], SHAPE), np.abs(X - 10) + np.abs(Y - 10) <= 6)


def test_contours_between_voxel_centres_have_no_edge_voxels() -> None:
    mask = fill_contours([box((4.5, 6.5), (21.5, 18.5)), box((9.5, 9.5), (12.5, 12.5))], SHAPE)
    np.testing.assert_array_equal(mask, in_box((5, 7), (21, 18)) & ~in_box((10, 10), (12, 12)))


def test_contour_beyond_the_image_is_cut_at_its_edge() -> None:
    centre, radius = (1.3, 29.8), (9.2, 8.4)
    mask = fill_contours([circle(centre, radius, n=20000)], SHAPE)
    np.testing.assert_array_equal(mask, in_ellipse(centre, radius))
    assert not fill_contours([circle((-30.0, 15.0), (5, 5))], SHAPE).any()
    assert fill_contours([box((-9, -9), (99, 99))], SHAPE).all()


def test_same_contour_drawn_twice_counts_once() -> None:
    polygon = circle((20, 15), (8, 6))
    once = fill_contours([polygon], SHAPE)
    np.testing.assert_array_equal(fill_contours([polygon, np.roll(polygon[::-1], 7, axis=0)], SHAPE), once)


def test_crossing_contours_are_refused_unless_combined_by_xor() -> None:
    one, two = box((4.5, 4.5), (14.5, 14.5)), box((10.5, 10.5), (20.5, 20.5))
    with pytest.raises(CrossingContoursError):
        fill_contours([one, two], SHAPE)
    expected = in_box((5, 5), (14, 14)) ^ in_box((11, 11), (20, 20))
    np.testing.assert_array_equal(fill_contours([one, two], SHAPE, is_xor=True), expected)


def test_random_polygons_agree_with_matplotlib_away_from_edges() -> None:
    from matplotlib.path import Path

    generator = np.random.default_rng(0)
    centres = np.column_stack([X.ravel(), Y.ravel()])
    for _ in range(50):
        polygon = generator.uniform((-5, -5), (45, 36), (int(generator.integers(3, 12)), 2))
        closed = np.concatenate([polygon, polygon[:1]])
        expected = Path(closed).contains_points(centres).reshape(SHAPE)
        assert (fill_contours([polygon], SHAPE) == expected).mean() > 0.999
