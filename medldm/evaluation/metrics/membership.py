"""Membership inference: does the model's loss tell who was in its training set?

An attacker who has the model computes its loss on a volume; a model that memorised has a lower loss on
members than on others. Volumes differ in difficulty, whoever was trained on, so a score is calibrated by the
loss on something of the same difficulty that was not trained on: the volume's mirror image or shifted self,
or the loss of another model.

    score = reference loss - loss        higher means more likely a member                              (1)
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import betabinom
from torch import Tensor

from medldm.configs import Config
from medldm.diffusion import NoisePath, denoising_losses
from medldm.errors import ConfigError
from medldm.evaluation.metrics.bootstrap import Estimate, bootstrap_interval
from medldm.evaluation.metrics.checks import Floats, TooFewCasesError, check_weights

Case = TypeVar("Case")
FALSE_POSITIVE_RATE = 0.01


@dataclass(kw_only=True)
class MembershipConfig(Config):
    """How the model is asked.

    Args:
        n_cases: members, and non-members, at most.
        half_log_snrs: levels log(alpha / sigma) at which the loss is taken: about as much noise as signal,
            where what a model remembers of a case helps it most.
        n_noises: draws at each level.
    """

    n_cases: int = 200
    half_log_snrs: tuple[float, ...] = (1.0, 0.0, -1.0)
    n_noises: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_cases < 5 or not self.half_log_snrs or self.n_noises < 1:
            raise ConfigError(
                f"n_cases {self.n_cases}, {len(self.half_log_snrs)} half_log_snrs, n_noises {self.n_noises}: "
                "at least 5, 1 and 1 are needed"
            )


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
        ValueError: for scores that are not finite.
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


def score_cases(
    loss: Callable[[Case], float],
    cases: Sequence[Case],
    *,
    references: Callable[[Case], Sequence[Case]] | None = None,
    reference_loss: Callable[[Case], float] | None = None,
) -> Floats:
    """Return the calibrated score (1) of each case.

    Args:
        loss: of one case under the model.
        cases: to score.
        references: versions of a case as difficult as itself, whose mean loss under the same model is the
            reference, such as its mirror image (Mattern et al. 2023).
        reference_loss: loss under a model trained on other data is the reference (Watson et al. 2022, Eq. 3).

    Returns:
        (N,); minus the loss where there is no reference.

    Raises:
        ValueError: where both kinds of reference are given.
    """
    if references is not None and reference_loss is not None:
        raise ValueError("references and reference_loss are both given; a score is calibrated by one of them")

    def score(case: Case) -> float:
        if reference_loss is not None:
            return reference_loss(case) - loss(case)
        if references is not None:
            return float(np.mean([loss(each) for each in references(case)])) - loss(case)
        return -loss(case)

    return np.array([score(case) for case in cases], dtype=np.float64)


@torch.no_grad()
def denoising_loss(
    predict: Callable[[Tensor, Tensor], Tensor],
    x_0: Tensor,
    *,
    path: NoisePath,
    prediction_type: str,
    times: Sequence[float],
    n_noises: int = 2,
    seed: int = 0,
) -> float:
    """Return a diffusion model's loss on one case, averaged over fixed times and fixed noise.

    The same times and noise for every case of a shape: cases then differ by themselves alone.

    Args:
        predict: (x_t, network time (1,)) to the network's output; holds the case's conditions.
        x_0: (1, C, X, Y, Z) standardised latents, or a volume for a model of volumes.
        path: noise path of the model.
        prediction_type: of the model.
        times: on the path, such as those of the middle of the schedule, where memory shows best.
        n_noises: draws at each time.
        seed: of the noise.

    Raises:
        ValueError: for no times, fewer than 1 noise, or a batch of other than one case.
    """
    if not times or n_noises < 1 or len(x_0) != 1:
        raise ValueError(
            f"{len(times)} times, {n_noises} noises and {len(x_0)} cases are given; at least 1 time "
            "and noise and one case are needed"
        )
    generator = torch.Generator().manual_seed(seed)
    losses = []
    for time in times:
        t = torch.tensor([time], device=x_0.device)
        for _ in range(n_noises):
            noise = torch.randn(x_0.shape, generator=generator).to(x_0)
            losses.append(
                denoising_losses(predict, x_0, t=t, noise=noise, path=path, prediction_type=prediction_type)
            )
    return float(torch.cat(losses).mean())


def _check_scores(scores: npt.ArrayLike, name: str) -> Floats:
    array = np.asarray(scores, dtype=np.float64)
    if array.ndim != 1 or not np.isfinite(array).all():
        raise ValueError(f"{name} scores have the shape {array.shape}; (N,), finite, is needed")
    if len(array) < 5:
        raise TooFewCasesError(f"{len(array)} {name} cases; membership inference needs at least 5 of each")
    return array
