"""When copies fail a cohort: a rule that a clean cohort passes in at least 99 of 100 runs.

Above a threshold at the 99th percentile of real test volumes lies about one in a hundred innocent volumes,
so that a count above 0 proves nothing. Two rules share the false alarms that are allowed:

1. Too many. Let the threshold lie at or above the j-th smallest of M test similarities. If N synthetic
   similarities come from the same distribution, whatever it is, the number above it is at most

       X ~ BetaBinomial(N, M + 1 - j, j),                                                                (1)

   the share above an order statistic being Beta distributed. It includes what is not known about a threshold
   that stands on M volumes; a binomial test with 1 % would not.

2. Too far. Nearest similarities r are maxima; on Fisher's scale z = artanh r their upper tail is that of a
   Gumbel distribution of scale b = sqrt(6) sd(z) / pi. The largest of N less the largest of M is then
   logistic around b log(N / M), so that a clean cohort's nearest pair lies further than

       b (log(N / M) + log(1 / a - 1))                                                                   (2)

   above the largest z of the test set with probability a. One true copy is enough for this rule.

Source: (1) David and Nagaraja 2003, Order Statistics, Chapter 7; (2) Johnson, Kotz and Balakrishnan 1995,
Continuous Univariate Distributions 2, Chapters 22 (Gumbel) and 23 (their difference is logistic).
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy.stats import betabinom, chi2

RULE = (
    "A search fails the cohort where more volumes lie above its threshold than the same number of real test "
    "volumes would put there, or where one pair lies further above the most similar real test volume than "
    "chance takes it; a cohort without copies fails in at most 1 of 100 evaluations."
)
"""The rule in one sentence, for reports."""


def excess_p_value(n_above: int, n_synthetic: int, n_test: int, *, quantile: float) -> float:
    """Return the probability of at least `n_above` synthetic volumes above the threshold by chance, Eq. (1).

    Args:
        n_above: synthetic volumes above the quantile of the test volumes.
        n_synthetic: N.
        n_test: M.
        quantile: of the test volumes, interpolated between neighbours or their upper one.

    Raises:
        ValueError: for counts that do not fit.
    """
    if not 0 <= n_above <= n_synthetic or n_synthetic < 1 or n_test < 1:
        raise ValueError(f"{n_above} of {n_synthetic} volumes above a threshold from {n_test} is no count")
    place = math.floor(quantile * (n_test - 1)) + 1
    return float(betabinom.sf(n_above - 1, n_synthetic, n_test + 1 - place, place))


def lone_copy_threshold(test_best: npt.ArrayLike, n_synthetic: int, *, level: float) -> float:
    """Return the similarity that a clean cohort's nearest pair reaches with probability `level`, Eq. (2).

    Args:
        test_best: (M,) similarity in [-1, 1] of each real test volume to its nearest training volume.
        n_synthetic: N.
        level: a, above 0 and below 1/2.

    Returns:
        Above the largest of the test volumes. The scale is taken at its upper 95 % limit, because M is small.

    Raises:
        ValueError: for fewer than 2 test volumes or a level out of range.
    """
    best = np.asarray(test_best, dtype=np.float64)
    if best.ndim != 1 or len(best) < 2 or not 0 < level < 0.5:
        raise ValueError(f"test_best {best.shape} and level {level}: at least 2 volumes and (0, 0.5) needed")
    # Fisher 1915; kept finite.
    z = np.arctanh(best.clip(-1 + 1e-6, 1 - 1e-6))
    n = len(z)
    spread = float(z.std(ddof=1)) * math.sqrt((n - 1) / float(chi2.ppf(0.05, n - 1)))
    step = math.log(n_synthetic / n) + math.log(1 / level - 1)
    return float(np.tanh(z.max() + math.sqrt(6) / math.pi * spread * max(step, 0.0)))
