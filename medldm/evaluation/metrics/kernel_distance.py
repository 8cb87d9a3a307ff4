"""Kernel distances between two sets of features: KID and the RBF maximum mean discrepancy with its test.

For a kernel k the unbiased estimate of the squared distance is

    MMD^2 = mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean_{i, j} k(x_i, y_j)             (1)

(Gretton et al. 2012, Eq. 3). It is 0 on average where the distributions agree, for any number of cases, and
so may come out below 0. Where y_i was made from x_i, the last mean leaves out i = j: the two are not
independent, and the estimate would fall below 0 on average.

A Gaussian kernel sees differences at the scale of its bandwidth and is all but blind to much finer or
coarser ones. The distance here is of the mean of kernels whose bandwidths are the median distance of cases
times powers of two; the test takes the largest distance of any of them, in its own standard deviations under
relabelling, and compares it with the largest of each relabelling.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.spatial.distance import cdist

from medldm.evaluation.metrics.checks import Floats, check_features, check_two_sets, check_weights

BANDWIDTH_FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Of the median distance between cases."""


def polynomial_kernel(first: npt.ArrayLike, second: npt.ArrayLike, *, degree: int = 3) -> Floats:
    """Return (x . y / D + 1)^degree, (N, M).

    Source: Binkowski et al. 2018, Section 4.
    """
    a, b = check_two_sets(first, second, n_min=1)
    return (a @ b.T / a.shape[1] + 1) ** degree


def rbf_kernel(first: npt.ArrayLike, second: npt.ArrayLike, *, bandwidth: float) -> Floats:
    """Return exp(-|x - y|^2 / (2 bandwidth^2)), (N, M).

    Raises:
        ValueError: for a bandwidth that is not above 0.
    """
    a, b = check_two_sets(first, second, n_min=1)
    if not bandwidth > 0:
        raise ValueError(f"bandwidth is {bandwidth}; a number above 0 is needed")
    return np.exp(-cdist(a, b, "sqeuclidean") / (2 * bandwidth**2))


def median_distance(features: npt.ArrayLike) -> float:
    """Return the median distance between different cases: the usual bandwidth; 1 where all cases are equal.

    Source: Gretton et al. 2012, Section 8.
    """
    array = check_features(features, "features")
    distances = cdist(array, array)[np.triu_indices(len(array), 1)]
    return float(np.median(distances)) or 1.0


def bandwidth_grid(features: npt.ArrayLike) -> tuple[float, ...]:
    """Return the median distance between different cases times 1/4, 1/2, 1, 2 and 4."""
    middle = median_distance(features)
    return tuple(middle * factor for factor in BANDWIDTH_FACTORS)


def rbf_mixture(first: npt.ArrayLike, second: npt.ArrayLike, *, bandwidths: Sequence[float]) -> Floats:
    """Return the mean of `rbf_kernel` over bandwidths, (N, M).

    Raises:
        ValueError: for no bandwidth, or one that is not above 0.
    """
    if not bandwidths:
        raise ValueError("no bandwidth is given; at least one is needed")
    return np.mean([rbf_kernel(first, second, bandwidth=width) for width in bandwidths], axis=0)


def squared_mmd(
    within_first: npt.ArrayLike,
    within_second: npt.ArrayLike,
    between: npt.ArrayLike,
    *,
    weights: tuple[npt.ArrayLike | None, npt.ArrayLike | None] = (None, None),
    are_paired: bool = False,
) -> float:
    """Return the estimate (1) from kernel values.

    Args:
        within_first: (N, N).
        within_second: (M, M).
        between: (N, M).
        weights: how often each case counts, for the bootstrap; pairs of a case with itself never count.
        are_paired: whether the second set's case i was made from the first's case i; such pairs do not count
            either.

    Raises:
        ValueError: for shapes that do not fit.
    """
    k_xx, k_yy, k_xy = (np.asarray(each, dtype=np.float64) for each in (within_first, within_second, between))
    n, m = k_xy.shape
    if k_xx.shape != (n, n) or k_yy.shape != (m, m):
        raise ValueError(
            f"kernel values of shape {k_xx.shape}, {k_yy.shape} and {k_xy.shape} are given; "
            "(N, N), (M, M) and (N, M) are needed"
        )
    u, v = check_weights(weights[0], n), check_weights(weights[1], m)
    cross, n_pairs = u @ k_xy @ v, u.sum() * v.sum()
    if are_paired:
        if n != m:
            raise ValueError(f"sets of {n} and {m} cases are no pairs")
        cross, n_pairs = cross - u @ (np.diag(k_xy) * v), n_pairs - u @ v
    if n_pairs <= 0:
        return float("nan")
    return float(_mean_of_pairs(k_xx, u) + _mean_of_pairs(k_yy, v) - 2 * cross / n_pairs)


