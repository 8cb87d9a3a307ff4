"""Anatomy of label maps: volume, connected components and surface area of each structure, and how far the
distributions of two sets lie apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from medldm.evaluation.errors import TooFewCasesError
from medldm.evaluation.metrics.checks import Floats, check_weights
from medldm.evaluation.metrics.histograms import HistogramPair
from medldm.evaluation.metrics.overlap import only_known

DIRECTIONS = tuple(step for step in product((-1, 0, 1), repeat=3) if step > (0, 0, 0))
"""One of each pair of opposite neighbours of a voxel: 13 directions."""


@dataclass(frozen=True, kw_only=True)
class AnatomyTable:
    """What each label map of a set measures.

    NaN marks the surface area of a structure that is absent, and all of one that the map does not cover.

    Args:
        volume_ml: (N, K).
        n_components: (N, K) pieces, of voxels that touch by a face, an edge or a corner.
        surface_cm2: (N, K).
    """

    volume_ml: Floats
    n_components: Floats
    surface_cm2: Floats


def measure_anatomy(
    label_maps: Sequence[npt.ArrayLike],
    spacing_mm: Sequence[float],
    *,
    values: Sequence[int],
    known: npt.NDArray[np.bool_] | None = None,
) -> AnatomyTable:
    """Measure every structure of every label map.

    Args:
        label_maps: N integer arrays (X, Y, Z).
        spacing_mm: edge lengths of a voxel, of all maps.
        values: of the K structures.
        known: (N, K) which structures the maps cover; None for all.

    Raises:
        ValueError: for no maps, or maps or a spacing that do not fit.
    """
    if not label_maps:
        raise TooFewCasesError("there are no label maps; at least one is needed")
    arrays = [np.asarray(labels) for labels in label_maps]

    def of_masks(measure: Callable[[npt.ArrayLike], float]) -> Floats:
        found = [[measure(labels == v) for v in values] for labels in arrays]
        return only_known(np.array(found, dtype=np.float64), known)

    volumes = np.stack([volumes_ml(labels, spacing_mm, values=values) for labels in arrays])
    return AnatomyTable(
        volume_ml=only_known(volumes, known),
        n_components=of_masks(count_components),
        surface_cm2=of_masks(lambda mask: surface_area_cm2(mask, spacing_mm)),
    )


def volumes_ml(labels: npt.ArrayLike, spacing_mm: Sequence[float], *, values: Sequence[int]) -> Floats:
    """Measure the volume of each structure.

    Args:
        labels: (X, Y, Z), integers of 0 or more.
        spacing_mm: edge lengths of a voxel.
        values: of the structures, in the order of the result.

    Returns:
        (len(values),) volumes in ml; 0 for a structure that does not occur.

    Raises:
        ValueError: if the map is not three-dimensional or a spacing is not positive.
    """
    array = np.asarray(labels)
    if array.ndim != 3 or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(
            f"labels have the shape {array.shape} and the type {array.dtype}; integers (X, Y, Z) are needed"
        )
    if len(spacing_mm) != 3 or not all(edge > 0 for edge in spacing_mm):
        raise ValueError(f"spacing_mm is {tuple(spacing_mm)}; three positive lengths in mm are needed")
    voxel_ml = math.prod(float(edge) for edge in spacing_mm) / 1000
    return np.array([np.count_nonzero(array == value) * voxel_ml for value in values], dtype=np.float64)


def count_components(mask: npt.ArrayLike) -> int:
    """Return the number of pieces of a mask (X, Y, Z); voxels that touch by a corner are connected."""
    return int(ndimage.label(np.asarray(mask, dtype=bool), structure=np.ones((3, 3, 3)))[1])


def surface_area_cm2(mask: npt.ArrayLike, spacing_mm: Sequence[float]) -> float:
    """Estimate the area of a mask's surface by counting how often lattice lines cross it.

    Lines along a direction d, one through each voxel, stand V / |d| apart (V the voxel's volume, |d| the
    step's length), so that N_d crossings measure the surface's shadow along d; the mean shadow over all
    directions is half the area:

        S = 2 sum_d w_d N_d V / |d|                                                                       (1)

    over 13 directions, w_d being the share of the sphere that is nearest to d. Counting voxel faces instead
    gives 1.5 times the area of a sphere, however small the voxels.

    Args:
        mask: (X, Y, Z); what lies beyond the border is outside.
        spacing_mm: edge lengths of a voxel.

    Returns:
        In cm^2; NaN for an empty mask.

    Source: Cauchy-Crofton formula, as discretised by Lehmann and Legland 2012, Efficient N-dimensional
    surface estimation using Crofton formula and run-length encoding.
    """
    array = np.pad(np.asarray(mask, dtype=bool), 1)
    if not array.any():
        return math.nan
    edges = np.asarray(spacing_mm, dtype=np.float64)
    total = 0.0
    for step, weight in zip(DIRECTIONS, _direction_weights(tuple(edges)), strict=True):
        n_crossings = int((array ^ np.roll(array, step, axis=(0, 1, 2))).sum())
        total += weight * n_crossings / float(np.linalg.norm(step * edges))
    return float(2 * total * edges.prod() / 100)


def ks_statistic(
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    *,
    weights: tuple[npt.ArrayLike | None, npt.ArrayLike | None] = (None, None),
) -> float:
    """Return the largest difference of two weighted empirical distribution functions, 0 to 1.

    Args:
        first: (n,); NaN, a structure that a map does not cover, is left out.
        second: (m,).
        weights: how often each case counts, for the bootstrap.

    Returns:
        NaN where nothing is left of a set.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    u, v = check_weights(weights[0], len(a)), check_weights(weights[1], len(b))
    (a, u), (b, v) = ((x[np.isfinite(x)], w[np.isfinite(x)]) for x, w in ((a, u), (b, v)))
    if u.sum() == 0 or v.sum() == 0:
        return math.nan
    points = np.unique(np.concatenate([a, b]))
    return float(np.abs(_distribution(a, u, points) - _distribution(b, v, points)).max())


def distribution_distance(
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    *,
    weights: tuple[npt.ArrayLike | None, npt.ArrayLike | None] = (None, None),
) -> float:
    """Return the 1-Wasserstein distance of two sets of one number a case, in that number's unit.

    Args:
        first: (n,); NaN, an absent structure, is left out.
        second: (m,).
        weights: how often each case counts, for the bootstrap.

    Returns:
        NaN where the weights leave nothing of a set.

    Raises:
        TooFewCasesError: where a set has no number at all.
    """
    pair = HistogramPair(*(np.asarray(each, dtype=np.float64)[:, None] for each in (first, second)))
    try:
        return pair.distance(*weights)
    except TooFewCasesError:
        return math.nan


def _distribution(sample: Floats, weights: Floats, points: Floats) -> Floats:
    order = np.argsort(sample, kind="stable")
    cumulated = np.concatenate([[0.0], np.cumsum(weights[order])]) / weights.sum()
    return np.asarray(cumulated[np.searchsorted(sample[order], points, side="right")])


@cache
def _direction_weights(spacing_mm: tuple[float, ...]) -> tuple[float, ...]:
    """Return the share of the sphere nearest to each direction, from evenly spread points."""
    n = 20_000
    turn = np.pi * (3 - np.sqrt(5)) * np.arange(n)
    z = 1 - (2 * np.arange(n) + 1) / n
    points = np.stack([np.sqrt(1 - z**2) * np.cos(turn), np.sqrt(1 - z**2) * np.sin(turn), z], axis=1)
    lines = np.array(DIRECTIONS) * np.asarray(spacing_mm)
    lines = lines / np.linalg.norm(lines, axis=1, keepdims=True)
    nearest = np.abs(points @ lines.T).argmax(axis=1)
    return tuple((np.bincount(nearest, minlength=len(lines)) / n).tolist())
