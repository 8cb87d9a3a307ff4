"""Membership by two models that were trained alike on swapped halves of one cohort.

Model A was trained on half 1, model B on half 2. The cases of half 1 are members of A and strangers to B,
those of half 2 the other way round, so that every case stands on both sides:

    AUC = (P(s_A of half 1 > s_A of half 2) + P(s_B of half 2 > s_B of half 1)) / 2                       (1)

Where half 1 is simply easier than half 2, the first term rises as much as the second one falls, and models
that saw the same cases have an AUC of exactly 0.5. The reference that membership inference is checked with.

Source: Carlini et al. 2022, Membership Inference Attacks From First Principles, Section IV-A (each case in
and out of models of one recipe), with two models.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medldm.evaluation.errors import NotMeasurableError, TooFewCasesError
from medldm.evaluation.metrics.bootstrap import Estimate, bootstrap_interval
from medldm.evaluation.metrics.checks import Floats

MIN_CASES = 5


@dataclass(frozen=True, kw_only=True)
class SwappedAuc:
    """How well the members of two models on swapped halves are told.

    Args:
        auc: Eq. (1) with its interval by subject; 0.5 is chance.
        of_models: the two terms.
        is_beyond_chance: whether the one-sided interval at 1 - `alarm_rate` lies above 0.5.
    """

    auc: Estimate
    of_models: tuple[float, float]
    is_beyond_chance: bool


def swapped_auc(
    first: tuple[npt.ArrayLike, npt.ArrayLike],
    second: tuple[npt.ArrayLike, npt.ArrayLike],
    *,
    subjects: tuple[Sequence[Hashable], Sequence[Hashable]] | None = None,
    n_resamples: int = 1000,
    alarm_rate: float = 0.005,
    seed: int = 0,
) -> SwappedAuc:
    """Return Eq. (1).

    Args:
        first: scores (N,) of the cases of half 1 by model A, trained on them, and by model B; higher means
            more likely a member.
        second: scores (M,) of the cases of half 2 by model A and by model B, trained on them.
        subjects: of the cases of both halves; without it each case is its own.
        n_resamples: of the intervals.
        alarm_rate: probability that an AUC is called beyond chance where scores say nothing.
        seed: of the resamples.

    Raises:
        ValueError: for scores that do not fit.
        NotMeasurableError: for scores that are not finite.
        TooFewCasesError: for fewer than 5 cases in a half.
    """
    halves = [_check(each) for each in (first, second)]
    (a_1, b_1), (a_2, b_2) = halves
    wins = (_wins(a_1, a_2), 1 - _wins(b_1, b_2))
    names = subjects or (range(len(a_1)), range(len(a_2)))

    def statistic(u: Floats, v: Floats) -> float:
        return float(np.mean([u @ each @ v for each in wins]) / (u.sum() * v.sum()))

    def interval(level: float) -> Estimate:
        return bootstrap_interval(statistic, names, n_resamples=n_resamples, level=level, seed=seed)

    return SwappedAuc(
        auc=interval(0.95),
        of_models=(float(wins[0].mean()), float(wins[1].mean())),
        is_beyond_chance=interval(1 - 2 * alarm_rate).lower > 0.5,
    )


def _wins(first: Floats, second: Floats) -> Floats:
    """Return (N, M): 1 where a case of the first half scores higher, 1/2 for ties."""
    return (first[:, None] > second[None, :]) + 0.5 * (first[:, None] == second[None, :])


def _check(scores: tuple[npt.ArrayLike, npt.ArrayLike]) -> tuple[Floats, Floats]:
    a, b = (np.asarray(each, dtype=np.float64) for each in scores)
    if a.ndim != 1 or a.shape != b.shape:
        raise ValueError(
            f"scores of {a.shape} and {b.shape} are given for one half; (N,) of each model needed"
        )
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise NotMeasurableError("scores of a half are not finite: a model has no loss there")
    if len(a) < MIN_CASES:
        raise TooFewCasesError(f"{len(a)} cases in a half; swapped halves need at least {MIN_CASES} in each")
    return a, b
