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
from torch import Tensor

from medldm.diffusion import NoisePath, training_target
from medldm.evaluation.bootstrap import Estimate, bootstrap_interval
from medldm.evaluation.feature_checks import Floats, TooFewCasesError

Case = TypeVar("Case")
FALSE_POSITIVE_RATE = 0.01


@dataclass(frozen=True, kw_only=True)
class MembershipResult:
    """How well members are told from others.

    Args:
        auc: probability that a member scores higher than a non-member, with its interval by subject; 0.5 is
            chance.
        true_positive_rate: share of members found where 1 % of non-members are taken for members.
        is_resolved: whether there are at least 100 non-members; with fewer, 1 % means none at all.
        n_members: cases.
        n_non_members: cases.
    """

    auc: Estimate
    true_positive_rate: float
    is_resolved: bool
    n_members: int
    n_non_members: int


def infer_membership(
    member_scores: npt.ArrayLike,
    non_member_scores: npt.ArrayLike,
    *,
    subjects: tuple[Sequence[Hashable], Sequence[Hashable]] | None = None,
    n_resamples: int = 1000,
    seed: int = 0,
) -> MembershipResult:
    """Measure how well scores tell members from non-members.

    Args:
        member_scores: (N,) of cases that were trained on; higher means more likely a member.
        non_member_scores: (M,) of cases that were not.
        subjects: of each case in both sets; without it each case is its own.
        n_resamples: of the interval.
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
    auc = bootstrap_interval(
        lambda u, v: float(u @ wins @ v / (u.sum() * v.sum())), names, n_resamples=n_resamples, seed=seed
    )
    return MembershipResult(
        auc=auc,
        true_positive_rate=true_positive_rate(inside, outside),
        is_resolved=len(outside) >= round(1 / FALSE_POSITIVE_RATE),
        n_members=len(inside),
        n_non_members=len(outside),
    )


def true_positive_rate(
    member_scores: npt.ArrayLike, non_member_scores: npt.ArrayLike, *, at: float = FALSE_POSITIVE_RATE
) -> float:
    """Return the share of members above the lowest threshold that at most a share `at` of others exceeds."""
    inside = np.asarray(member_scores, dtype=np.float64)
    outside = np.sort(np.asarray(non_member_scores, dtype=np.float64))
    n_allowed = int(np.floor(at * len(outside) + 1e-9))
    threshold = outside[len(outside) - 1 - n_allowed]
    return float((inside > threshold).mean())


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
            target = training_target(prediction_type, x_0, noise, *path.alpha_sigma(t))
            output = predict(path.add_noise(x_0, noise, t), path.network_time(t))
            losses.append(((output.float() - target.float()) ** 2).mean())
    return float(torch.stack(losses).mean())


def _check_scores(scores: npt.ArrayLike, name: str) -> Floats:
    array = np.asarray(scores, dtype=np.float64)
    if array.ndim != 1 or not np.isfinite(array).all():
        raise ValueError(f"{name} scores have the shape {array.shape}; (N,), finite, is needed")
    if len(array) < 5:
        raise TooFewCasesError(f"{len(array)} {name} cases; membership inference needs at least 5 of each")
    return array
