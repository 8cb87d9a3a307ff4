"""Membership inference as results: does the model itself give away whom it was trained on?

The attackers hold the model and a volume. One takes the model's loss as it is; one compares it with the loss
on the volume's mirror image, which is as difficult but was not trained on, so that a difference between the
two sets of patients is not taken for memory; one takes the autoencoder's own error, less the volume's
difficulty; and one, where there is a second model of the same recipe, compares the losses of both. The real
test cases are the non-members. The real column measures one half of them against the other, whom no model
can tell apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial

import numpy as np

from medldm.configs import Config
from medldm.errors import ConfigError
from medldm.evaluation.cases.model_cases import EvaluatedModel, ModelCase, ModelCases, choose_model_cases
from medldm.evaluation.cases.reading import Cohorts
from medldm.evaluation.cases.unseen import count_trained
from medldm.evaluation.errors import NotMeasurableError
from medldm.evaluation.features.denoising_loss import make_case_loss
from medldm.evaluation.features.reconstruction_score import make_reconstruction_score
from medldm.evaluation.metrics.checks import Floats
from medldm.evaluation.metrics.membership import MembershipResult, infer_membership
from medldm.evaluation.sections.metric_result import Column, Description, Light, MetricResult, compute_result
from medldm.runtime.distributed import gather_rows

ATTACKS = {
    "mirror": (
        "loss against the mirror image",
        "A difference between the two sets of patients alone does not count.",
    ),
    "loss": (
        "loss",
        "A difference between the two sets of patients counts as well: compare with the row of the mirror "
        "image.",
    ),
    "autoencoder": (
        "the autoencoder's error against the volume's detail",
        "The autoencoder alone is asked, not the denoiser.",
    ),
    "reference": (
        "loss against that of a second model",
        "The second model must have seen none of these patients; it tells how difficult each one is.",
    ),
}
"""Title, and what to know; the last one needs a second model."""
UPSIDE_DOWN = (
    "The training augmented cases and may have swapped left and right: the image upside down, which it never "
    "saw, is the mirror image here."
)
ALARM_RATE = 0.01
"""Probability that the AUC of any attack is red for a model that remembers nobody; likewise of the TPR."""

NOTICEABLE_AUC = 0.6
"""An interval that reaches beyond it cannot exclude that patients are recognised: amber."""


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
        self.require("[5, inf)", "n_cases")
        self.require("[1, inf)", "n_noises")
        if not self.half_log_snrs:
            raise ConfigError("half_log_snrs is empty: give at least one")


@dataclass(frozen=True, kw_only=True)
class MembershipScores:
    """Scores (N,) of the cases of one set, for each attack; higher means more likely a member.

    Args:
        by_attack: of each of `ATTACKS`.
        subjects: number of each case's subject.
    """

    by_attack: dict[str, Floats]
    subjects: tuple[int, ...]


def score_membership(
    cases: ModelCases, config: MembershipConfig, *, seed: int, reference: EvaluatedModel | None = None
) -> MembershipScores:
    """Ask the model for its losses on each case and on its mirror image.

    Args:
        cases: of one set.
        config: of the loss.
        seed: of the noise, the same for every case.
        reference: a second model, whose loss each case's is compared with.

    Raises:
        ValueError: for a case that the training's way of preparing cases refuses.
    """
    evaluated = cases.evaluated
    loss = _case_loss(evaluated, config, seed=seed)
    of_autoencoder = make_reconstruction_score(evaluated.model)
    axis = 2 if evaluated.is_augmented else 0
    second = None if reference is None else replace(cases, evaluated=reference)
    second_loss = None if reference is None else _case_loss(reference, config, seed=seed)

    def ask(place: int) -> Floats:
        case = cases.load(place)
        scores = [-loss(case), -loss(case.mirrored(axis)), of_autoencoder(case)]
        if second is not None and second_loss is not None:
            scores.append(-second_loss(second.load(place)))
        return np.array(scores, dtype=np.float64)

    plain, mirrored, autoencoder, *others = gather_rows(
        range(len(cases)), lambda places: [ask(place) for place in places]
    ).T
    by_attack = {"mirror": plain - mirrored, "loss": plain, "autoencoder": autoencoder}
    if others:
        by_attack["reference"] = plain - others[0]
    return MembershipScores(by_attack=by_attack, subjects=cases.subjects)


def _case_loss(
    evaluated: EvaluatedModel, config: MembershipConfig, *, seed: int
) -> Callable[[ModelCase], float]:
    return make_case_loss(
        evaluated.model,
        evaluated.config,
        half_log_snrs=config.half_log_snrs,
        n_noises=config.n_noises,
        seed=seed,
    )


def measure_membership(
    evaluated: EvaluatedModel,
    cohorts: Cohorts,
    config: MembershipConfig,
    *,
    n_resamples: int,
    seed: int,
    progress: Callable[[str], None],
    reference: EvaluatedModel | None = None,
) -> list[MetricResult]:
    """Ask the model about training cases and about real test cases, and compare.

    Args:
        evaluated: the model.
        cohorts: of the evaluation.
        config: how the model is asked.
        n_resamples: of the intervals.
        seed: of the draw of the cases, the noise, the resamples and the halves.
        progress: told what is being done.
        reference: a second model of the same recipe that saw none of these cases.

    Raises:
        NotMeasurableError: where the reference model is known to have been trained on some of them.
    """
    if reference is not None and (n_trained := count_trained(reference.split, cohorts[:2])):
        raise NotMeasurableError(
            f"the reference model was trained on {n_trained} of the real cases: give one that saw none"
        )
    scores, n_unknown = [], 0
    for name, cohort in (("members", cohorts.train), ("non-members", cohorts.test)):
        progress(f"the model's loss on {name}")
        cases = choose_model_cases(cohort, evaluated, n_max=config.n_cases, seed=seed, also=reference)
        scores.append(score_membership(cases, config, seed=seed, reference=reference))
        n_unknown += cases.n_unknown
    note = f"{n_unknown} cases that the training had no place for are left out." if n_unknown else ""
    remarks = {"mirror": UPSIDE_DOWN} if evaluated.is_augmented else {}
    return membership_results(*scores, n_resamples=n_resamples, seed=seed, note=note, remarks=remarks)


def membership_results(
    members: MembershipScores,
    others: MembershipScores,
    *,
    n_resamples: int,
    seed: int,
    note: str = "",
    remarks: Mapping[str, str] | None = None,
) -> list[MetricResult]:
    """Compute the AUC and the true positive rate at 1 % false positives of each attack.

    Args:
        members: cases that the model was trained on.
        others: cases of subjects that it never saw.
        n_resamples: of the intervals.
        seed: of the resamples and of the halves.
        note: about the cases, for every result.
        remarks: more to know, by attack.
    """
    halves = split_by_subject(others, seed=seed)

    @cache
    def infer(attack: str, column: Column) -> MembershipResult:
        first, second = (members, others) if column == "synthetic" else halves
        return infer_membership(
            first.by_attack[attack],
            second.by_attack[attack],
            subjects=(first.subjects, second.subjects),
            n_resamples=n_resamples,
            alarm_rate=ALARM_RATE / len(members.by_attack),
            seed=seed,
        )

    results = []
    for attack in (each for each in ATTACKS if each in members.by_attack):
        own = partial(infer, attack)
        said = f"{(remarks or {}).get(attack, '')} {note}".strip()
        n_attacks = len(members.by_attack)
        results += [_auc_result(attack, own, said), _rate_result(attack, own, note, n_attacks=n_attacks)]
    return results


def split_by_subject(scores: MembershipScores, *, seed: int) -> tuple[MembershipScores, MembershipScores]:
    """Split scores into two halves of different subjects."""
    subjects = np.array(scores.subjects)
    order = np.random.default_rng(seed).permutation(np.unique(subjects))
    is_first = np.isin(subjects, order[: len(order) // 2])
    first, second = (
        MembershipScores(
            by_attack={name: each[mask] for name, each in scores.by_attack.items()},
            subjects=tuple(subjects[mask].tolist()),
        )
        for mask in (is_first, ~is_first)
    )
    return first, second


def _auc_result(attack: str, infer: Callable[[Column], MembershipResult], note: str) -> MetricResult:
    title, remark = ATTACKS[attack]
    description = Description(
        key=f"privacy.membership_auc_{attack}",
        title=f"Membership inference, AUC ({title})",
        meaning="How often whoever holds the model would guess rightly which of two patients it was trained "
        "on; 0.5 is guessing.",
        better="lower",
    )
    result = compute_result(description, lambda c: None if c == "noise" else infer(c).auc, note=note)
    if result.synthetic is None:
        return result
    found = infer("synthetic")
    counted = f"{found.n_members} members and {found.n_non_members} non-members. {remark} {note}".strip()
    return replace(result, note=counted, verdict=auc_verdict(found))


def _rate_result(
    attack: str, infer: Callable[[Column], MembershipResult], note: str, *, n_attacks: int
) -> MetricResult:
    title, _ = ATTACKS[attack]
    description = Description(
        key=f"privacy.membership_tpr_{attack}",
        title=f"Membership inference, found at 1 % false alarms ({title})",
        meaning="Share of training patients whom such a guesser recognises while taking 1 in 100 others for "
        "one; 0.01 is guessing.",
        better="lower",
    )
    result = compute_result(description, lambda c: None if c == "noise" else infer(c).true_positive_rate)
    if result.synthetic is None:
        return result
    found = infer("synthetic")
    text = f"p = {found.p_value:.2g} of as many by chance."
    if not found.is_resolved:
        n = found.n_non_members
        text += (
            f" With {n} non-members, fewer than 100, no false alarm is allowed at all and 1 in {n + 1} "
            "training patients would be found by guessing."
        )
    return replace(result, note=f"{text} {note}".strip(), verdict=rate_verdict(found, n_attacks=n_attacks))


def auc_verdict(found: MembershipResult) -> Light:
    """Red: beyond chance. Amber: members cannot be excluded to stand out, or the sets differ. Green: neither.

    An interval wholly below 0.5 is no memory; it says that the two sets of patients differ in difficulty.
    """
    if found.auc_beyond_chance:
        return "red"
    return "green" if 0.5 <= found.auc.upper <= NOTICEABLE_AUC else "amber"


def rate_verdict(found: MembershipResult, *, n_attacks: int = len(ATTACKS)) -> Light:
    """Red: more than chance finds. Amber: too few non-members to say, or nearly so. Green: neither."""
    if found.p_value < ALARM_RATE / n_attacks:
        return "red"
    return "green" if found.is_resolved and found.p_value >= 0.05 else "amber"
