"""Membership inference: does the model's loss tell who was in its training set?

An attacker who has the model computes its loss on a volume; a model that memorised has a lower loss on
members than on others. Volumes differ in difficulty, whoever was trained on, so a score is calibrated by the
loss on something of the same difficulty that was not trained on: the volume's mirror image or shifted self,
or the loss of another model.

    score = reference loss - loss        higher means more likely a member                              (1)
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import betabinom

from medldm.evaluation.errors import NotMeasurableError, TooFewCasesError
from medldm.evaluation.metrics.bootstrap import Estimate, bootstrap_interval
from medldm.evaluation.metrics.checks import Floats, check_weights

FALSE_POSITIVE_RATE = 0.01


@dataclass(frozen=True, kw_only=True)
class MembershipResult:
    """How well members are told from others.

    Args:
        auc: probability that a member scores higher than a non-member, with its interval by subject; 0.5 is
            chance.
        true_positive_rate: share of members found where 1 % of non-members are taken for members, with its
            interval by subject.
        auc_beyond_chance: whether the AUC's one-sided interval at 1 - `alarm_rate` lies above 0.5.
        p_value: probability of as many members found by chance, were all cases of subjects of their own.
        is_resolved: whether there are at least 100 non-members; with fewer, 1 % means none at all.
        n_members: cases.
        n_non_members: cases.
    """

    auc: Estimate
    true_positive_rate: Estimate
    auc_beyond_chance: bool
    p_value: float
    is_resolved: bool
    n_members: int
    n_non_members: int


def infer_membership(
    member_scores: npt.ArrayLike,
    non_member_scores: npt.ArrayLike,
    *,
    subjects: tuple[Sequence[Hashable], Sequence[Hashable]] | None = None,
    n_resamples: int = 1000,
    alarm_rate: float = 0.005,
    seed: int = 0,
) -> MembershipResult:
    """Measure how well scores tell members from non-members.

    Args:
        member_scores: (N,) of cases that were trained on; higher means more likely a member.
        non_member_scores: (M,) of cases that were not.
        subjects: of each case in both sets; without it each case is its own.
        n_resamples: of the intervals.
        alarm_rate: probability that an AUC is called beyond chance where scores say nothing.
        seed: of the resamples.

    Raises:
        NotMeasurableError: for scores that are not finite.
        TooFewCasesError: for fewer than 5 members or non-members.

    Source: Carlini et al. 2022, Membership Inference Attacks From First Principles, Section III (TPR at low
        FPR).
    """
    inside, outside = _check_scores(member_scores, "member"), _check_scores(non_member_scores, "non-member")
    wins = (inside[:, None] > outside[None, :]) + 0.5 * (inside[:, None] == outside[None, :])
    names = subjects or (range(len(inside)), range(len(outside)))

    def auc(level: float) -> Estimate:
        return bootstrap_interval(
            lambda u, v: float(u @ wins @ v / (u.sum() * v.sum())),
            names,
            n_resamples=n_resamples,
            level=level,
            seed=seed,
        )

    rate = bootstrap_interval(
        lambda u, v: true_positive_rate(inside, outside, weights=(u, v)),
        names,
        n_resamples=n_resamples,
        seed=seed,
    )
    return MembershipResult(
        auc=auc(0.95),
        true_positive_rate=rate,
        auc_beyond_chance=auc(1 - 2 * alarm_rate).lower > 0.5,
        p_value=_excess_p_value(rate.value, len(inside), len(outside)),
        is_resolved=len(outside) >= round(1 / FALSE_POSITIVE_RATE),
        n_members=len(inside),
        n_non_members=len(outside),
    )


def true_positive_rate(
    member_scores: npt.ArrayLike,
    non_member_scores: npt.ArrayLike,
    *,
    at: float = FALSE_POSITIVE_RATE,
    weights: tuple[npt.ArrayLike | None, npt.ArrayLike | None] = (None, None),
) -> float:
    """Return the share of members above the lowest threshold that at most a share `at` of others exceeds.

    Args:
        member_scores: (N,).
        non_member_scores: (M,); the threshold is one of them.
        at: share of non-members.
        weights: how often each case counts, for the bootstrap.
    """
    inside = np.asarray(member_scores, dtype=np.float64)
    outside = np.asarray(non_member_scores, dtype=np.float64)
    u, v = check_weights(weights[0], len(inside)), check_weights(weights[1], len(outside))
    order = np.argsort(outside, kind="stable")
    order = order[v[order] > 0]
    scores, cumulated = outside[order], np.cumsum(v[order])
    n_above = cumulated[-1] - cumulated[np.searchsorted(scores, scores, side="right") - 1]
    threshold = scores[n_above <= at * cumulated[-1] + 1e-9][0]
    return float(u @ (inside > threshold) / u.sum())


def _excess_p_value(rate: float, n_members: int, n_non_members: int) -> float:
    """Return the probability of a share of members above the threshold by chance.

    The share of innocent scores above the k-th largest of M others is Beta(k, M + 1 - k), so that the number
    among N members is beta-binomial, as in `copy_rule`.
    """
    place = int(np.floor(FALSE_POSITIVE_RATE * n_non_members + 1e-9)) + 1
    n_found = round(rate * n_members)
    return float(betabinom.sf(n_found - 1, n_members, place, n_non_members + 1 - place))


def _check_scores(scores: npt.ArrayLike, name: str) -> Floats:
    array = np.asarray(scores, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f"{name} scores have the shape {array.shape}; (N,) is needed")
    if not (known := np.isfinite(array)).all():
        raise NotMeasurableError(
            f"{int((~known).sum())} of {len(array)} {name} scores are not finite: the model has no loss there"
        )
    if len(array) < 5:
        raise TooFewCasesError(f"{len(array)} {name} cases; membership inference needs at least 5 of each")
    return array
