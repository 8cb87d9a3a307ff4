"""Data-copying test: are synthetic cases nearer to the training set than real test cases are?

In each cell of a partition of feature space, the distances d to the nearest training case of M synthetic and
N test cases are compared by ranks. U counts the pairs in which the synthetic case lies further away, and

    Z = (U - M N / 2) / sqrt(M N (M + N + 1) / 12),        C_T = sum_cells P(cell) Z(cell) / sum_cells P(cell)
          (1)

with P the share of test cases. Far below 0: copying. Far above 0: synthetic cases keep a greater distance
than real ones do (underfitting).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.cluster.vq import kmeans2
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist
from scipy.stats import norm, rankdata

from medldm.evaluation.errors import TooFewCasesError
from medldm.evaluation.metrics.checks import Floats, check_features


@dataclass(frozen=True, kw_only=True)
class CopyingTest:
    """Result of the test.

    Args:
        statistic: C_T of Eq. (1).
        p_value: of copying: the probability of a C_T as low, were synthetic and test cases drawn alike.
        n_cells: that had enough cases to count.
        n_synthetic_left_out: synthetic cases in other cells.
    """

    statistic: float
    p_value: float
    n_cells: int
    n_synthetic_left_out: int


def data_copying_test(
    train: npt.ArrayLike,
    test: npt.ArrayLike,
    synthetic: npt.ArrayLike,
    *,
    n_cells: int = 1,
    n_min: int = 10,
    seed: int = 0,
) -> CopyingTest:
    """Compare the distances of synthetic and of test cases to the training set.

    Args:
        train: (T, D).
        test: (N, D).
        synthetic: (M, D).
        n_cells: of the partition, by k-means of the training set. One is right for cohorts of a few hundred.
        n_min: synthetic cases, and test cases, that a cell needs to count.
        seed: of k-means.

    Raises:
        ValueError: for arrays that do not fit or fewer than 1 cell.
        TooFewCasesError: where no cell has enough cases.

    Source: Meehan, Chaudhuri and Dasgupta 2020, A Non-Parametric Test to Detect Data-Copying in Generative
        Models,
    Section 3. The p-value takes cells as independent and ranks as normal.
    """
    t, p, q = (
        check_features(each, name)
        for each, name in ((train, "train"), (test, "test"), (synthetic, "synthetic"))
    )
    if len({each.shape[1] for each in (t, p, q)}) != 1 or n_cells < 1:
        raise ValueError(
            f"{t.shape[1]}, {p.shape[1]} and {q.shape[1]} features and {n_cells} cells are given; the same "
            "number of features and at least 1 cell are needed"
        )
    centres = _cell_centres(t, n_cells, seed=seed)
    cell_t, cell_p, cell_q = (cdist(each, centres).argmin(axis=1) for each in (t, p, q))
    scores, shares, n_used = [], [], 0
    for cell in range(len(centres)):
        of_t, of_p, of_q = t[cell_t == cell], p[cell_p == cell], q[cell_q == cell]
        if min(len(of_p), len(of_q)) < n_min or len(of_t) == 0:
            continue
        tree = cKDTree(of_t)
        scores.append(rank_sum_score(tree.query(of_q)[0], tree.query(of_p)[0]))
        shares.append(len(of_p) / len(p))
        n_used += len(of_q)
    if not scores:
        raise TooFewCasesError(
            f"no cell has {n_min} test and {n_min} synthetic cases; use fewer cells or more cases"
        )
    weights = np.array(shares) / np.sum(shares)
    statistic = float(weights @ scores)
    return CopyingTest(
        statistic=statistic,
        p_value=float(norm.cdf(statistic / np.sqrt((weights**2).sum()))),
        n_cells=len(scores),
        n_synthetic_left_out=len(q) - n_used,
    )


def rank_sum_score(synthetic: npt.ArrayLike, test: npt.ArrayLike) -> float:
    """Return Z of Eq. (1) for distances (M,) and (N,); ties count half."""
    d_q, d_p = np.asarray(synthetic, dtype=np.float64), np.asarray(test, dtype=np.float64)
    m, n = len(d_q), len(d_p)
    u = rankdata(np.concatenate([d_q, d_p]))[:m].sum() - m * (m + 1) / 2
    return float((u - m * n / 2) / np.sqrt(m * n * (m + n + 1) / 12))


def _cell_centres(train: Floats, n_cells: int, *, seed: int) -> Floats:
    if n_cells == 1:
        return train.mean(axis=0, keepdims=True)
    centres, labels = kmeans2(train, min(n_cells, len(train)), minit="++", seed=np.random.default_rng(seed))
    return centres[np.unique(labels)]
