"""Frechet distance between two sets of features, and its value for infinitely many cases.

For normal distributions with means m and covariances S

    FD = |m_a - m_b|^2 + tr(S_a) + tr(S_b) - 2 tr((S_a^(1/2) S_b S_a^(1/2))^(1/2)).                       (1)

The matrix in the last term is symmetric; its root's trace is the sum of the singular values of
S_a^(1/2) S_b^(1/2), which loses no digits where a covariance is singular, and never turns complex.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from medldm.evaluation.errors import TooFewCasesError
from medldm.evaluation.metrics.checks import Floats, check_two_sets, check_weights

CASES_FOR_EACH_FEATURE = 5


def gaussian_frechet_distance(
    mean_a: npt.ArrayLike, covariance_a: npt.ArrayLike, mean_b: npt.ArrayLike, covariance_b: npt.ArrayLike
) -> float:
    """Return the distance (1) of two normal distributions.

    Args:
        mean_a: (D,).
        covariance_a: (D, D), symmetric, no eigenvalue below 0.
        mean_b: (D,).
        covariance_b: (D, D).

    Returns:
        At least 0, in squared units of the features.

    Raises:
        ValueError: for shapes that do not fit, or a matrix that is not a covariance.

    Source: Dowson and Landau 1982; Heusel et al. 2017, Eq. 6.
    """
    m_a, m_b = np.asarray(mean_a, dtype=np.float64), np.asarray(mean_b, dtype=np.float64)
    s_a, s_b = np.asarray(covariance_a, dtype=np.float64), np.asarray(covariance_b, dtype=np.float64)
    if m_a.ndim != 1 or m_a.shape != m_b.shape or s_a.shape != s_b.shape or s_a.shape != 2 * m_a.shape:
        raise ValueError(
            f"means of shape {m_a.shape} and {m_b.shape}, covariances of {s_a.shape} and {s_b.shape} "
            "are given; (D,) and (D, D) are needed"
        )
    cross = np.linalg.svd(_root(s_a) @ _root(s_b), compute_uv=False).sum()
    distance = ((m_a - m_b) ** 2).sum() + np.trace(s_a) + np.trace(s_b) - 2 * cross
    return max(float(distance), 0.0)


def frechet_distance(
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    *,
    weights: tuple[npt.ArrayLike | None, npt.ArrayLike | None] = (None, None),
    force: bool = False,
) -> float:
    """Return the distance (1) of the normal distributions fitted to two sets.

    A covariance of D features estimated from few cases is too narrow in some directions and too wide in
    others, and the distance grows by about D^2 / N from that alone. Below N = 5 D the figure says more about
    N than about the images.

    Args:
        first: (N, D).
        second: (M, D).
        weights: how often each case counts, for the bootstrap.
        force: compute it with fewer cases all the same.

    Raises:
        ValueError: for arrays that do not fit.
        TooFewCasesError: for fewer than 5 D cases in either set.
    """
    a, b = check_two_sets(first, second)
    if not force:
        _refuse_too_few(a, b)
    return gaussian_frechet_distance(*_fit(a, weights[0]), *_fit(b, weights[1]))


def extrapolated_frechet_distance(first: npt.ArrayLike, second: npt.ArrayLike, *, seed: int = 0) -> float:
    """Return the distance that infinitely many cases would give: FD-infinity.

    The bias of (1) is linear in 1 / N to first order. Random parts of both sets, a share f of each, give the
    distance at 12 values of f from 0.4 to 1, evenly spaced in 1 / f, from 8 parts each; a line in 1 / f is
    extended to 1 / f = 0. Unlike the paper, which has any number of reference images, both sets shrink
    together, because both are small here.

    Args:
        first: (N, D).
        second: (M, D).
        seed: of the parts.

    Returns:
        The intercept. It may be a little below 0 where the distributions agree.

    Raises:
        ValueError: for arrays that do not fit.
        TooFewCasesError: for fewer than 5 D cases in either whole set.

    Source: Chong and Forsyth 2020, Effectively Unbiased FID and Inception Score, Section 4.
    """
    a, b = check_two_sets(first, second)
    _refuse_too_few(a, b)
    generator = np.random.default_rng(seed)
    inverse, distances = [], []
    for share in 1 / np.linspace(1, 1 / 0.4, 12):
        for _ in range(1 if share == 1 else 8):
            part_a, part_b = (
                each[generator.permutation(len(each))[: max(round(share * len(each)), 2)]] for each in (a, b)
            )
            inverse.append(0.5 * (len(a) / len(part_a) + len(b) / len(part_b)))
            distances.append(gaussian_frechet_distance(*_fit(part_a, None), *_fit(part_b, None)))
    return float(np.polynomial.polynomial.polyfit(inverse, distances, 1)[0])


def _refuse_too_few(first: Floats, second: Floats) -> None:
    n, n_features = min(len(first), len(second)), first.shape[1]
    if n < CASES_FOR_EACH_FEATURE * n_features:
        raise TooFewCasesError(
            f"{n} cases for {n_features} features; a Frechet distance needs at least "
            f"{CASES_FOR_EACH_FEATURE} cases for each feature, {CASES_FOR_EACH_FEATURE * n_features} here. "
            "Use fewer features, or force it"
        )


def _fit(features: Floats, weights: npt.ArrayLike | None) -> tuple[Floats, Floats]:
    w = check_weights(weights, len(features))
    mean = w @ features / w.sum()
    centred = features - mean
    return mean, (centred * w[:, None]).T @ centred / max(w.sum() - 1, 1.0)


def _root(covariance: Floats) -> Floats:
    if not np.allclose(covariance, covariance.T, rtol=1e-8, atol=1e-12):
        raise ValueError("a covariance is not symmetric")
    values, vectors = np.linalg.eigh(covariance)
    if values[0] < -1e-8 * max(abs(values[-1]), 1e-300):
        raise ValueError(f"a covariance has the eigenvalue {values[0]:.3g}; none may be below 0")
    return (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
