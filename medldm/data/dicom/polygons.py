"""Fill the contours of one plane: a voxel belongs to a region if its centre lies inside or on a contour.

The inside of a polygon is counted along each row of voxels: a centre lies inside where an odd number of edges
crosses the row before it (even-odd rule), so that keyholes, whose narrow channel is drawn twice, come out as
holes. Points on the path belong to the region (PS3.3 C.8.8.6.3), so that contours through voxel centres,
as many programs trace them, lose none.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

EDGE_TOLERANCE = 1e-4
"""Centres nearer than this to a contour, in voxels along an axis, lie on it."""


class CrossingContoursError(ValueError):
    """Report two contours of which neither lies within the other nor beside it."""


class _Filled(NamedTuple):
    """One polygon on the grid: centres inside it, centres on it, both (X, Y) bool."""

    inside: np.ndarray
    edge: np.ndarray


def fill_contours(
    contours: Sequence[np.ndarray],
    shape: tuple[int, int],
    *,
    is_xor: bool = False,
    tolerance: float = EDGE_TOLERANCE,
) -> np.ndarray:
    """Fill the contours of one structure in one plane.

    Contours within others are holes, contours within holes are parts again; the same contour drawn twice
    counts once.

    Args:
        contours: each (N, 2) float, in voxels; the last point is joined to the first.
        shape: (X, Y) voxels.
        is_xor: the contours are to be combined by exclusive disjunction, also where they cross.
        tolerance: centres nearer than this to a contour, in voxels along an axis, lie on it.

    Returns:
        (X, Y) bool.

    Raises:
        CrossingContoursError: where contours cross and `is_xor` is not set.

    Source: PS3.3 C.8.8.6.3 Representing Inner and Outer Contours.

    Examples:
        >>> outer = np.array([[0, 0], [4, 0], [4, 4], [0, 4]])
        >>> hole = np.array([[1.5, 1.5], [2.5, 1.5], [2.5, 2.5], [1.5, 2.5]])
        >>> int(fill_contours([outer, hole], (6, 6)).sum())
        24
    """
    if not is_xor:
        contours = list({_shape_key(contour): contour for contour in contours}.values())
    filled = [_fill(np.asarray(contour, dtype=np.float64), shape, tolerance) for contour in contours]
    if not is_xor:
        for one, two in combinations(filled, 2):
            _refuse_crossing(one, two)
    region = np.zeros(shape, dtype=bool)
    for polygon in filled:
        region ^= polygon.inside
    for polygon in filled:
        region |= polygon.edge
    return region


def _shape_key(contour: np.ndarray) -> bytes:
    """Return the same for contours of the same points, wherever they begin and whichever way they go."""
    points = np.unique(np.round(contour, 4), axis=0) + 0.0
    return points.tobytes()


def _refuse_crossing(one: _Filled, two: _Filled) -> None:
    first, second = (polygon.inside & ~polygon.edge for polygon in (one, two))
    if not (first & second).any():
        return
    is_nested = not (first & ~(two.inside | two.edge)).any() or not (second & ~(one.inside | one.edge)).any()
    if not is_nested:
        raise CrossingContoursError("contours cross")


def _fill(polygon: np.ndarray, shape: tuple[int, int], tolerance: float) -> _Filled:
    ends = np.roll(polygon, -1, axis=0)
    return _Filled(inside=_inside(polygon, ends, shape), edge=_edge(polygon, ends, shape, tolerance))


def _inside(starts: np.ndarray, ends: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Count crossings; an edge covers the rows from its lower end, included, to its upper end, excluded."""
    lower, upper = (np.ceil(f(starts[:, 1], ends[:, 1])).astype(int) for f in (np.minimum, np.maximum))
    edges, rows = _spans(np.maximum(lower, 0), np.minimum(upper, shape[1]) - 1)
    (x0, y0), (x1, y1) = starts[edges].T, ends[edges].T
    crossings = np.ceil(x0 + (rows - y0) / (y1 - y0) * (x1 - x0)).astype(int)
    flips = np.zeros((shape[0] + 1, shape[1]), dtype=np.int32)
    np.add.at(flips, (np.clip(crossings, 0, shape[0]), rows), 1)
    return np.cumsum(flips[:-1], axis=0) % 2 == 1


def _edge(starts: np.ndarray, ends: np.ndarray, shape: tuple[int, int], tolerance: float) -> np.ndarray:
    """Mark the centres on the edges, walking each along the axis on which it is longer."""
    edge = np.zeros(shape, dtype=bool)
    is_steep = np.abs(ends - starts)[:, 1] > np.abs(ends - starts)[:, 0]
    for axis, chosen in ((0, ~is_steep), (1, is_steep)):
        first, last = starts[chosen], ends[chosen]
        low, high = (f(first[:, axis], last[:, axis]) for f in (np.minimum, np.maximum))
        begin, end = np.ceil(low - tolerance).astype(int), np.floor(high + tolerance).astype(int)
        edges, along = _spans(np.maximum(begin, 0), np.minimum(end, shape[axis] - 1))
        length = (last - first)[edges, axis]
        share = np.divide(along - first[edges, axis], length, out=np.zeros(len(edges)), where=length != 0)
        other = first[edges, 1 - axis] + np.clip(share, 0, 1) * (last - first)[edges, 1 - axis]
        across = np.rint(other).astype(int)
        is_on = (np.abs(other - across) <= tolerance) & (across >= 0) & (across < shape[1 - axis])
        place = (along[is_on], across[is_on]) if axis == 0 else (across[is_on], along[is_on])
        edge[place] = True
    return edge


def _spans(first: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """List the integers from first to last of each edge: the edges' numbers, and the integers."""
    counts = np.maximum(last - first + 1, 0)
    edges = np.repeat(np.arange(len(counts)), counts)
    offsets = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return edges, first[edges] + offsets
