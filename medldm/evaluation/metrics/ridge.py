"""Ridge regression on labels as a classifier: its answers are linear in the labels it learned from.

So one matrix gives the answers to any labels of the same cases, and a permutation test trains anew for each
relabelling at the price of a matrix product.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.optimize import brentq

from medldm.evaluation.metrics.checks import Floats


def ridge_predictor(known: Floats, asked: Floats, *, share_of_freedom: float = 0.2) -> Floats:
    """Return the matrix (A, N) that turns labels of known cases into ridge regression's answers for others.

    Features and their squares are standardised on the known cases; the squares see a spread that differs. The
    penalty gives as many degrees of freedom, sum_i s_i^2 / (s_i^2 + penalty) with the singular values s, as
    a share of the cases. Nothing of this looks at a label.

    Args:
        known: (N, D).
        asked: (A, D).
        share_of_freedom: degrees of freedom by the number of known cases, in (0, 1).

    Source: Hastie, Tibshirani and Friedman 2009, The Elements of Statistical Learning, Eqs. 3.47 and 3.50,
    Section 4.2 (regression of an indicator).
    """
    x, new = _standardise_on(known, known), _standardise_on(known, asked)
    left, singular, right = np.linalg.svd(x, full_matrices=False)
    power = singular**2

    def freedom(log_penalty: float) -> float:
        return float((power / (power + math.exp(log_penalty))).sum()) - share_of_freedom * len(known)

    low, high = math.log(power.max() * 1e-9), math.log(power.max() * len(power) * 1e3)
    penalty = math.exp(low if freedom(low) <= 0 else brentq(freedom, low, high))
    return (new @ right.T) * (singular / (power + penalty)) @ left.T


def _standardise_on(known: Floats, features: Floats) -> Floats:
    """Return features (A, D) and their squares, with mean 0 and deviation 1 on the known cases: (A, 2 D)."""
    centre, scale = known.mean(axis=0), known.std(axis=0)
    varies = scale > 1e-9 * np.maximum(np.abs(centre), 1e-3)

    def standard(each: Floats) -> Floats:
        # One wild value must not rule a square.
        return np.clip((each[:, varies] - centre[varies]) / scale[varies], -4, 4)

    own, given = standard(known), standard(features)
    both, new = np.hstack([own, own**2]), np.hstack([given, given**2])
    return (new - both.mean(axis=0)) / np.maximum(both.std(axis=0), 1e-9)
