"""Data-copying test: are synthetic cases nearer to the training set than real test cases are?

The distances d to the nearest training case of M synthetic and N test cases are compared by ranks. U counts
the pairs in which the synthetic case lies further away, and

    C_T = (U - M N / 2) / sqrt(M N (M + N + 1) / 12)                                                      (1)

Far below 0: copying. Far above 0: synthetic cases keep a greater distance than real ones do (underfitting).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy.typing as npt
from scipy.spatial import cKDTree
from scipy.stats import norm, ranksums

from medldm.evaluation.metrics.checks import check_features


@dataclass(frozen=True, kw_only=True)
class CopyingTest:
    """Result of the test.

    Args:
        statistic: C_T of Eq. (1).
        p_value: of copying: the probability of a C_T as low, were synthetic and test cases drawn alike.
    """

    statistic: float
    p_value: float


def data_copying_test(
    train: npt.ArrayLike, test: npt.ArrayLike, synthetic: npt.ArrayLike, *, n_min: int = 10
) -> CopyingTest:
    """Compare the distances of synthetic and of test cases to the training set.

    Args:
        train: (T, D).
        test: (N, D).
        synthetic: (M, D).
        n_min: synthetic cases, and test cases, that are needed.

    Raises:
        ValueError: for arrays that do not fit.
        TooFewCasesError: for fewer than `n_min` test or synthetic cases.

    Source: Meehan, Chaudhuri and Dasgupta 2020, A Non-Parametric Test to Detect Data-Copying in Generative
        Models, Section 3, with one cell, which is right for cohorts of a few hundred. The p-value takes ranks
        as normal.
    """
    t = check_features(train, "train")
    p, q = (
        check_features(each, name, n_min=n_min) for each, name in ((test, "test"), (synthetic, "synthetic"))
    )
    if len({each.shape[1] for each in (t, p, q)}) != 1:
        raise ValueError(
            f"{t.shape[1]}, {p.shape[1]} and {q.shape[1]} features are given; the same number is needed"
        )
    tree = cKDTree(t)
    statistic = float(ranksums(tree.query(q)[0], tree.query(p)[0]).statistic)
    return CopyingTest(statistic=statistic, p_value=float(norm.cdf(statistic)))
