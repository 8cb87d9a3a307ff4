"""Precision and recall, density and coverage: how two clouds of features overlap.

A ball about each case of a set, reaching to its k-th nearest other case of that set, stands for the region
that the set fills.

    precision   share of synthetic cases in a ball of a real one           fidelity
    recall      share of real cases in a ball of a synthetic one           diversity
    density     real balls that hold a synthetic case, mean, divided by k  fidelity, not drawn in by outliers
    coverage    share of real balls that hold a synthetic case             diversity, not drawn in by outliers

With few cases the balls are wide and the scores say little, so at least 50 cases of each set are asked for.
All cases share the balls, and an outlier's ball may hold many of them, so that resampling the scores of the
cases would give intervals far too narrow, and none at all where every case scores 0 or 1. Here the variance
of a score comes from measuring it again on random halves of both sets' subjects (the delete-half jackknife;
drawing with replacement would put a case at distance 0 from itself). A share gets Wilson's interval with the
number of independent cases that have this variance, N M / (N + M) at most, that of a difference of two
means; at 0 and at 1 it has a width as well.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.spatial.distance import cdist
from scipy.stats import norm

from medldm.evaluation.errors import TooFewCasesError
from medldm.evaluation.metrics.bootstrap import Estimate
from medldm.evaluation.metrics.checks import Floats, check_two_sets

K, K_COVERAGE = 3, 5
"""Neighbours for precision and recall, and for density and coverage."""

MIN_CASES = 50
"""Of each set, for the scores to mean something."""


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


def measure_manifolds(
    real: npt.ArrayLike, synthetic: npt.ArrayLike, *, are_paired: bool = False
) -> ManifoldScores:
    """Measure how the region of synthetic features overlaps that of real ones.

    Args:
        real: (N, D).
        synthetic: (M, D).
        are_paired: whether synthetic case i was made from real case i; a case is then not taken for a
            neighbour of its own origin.

    Raises:
        ValueError: for arrays that do not fit.
        TooFewCasesError: for no more cases than neighbours.

    Source: Kynkaanniemi et al. 2019, Eqs. 1 and 2 (k = 3); Naeem et al. 2020, Section 3 (k = 5).
    """
    x, y = check_two_sets(real, synthetic)
    distances = cdist(x, y)
    if are_paired:
        if len(x) != len(y):
            raise ValueError(f"{len(x)} real and {len(y)} synthetic cases are no pairs")
        np.fill_diagonal(distances, np.inf)
    in_real_ball = distances <= neighbour_radii(x, k=K)[:, None]
    in_synthetic_ball = distances <= neighbour_radii(y, k=K)[None, :]
    in_wide_ball = distances <= neighbour_radii(x, k=K_COVERAGE)[:, None]
    return ManifoldScores(
        precision=in_real_ball.any(axis=0).astype(np.float64),
        recall=in_synthetic_ball.any(axis=1).astype(np.float64),
        density=in_wide_ball.sum(axis=0) / K_COVERAGE,
        coverage=in_wide_ball.any(axis=1).astype(np.float64),
    )


def expected_coverage(n_real: int, n_synthetic: int) -> float:
    """Return the mean coverage of two samples of one distribution.

    A real ball misses all M synthetic cases where the k nearest of the N - 1 + M others are real ones.

    Source: Naeem et al. 2020, Lemma 2.
    """
    others = n_real - 1 + n_synthetic
    missed = np.prod([(n_real - 1 - place) / (others - place) for place in range(K_COVERAGE)])
    return float(1 - missed)


def manifold_estimates(
    real: npt.ArrayLike,
    synthetic: npt.ArrayLike,
    *,
    subjects: tuple[Sequence[Hashable], Sequence[Hashable]],
    are_paired: bool = False,
    level: float = 0.95,
    n_halves: int = 100,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Return precision, recall, density and coverage with their intervals.

    Args:
        real: (N, D).
        synthetic: (M, D).
        subjects: of the cases of both sets; cases of one subject are drawn together.
        are_paired: as in `measure_manifolds`.
        level: of confidence.
        n_halves: of the jackknife.
        seed: of the halves.

    Raises:
        ValueError: for arrays that do not fit.
        TooFewCasesError: for fewer than 50 subjects in a set.

    Source: Shao and Wu 1989, A General Theory for Jackknife Variance Estimation (delete-d); Wilson 1927.
    """
    x, y = check_two_sets(real, synthetic)
    codes = [np.unique([str(each) for each in own], return_inverse=True)[1] for own in subjects]
    n_subjects = (int(codes[0].max()) + 1, int(codes[1].max()) + 1)
    if min(n_subjects) < MIN_CASES:
        raise TooFewCasesError(too_few(n_subjects))
    generator = np.random.default_rng(seed)

    def measure_half() -> dict[str, float]:
        kept = [generator.permutation(n) < n // 2 for n in n_subjects]
        kept = [kept[0], kept[0]] if are_paired else kept
        own, made = (own[keep[code]] for own, keep, code in zip((x, y), kept, codes, strict=True))
        return _means(measure_manifolds(own, made, are_paired=are_paired))

    halves = [measure_half() for _ in range(n_halves)]
    means = _means(measure_manifolds(x, y, are_paired=are_paired))
    return {
        name: score_interval(
            mean,
            n_subjects,
            variance=float(np.var([each[name] for each in halves])),
            is_share=name != "density",
            level=level,
        )
        for name, mean in means.items()
    }


def score_interval(
    mean: float, n_subjects: tuple[int, int], *, variance: float, is_share: bool, level: float = 0.95
) -> Estimate:
    """Return a score's interval, which has a width at 0 and at 1 as well.

    Args:
        mean: the score.
        n_subjects: of both sets.
        variance: of the score.
        is_share: False for a density, which may exceed 1.
        level: of confidence.
    """
    z = float(norm.ppf((1 + level) / 2))
    most = n_subjects[0] * n_subjects[1] / sum(n_subjects)
    if is_share:
        spread = mean * (1 - mean)
        n = min(most, spread / variance) if variance > 0 and spread > 0 else most
        centre = (mean + z**2 / (2 * n)) / (1 + z**2 / n)
        width = z / (1 + z**2 / n) * math.sqrt(spread / n + z**2 / (4 * n**2))
        lower, upper = min(centre - width, mean), max(centre + width, mean)
    else:
        width = z * math.sqrt(variance)
        # A density of 0 says no more than that the share of cases in any ball is 0.
        lower, upper = max(mean - width, 0.0), max(mean + width, z**2 / (most + z**2))
    return Estimate(value=mean, lower=lower, upper=upper, level=level, n_subjects=n_subjects)


def too_few(n_cases: Sequence[int]) -> str:
    """Say why there are no scores."""
    return (
        f"{min(n_cases)} cases in the smallest set; precision, recall, density and coverage need at least "
        f"{MIN_CASES} of each"
    )


def _means(scores: ManifoldScores) -> dict[str, float]:
    return {name: float(each.mean()) for name, each in vars(scores).items()}
