"""Bootstrap confidence intervals that resample subjects, never slices or repeated scans of one subject.

A resample is handed to the statistic as weights: how often each case was drawn. A statistic over pairs of
cases can then leave out the pairs of a case with itself, which drawing copies of rows would put in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from medldm.evaluation.errors import TooFewCasesError

IntervalMethod = Literal["percentile", "basic"]


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A figure with its confidence interval.

    Args:
        value: on all cases.
        lower: end of the interval.
        upper: end of the interval.
        level: of confidence, such as 0.95.
        n_subjects: resampled, in each set.
    """

    value: float
    lower: float
    upper: float
    level: float
    n_subjects: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.value:.4g} [{self.lower:.4g}, {self.upper:.4g}]"


def bootstrap_interval(
    statistic: Callable[..., float],
    subjects: Sequence[Sequence[Hashable]],
    *,
    n_resamples: int = 1000,
    level: float = 0.95,
    method: IntervalMethod = "percentile",
    seed: int = 0,
) -> Estimate:
    """Resample the subjects of each set and take the spread of a statistic.

    Args:
        statistic: takes one array of weights (n_i,) for each set; all 1 gives the value itself.
        subjects: for each set, the subject of each case; equal entries are drawn together.
        n_resamples: at least 20.
        level: of confidence, between 0 and 1.
        method: "percentile", or "basic", 2 value - quantile, for statistics that resampling biases upwards
            (distances, which are never below 0 and grow with the noise of the sample).
        seed: of the draws.

    Returns:
        Value and interval; resamples on which the statistic is NaN or raises `TooFewCasesError` are left out.

    Raises:
        ValueError: for a level, method or number of resamples that is not allowed.
        TooFewCasesError: for a set with fewer than 2 subjects, or a statistic that is NaN on most resamples.

    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, Chapter 13 (percentile); Davison and
    Hinkley 1997, Bootstrap Methods and their Application, Section 5.2 (basic).
    """
    if not 0 < level < 1 or n_resamples < 20 or method not in get_args(IntervalMethod):
        raise ValueError(
            f"level {level}, n_resamples {n_resamples} and method {method!r} are given; a level between "
            f"0 and 1, at least 20 resamples and one of {get_args(IntervalMethod)} are needed"
        )
    codes = [_code_subjects(each) for each in subjects]
    n_subjects = tuple(int(code.max()) + 1 for code in codes)
    value = float(statistic(*(np.ones(len(code)) for code in codes)))
    generator = np.random.default_rng(seed)

    def draw() -> float:
        counts = [generator.multinomial(n, np.full(n, 1 / n)).astype(np.float64) for n in n_subjects]
        try:
            return float(statistic(*(count[code] for count, code in zip(counts, codes, strict=True))))
        except TooFewCasesError:
            return math.nan

    draws = np.array([draw() for _ in range(n_resamples)])
    draws = draws[~np.isnan(draws)]
    if math.isnan(value) or len(draws) < n_resamples / 2:
        raise TooFewCasesError("the statistic is not defined on these cases, or on most resamples of them")
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    if method == "basic":
        low, high = 2 * value - high, 2 * value - low
    return Estimate(value=value, lower=float(low), upper=float(high), level=level, n_subjects=n_subjects)


def bootstrap_mean(
    values: npt.ArrayLike, subjects: Sequence[Hashable] | None = None, *, seed: int = 0
) -> Estimate:
    """Return the mean of one value for each case, with its interval by subject.

    Args:
        values: (N,), finite.
        subjects: of each case; without it each case is its own.
        seed: of the draws.

    Raises:
        ValueError: for values that are not finite or as many as subjects.
        TooFewCasesError: for fewer than 2 subjects.
    """
    array = np.asarray(values, dtype=np.float64)
    names: Sequence[Hashable] = range(len(array)) if subjects is None else subjects
    if array.ndim != 1 or len(names) != len(array) or not np.isfinite(array).all():
        raise ValueError(
            f"values of shape {array.shape} for {len(names)} subjects are given; one finite value "
            "for each is needed"
        )
    return bootstrap_interval(lambda weights: float(weights @ array / weights.sum()), [names], seed=seed)


def _code_subjects(subjects: Sequence[Hashable]) -> npt.NDArray[np.int64]:
    order = {name: code for code, name in enumerate(dict.fromkeys(subjects))}
    if len(order) < 2:
        raise TooFewCasesError(f"{len(order)} subject is given; an interval by subject needs at least 2")
    return np.array([order[name] for name in subjects])