@dataclass(frozen=True, kw_only=True)
class MMDTest:
    """Result of a permutation test.

    Args:
        squared_mmd: the estimate (1), of the mean kernel where there are several.
        p_value: of the hypothesis that both sets come from one distribution; at least
            1 / (n_permutations + 1).
    """

    squared_mmd: float
    p_value: float


def mmd_permutation_test(
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    *,
    bandwidth: float | Sequence[float] | None = None,
    n_permutations: int = 999,
    seed: int = 0,
) -> MMDTest:
    """Test whether two sets come from one distribution.

    Cases must be exchangeable: give one case for each subject.

    Args:
        first: (N, D).
        second: (M, D).
        bandwidth: of the RBF kernel, or several, of which the test takes the one that sees most; without it
            the median distance of the pooled cases.
        n_permutations: random relabellings.
        seed: of the relabellings.

    Raises:
        ValueError: for arrays or settings that do not fit.
        TooFewCasesError: for fewer than 2 cases.

    Source: Gretton et al. 2012, Section 5; p-value with the observed labelling counted, Phipson and Smyth
    2010. Several bandwidths: Schrab et al. 2023, MMD Aggregated Two-Sample Test, here by the maximum.
    """
    a, b = check_two_sets(first, second)
    if n_permutations < 1:
        raise ValueError(f"n_permutations is {n_permutations}; at least 1 is needed")
    pooled = np.concatenate([a, b])
    widths = median_distance(pooled) if bandwidth is None else bandwidth
    kernels = [rbf_kernel(pooled, pooled, bandwidth=each) for each in np.atleast_1d(widths)]
    generator = np.random.default_rng(seed)
    is_first = np.zeros((n_permutations + 1, len(pooled)))
    is_first[0, : len(a)] = 1
    is_first[1:] = generator.permuted(np.broadcast_to(is_first[0], is_first[1:].shape), axis=1)
    of_kernels = np.stack([_squared_mmd_of_labellings(kernel, is_first) for kernel in kernels])
    spread = of_kernels.std(axis=1, keepdims=True)
    statistics = (of_kernels / np.where(spread > 0, spread, 1.0)).max(axis=0)
    # Rounding must not make an equal labelling seem smaller than the observed one.
    tolerance = 1e-12 * max(1.0, abs(statistics[0]))
    return MMDTest(
        squared_mmd=float(of_kernels[:, 0].mean()),
        p_value=float((statistics >= statistics[0] - tolerance).mean()),
    )


def _mean_of_pairs(kernel: Floats, weights: Floats) -> float:
    """Mean over i != j; where the weights leave one case, NaN."""
    n_pairs = weights.sum() ** 2 - (weights**2).sum()
    if n_pairs <= 0:
        return float("nan")
    return float((weights @ kernel @ weights - (weights**2) @ np.diag(kernel)) / n_pairs)


def _squared_mmd_of_labellings(kernel: Floats, is_first: Floats) -> Floats:
    """Return (1) for each row of 0s and 1s (P, N + M) over pooled cases."""
    n = is_first[0].sum()
    m = is_first.shape[1] - n
    diagonal = np.diag(kernel)
    row_sums = is_first @ kernel
    xx = (row_sums * is_first).sum(axis=1)
    xy = row_sums.sum(axis=1) - xx
    yy = kernel.sum() - xx - 2 * xy
    trace_xx = is_first @ diagonal
    trace_yy = diagonal.sum() - trace_xx
    return (xx - trace_xx) / (n * (n - 1)) + (yy - trace_yy) / (m * (m - 1)) - 2 * xy / (n * m)
