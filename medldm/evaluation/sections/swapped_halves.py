"""The reference protocol of membership inference: two models of one recipe, trained on swapped halves.

Each attack is made on every case by the model that was trained on it and by the one that was not, so that no
difference between two sets of patients can look like memory, or hide it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from medldm.data.cohort import Cohort
from medldm.evaluation.cases.model_cases import EvaluatedModel, choose_model_cases
from medldm.evaluation.cases.unseen import count_trained
from medldm.evaluation.errors import NotMeasurableError
from medldm.evaluation.metrics.swapped_halves import SwappedAuc, swapped_auc
from medldm.evaluation.sections.membership import (
    ALARM_RATE,
    ATTACKS,
    NOTICEABLE_AUC,
    MembershipConfig,
    MembershipScores,
    score_membership,
)
from medldm.evaluation.sections.metric_result import Description, Light, MetricResult


def measure_swapped_halves(
    models: tuple[EvaluatedModel, EvaluatedModel],
    halves: tuple[Cohort, Cohort],
    config: MembershipConfig,
    *,
    n_resamples: int,
    seed: int,
    progress: Callable[[str], None],
) -> list[MetricResult]:
    """Ask both models about both halves.

    Args:
        models: the first trained on the first half, the second on the second.
        halves: their training cases.
        config: how a model is asked.
        n_resamples: of the intervals.
        seed: of the draw of the cases, the noise and the resamples.
        progress: told what is being done.

    Raises:
        NotMeasurableError: where the halves share subjects, or a model was trained on cases of the other's.
    """
    n_shared = len({case["subject"] for case in halves[0].cases} & {c["subject"] for c in halves[1].cases})
    if n_shared:
        raise NotMeasurableError(
            f"{n_shared} subjects are in both halves; two models on swapped halves need halves of different "
            "subjects"
        )
    if n_trained := sum(
        count_trained(model.split, [half]) for model, half in zip(models, halves[::-1], strict=True)
    ):
        raise NotMeasurableError(
            f"the model of one half was trained on {n_trained} cases of the other: give each model its own"
        )
    scores: list[list[MembershipScores]] = []
    for place, half in enumerate(halves):
        scores.append([])
        for model, other in (models, models[::-1]):
            progress(f"swapped halves: half {place + 1} of 2")
            cases = choose_model_cases(half, model, n_max=config.n_cases, seed=seed, also=other)
            scores[-1].append(score_membership(cases, config, seed=seed))
    return swapped_results(scores[0], scores[1], n_resamples=n_resamples, seed=seed)


def swapped_results(
    first: Sequence[MembershipScores], second: Sequence[MembershipScores], *, n_resamples: int, seed: int
) -> list[MetricResult]:
    """Compute the AUC of each attack.

    Args:
        first: scores of half 1 by its own model and by the other half's.
        second: scores of half 2 by the first model and by its own.
        n_resamples: of the intervals.
        seed: of the resamples.
    """
    attacks = [name for name in ATTACKS if name in first[0].by_attack]

    def measure(attack: str) -> MetricResult:
        found = swapped_auc(
            *(
                (by_first.by_attack[attack], by_second.by_attack[attack])
                for by_first, by_second in (first, second)
            ),
            subjects=(first[0].subjects, second[0].subjects),
            n_resamples=n_resamples,
            alarm_rate=ALARM_RATE / len(attacks),
            seed=seed,
        )
        return _result(attack, found, counts=(len(first[0].subjects), len(second[0].subjects)))

    return [measure(attack) for attack in attacks]


def swapped_verdict(found: SwappedAuc) -> Light:
    """Red: beyond chance. Amber: memory cannot be excluded. Green: neither."""
    if found.is_beyond_chance:
        return "red"
    return "green" if found.auc.upper <= NOTICEABLE_AUC else "amber"


def _result(attack: str, found: SwappedAuc, *, counts: tuple[int, int]) -> MetricResult:
    title, _ = ATTACKS[attack]
    description = Description(
        key=f"privacy.membership_auc_swapped_{attack}",
        title=f"Membership by two models on swapped halves, AUC ({title})",
        meaning="How often whoever holds a model would guess rightly which of two patients it was trained "
        "on, where each patient is a member of one model and a stranger to the other; 0.5 is guessing.",
        better="lower",
    )
    a, b = found.of_models
    note = f"Halves of {counts[0]} and {counts[1]} cases; {a:.3f} by the model, {b:.3f} by the second one."
    return MetricResult(
        description=description, synthetic=found.auc, note=note, verdict=swapped_verdict(found)
    )
