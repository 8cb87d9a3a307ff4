"""Measures that the laws of the tests are stated in; an evaluation itself computes them piece by piece."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from medldm.evaluation.features.radiomics import radiomics_features
from medldm.evaluation.metrics.checks import Floats, check_two_sets
from medldm.evaluation.metrics.histograms import HistogramPair
from medldm.evaluation.metrics.kernel_distance import polynomial_kernel, squared_mmd
from medldm.evaluation.metrics.neighbours import NeighbourConfig, NeighbourIndex
from medldm.evaluation.metrics.precision_recall import measure_manifolds


def histogram_distance(
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    *,
    weights: tuple[npt.ArrayLike | None, npt.ArrayLike | None] = (None, None),
) -> float:
    """Return the 1-Wasserstein distance of two sets' pooled intensities (N, Q) and (M, Q) of one tissue."""
    return HistogramPair(first, second).distance(*weights)


def kernel_inception_distance(first: npt.ArrayLike, second: npt.ArrayLike) -> float:
    """Return the unbiased squared distance with the cubic kernel.

    Source: Binkowski et al. 2018, Section 4. All cases are used at once instead of the mean over blocks.
    """
    a, b = check_two_sets(first, second)
    return squared_mmd(polynomial_kernel(a, a), polynomial_kernel(b, b), polynomial_kernel(a, b))


def mean_manifold_scores(real: npt.ArrayLike, synthetic: npt.ArrayLike) -> dict[str, float]:
    """Return precision, recall, density and coverage by name."""
    return {name: float(each.mean()) for name, each in vars(measure_manifolds(real, synthetic)).items()}


def find_neighbours(
    queries: Sequence[npt.ArrayLike],
    candidates: Sequence[npt.ArrayLike],
    config: NeighbourConfig | None = None,
) -> npt.NDArray[np.float32]:
    """Return the similarity (Q, T) of all queries to all candidates."""
    return NeighbourIndex(candidates, config).search(queries)


def radiomics_table(
    volumes: Sequence[npt.ArrayLike],
    masks: Sequence[npt.ArrayLike] | None = None,
    *,
    n_bins: int = 32,
    limits: tuple[float, float] | None = None,
) -> tuple[Floats, list[str]]:
    """Return the features (N, D) of several volumes, and the D names."""
    rows = [
        radiomics_features(volume, None if masks is None else masks[n], n_bins=n_bins, limits=limits)
        for n, volume in enumerate(volumes)
    ]
    return np.array([list(row.values()) for row in rows]), list(rows[0])
