"""The mean of a measure over draws and subjects that are crossed, with an interval over both.

Every one of D draws (of cases, of seeds) is measured on the same N subjects. With draws and subjects random,

    x_dj = mu + a_d + b_j + e_dj,                                                                         (1)

the mean squares of draws, subjects and rest have the expectations s_e^2 + N s_a^2, s_e^2 + D s_b^2 and s_e^2,
so that the variance of the mean over all is estimated by

    v = (MS_draws + MS_subjects - MS_rest) / (D N)                                                        (2)

with degrees of freedom by Satterthwaite. A bootstrap of three draws would be too narrow.

Source: Searle, Casella and McCulloch 1992, Variance Components, Section 4.7 (two-way crossed, without
replicates); Satterthwaite 1946, An Approximate Distribution of Estimates of Variance Components, Eq. (18).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
import numpy.typing as npt
from scipy.stats import t as student_t

from medldm.evaluation.errors import TooFewCasesError
from medldm.evaluation.metrics.bootstrap import Estimate
from medldm.evaluation.metrics.checks import Floats


def crossed_mean(
    table: npt.ArrayLike, subjects: Sequence[Hashable] | None = None, *, level: float = 0.95
) -> Estimate:
    """Return the mean of a table with its interval over draws and subjects, Eq. (2).

    Args:
        table: (D, N) of draws and cases; a case that is NaN in any draw is left out.
        subjects: of the cases; several of one subject count as their mean. Without it each is its own.
        level: of confidence, between 0 and 1.

    Returns:
        With one draw the interval is that over subjects alone.

    Raises:
        ValueError: for another shape or number of subjects.
        TooFewCasesError: for fewer than 2 subjects.
    """
    values = np.asarray(table, dtype=np.float64)
    names = list(range(values.shape[-1]) if subjects is None else subjects)
    if values.ndim != 2 or len(names) != values.shape[1]:
        raise ValueError(
            f"a table of {values.shape} for {len(names)} cases is given; (D, N) and N are needed"
        )
    means = _mean_by_subject(values, names)
    n_draws, n = means.shape
    if n < 2:
        raise TooFewCasesError(f"{n} subject has a value in every draw; an interval needs at least 2")
    variance, freedom = _variance_of_mean(means)
    half = float(student_t.ppf((1 + level) / 2, freedom)) * float(np.sqrt(variance)) if variance > 0 else 0.0
    value = float(means.mean())
    return Estimate(value=value, lower=value - half, upper=value + half, level=level, n_subjects=(n_draws, n))


def _mean_by_subject(values: Floats, names: Sequence[Hashable]) -> Floats:
    known = np.isfinite(values).all(axis=0)
    places: dict[Hashable, list[int]] = {}
    for place in np.flatnonzero(known).tolist():
        places.setdefault(names[place], []).append(place)
    columns = [values[:, each].mean(axis=1) for each in places.values()]
    return np.stack(columns, axis=1) if columns else np.empty((len(values), 0))


def _variance_of_mean(means: Floats) -> tuple[float, float]:
    """Return the variance of the mean over all, and its degrees of freedom."""
    n_draws, n = means.shape
    centre = means.mean()
    draws, subjects = means.mean(axis=1) - centre, means.mean(axis=0) - centre
    of_subjects = n_draws * float((subjects**2).sum()) / (n - 1)
    if n_draws == 1:
        return of_subjects / n, n - 1
    of_draws = n * float((draws**2).sum()) / (n_draws - 1)
    rest = means - centre - draws[:, None] - subjects
    of_rest = float((rest**2).sum()) / ((n_draws - 1) * (n - 1))
    total = of_draws + of_subjects - of_rest
    squares = of_draws**2 / (n_draws - 1) + of_subjects**2 / (n - 1) + of_rest**2 / ((n_draws - 1) * (n - 1))
    largest = max(of_draws, of_subjects)
    if total < largest or squares == 0:
        # Less than one source alone would give: the differences between the other's means are chance.
        return largest / (n_draws * n), (n_draws if of_draws > of_subjects else n) - 1
    return total / (n_draws * n), max(total**2 / squares, 1.0)
