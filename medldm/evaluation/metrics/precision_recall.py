"""Precision and recall, density and coverage: how two clouds of features overlap.

A ball about each case of a set, reaching to its k-th nearest other case of that set, stands for the region
that the set fills.

    precision   share of synthetic cases in a ball of a real one           fidelity
    recall      share of real cases in a ball of a synthetic one           diversity
    density     real balls that hold a synthetic case, mean, divided by k  fidelity, not drawn in by outliers
    coverage    share of real balls that hold a synthetic case             diversity, not drawn in by outliers
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.spatial.distance import cdist

from medldm.evaluation.errors import TooFewCasesError
from medldm.evaluation.metrics.checks import Floats, check_two_sets

K, K_COVERAGE = 3, 5
"""Neighbours for precision and recall, and for density and coverage."""


@dataclass(frozen=True, kw_only=True)
class ManifoldScores:
    """Each score case by case; its mean is the figure, and resampling the cases gives its interval.

    Args:
        precision: (M,) 0 or 1 for each synthetic case.
        recall: (N,) 0 or 1 for each real case.
        density: (M,) for each synthetic case, at least 0.
        coverage: (N,) 0 or 1 for each real case.
    """

    precision: Floats
    recall: Floats
    density: Floats
    coverage: Floats


def neighbour_radii(features: npt.ArrayLike, *, k: int) -> Floats:
    """Return the distance (N,) of each case to its k-th nearest other case.

    Raises:
        ValueError: for k below 1.
        TooFewCasesError: for k cases or fewer.
    """
    array = np.asarray(features, dtype=np.float64)
    if k < 1:
        raise ValueError(f"k is {k}; at least 1 is needed")
    if len(array) <= k:
        raise TooFewCasesError(f"{len(array)} cases; {k} neighbours of each need at least {k + 1}")
    distances = cdist(array, array)
    np.fill_diagonal(distances, np.inf)
    return np.partition(distances, k - 1, axis=1)[:, k - 1]


def measure_manifolds(real: npt.ArrayLike, synthetic: npt.ArrayLike) -> ManifoldScores:
    """Measure how the region of synthetic features overlaps that of real ones.

    Args:
        real: (N, D).
        synthetic: (M, D).

    Raises:
        ValueError: for arrays that do not fit.
        TooFewCasesError: for no more cases than neighbours.

    Source: Kynkaanniemi et al. 2019, Eqs. 1 and 2 (k = 3); Naeem et al. 2020, Section 3 (k = 5).
    """
    x, y = check_two_sets(real, synthetic)
    distances = cdist(x, y)
    in_real_ball = distances <= neighbour_radii(x, k=K)[:, None]
    in_synthetic_ball = distances <= neighbour_radii(y, k=K)[None, :]
    in_wide_ball = distances <= neighbour_radii(x, k=K_COVERAGE)[:, None]
    return ManifoldScores(
        precision=in_real_ball.any(axis=0).astype(np.float64),
        recall=in_synthetic_ball.any(axis=1).astype(np.float64),
        density=in_wide_ball.sum(axis=0) / K_COVERAGE,
        coverage=in_wide_ball.any(axis=1).astype(np.float64),
    )
