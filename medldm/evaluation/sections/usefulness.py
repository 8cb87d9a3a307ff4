"""Usefulness: how well a segmenter works on real test subjects that learned from synthetic cases.

The same segmenter is trained on real cases, on synthetic cases, and on both, the same number of steps each,
from several seeds, and tested on real subjects that nobody trained on. As a floor stands an answer that
looks at no image: at each voxel the most common label of the real training maps.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from medldm.configs import Config
from medldm.data.labels import LabelSchema
from medldm.errors import ConfigError
from medldm.evaluation.errors import NotMeasurableError
from medldm.evaluation.metrics.bootstrap import Estimate, bootstrap_interval
from medldm.evaluation.metrics.checks import Floats
from medldm.evaluation.metrics.overlap import choose_column, weighted_mean
from medldm.evaluation.sections.metric_result import Better, Column, Description, MetricResult, compute_result
from medldm.evaluation.segmenter import SegmenterConfig

Score = Literal["dice", "hd95_mm"]
SCORES: dict[Score, tuple[str, str, Better, str]] = {
    "dice": ("Dice", "Agreement with the truth on real test subjects.", "higher", ""),
    "hd95_mm": (
        "HD95",
        "95th percentile distance to the true surface on real test subjects; a missed structure counts the "
        "volume's diagonal.",
        "lower",
        "mm",
    ),
}
"""Title, meaning, what is better, and unit."""

REGIMES: dict[Column, str] = {"synthetic": "synthetic", "real": "real", "noise": "blind"}
"""What each column was trained on."""


@dataclass(kw_only=True)
class UsefulnessConfig(Config):
    """The trainings.

    Args:
        n_seeds: trainings of each regime, and draws of few real cases, at least 1; 3 for a result to be
            trusted.
        time_budget_s: of all trainings together; how many steps fit is measured on this machine first. 0
            leaves usefulness and label agreement out.
        segmenter: network and training; its `n_steps`, where given, overrides the time budget, so that two
            machines do exactly the same.
        few_cases: numbers of real cases beside which the synthetic ones are tried; those that are not fewer
            than the training cases are left out. They share the time budget.
    """

    n_seeds: int = 3
    time_budget_s: float = 1800.0
    segmenter: SegmenterConfig = field(default_factory=SegmenterConfig)
    few_cases: tuple[int, ...] = (5, 10, 20, 50)

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(n < 1 for n in self.few_cases):
            raise ConfigError(f"few_cases are {self.few_cases}: each must be at least 1; give [] for none")
        self.require("[1, inf)", "n_seeds")
        self.require("[0, inf]", "time_budget_s")


@dataclass(frozen=True, kw_only=True)
class RegimeScores:
    """Scores on the real test cases.

    Args:
        dice: (seeds, N, K); NaN where neither map has the structure.
        hd95_mm: (seeds, N, K).
    """

    dice: Floats
    hd95_mm: Floats


@dataclass(frozen=True, kw_only=True)
class Usefulness:
    """Scores of all regimes on the same real test cases.

    Args:
        regimes: by name; "blind" is the answer that looks at no image, of one "seed".
        n_steps: of each training, at most.
        subjects: of the test cases.
        steps_taken: until each training's plateau, by regime.
    """

    regimes: dict[str, RegimeScores]
    n_steps: int
    subjects: tuple[Hashable, ...]
    steps_taken: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def mean(
        self, regime: str, structure: int | None = None, *, score: Score = "dice", seed: int = 0
    ) -> Estimate:
        """Return the mean over seeds and cases, with its interval by test subject.

        Args:
            regime: "real", "synthetic", "both" or "blind".
            structure: column, from 0; None takes the mean over structures.
            score: "dice" or "hd95_mm".
            seed: of the resamples.
        """
        column = self._column(regime, structure, score)
        return bootstrap_interval(lambda w: weighted_mean(column, w), [self.subjects], seed=seed)

    def ratio(self, regime: str, structure: int | None = None, *, seed: int = 0) -> Estimate:
        """Return a regime's mean Dice divided by that of training on real cases, with its interval."""
        top, bottom = self._column(regime, structure, "dice"), self._column("real", structure, "dice")
        return bootstrap_interval(
            lambda w: _divide(weighted_mean(top, w), weighted_mean(bottom, w)), [self.subjects], seed=seed
        )

    def sees_nothing(self) -> bool:
        """Whether the segmenter trained on real cases is no better than an answer that looks at no image.

        It then learned too little for its scores to say anything about the cases it learned from.
        """
        return self.mean("real").lower <= self.mean("blind").value

    def of_plateau(self, regime: str) -> str:
        """Say how many trainings the budget ended before their plateau; nothing where none."""
        taken = (*self.steps_taken.get(regime, ()), *self.steps_taken.get("real", ()))
        n_cut = sum(each >= self.n_steps for each in taken)
        if not n_cut:
            return ""
        return f" The budget ended {n_cut} of the {len(taken)} trainings compared before their plateau."

    def spread_over_seeds(self, regime: str) -> tuple[float, float]:
        """Return the lowest and highest seed's mean Dice."""
        scores = self.regimes[regime].dice
        means = [weighted_mean(choose_column(each, None), np.ones(len(each))) for each in scores]
        return min(means), max(means)

    def _column(self, regime: str, structure: int | None, score: Score) -> Floats:
        scores = getattr(self.regimes[regime], score)
        columns = np.stack([choose_column(each, structure) for each in scores])
        return np.array([weighted_mean(case, np.ones(len(case))) for case in columns.T])


def mark_too_weak(result: MetricResult, usefulness: Usefulness) -> MetricResult:
    """Turn a result that stands on a segmenter that sees nothing into "not computed: why"."""
    reason = (
        f"the segmenter trained on real cases for {usefulness.n_steps} steps reaches a Dice of "
        f"{usefulness.mean('real')} on real test subjects, an answer that looks at no image "
        f"{usefulness.mean('blind')}: it learned too little to judge anything. Give a larger time budget"
    )
    return MetricResult(description=result.description, not_computed=reason)


def usefulness_results(usefulness: Usefulness, schema: LabelSchema, *, seed: int) -> list[MetricResult]:
    """Turn usefulness into results: the ratio to real training, and Dice and HD95 for each structure."""
    structures: list[tuple[int | None, str, str]] = [(None, "mean", "all structures")]
    structures += [(place, str(v), name) for place, (v, name) in enumerate(schema.structures.items())]
    return [
        *(_ratio_result(usefulness, regime, seed=seed) for regime in ("synthetic", "both")),
        *(
            _score_result(usefulness, score, *structure, seed=seed)
            for score in SCORES
            for structure in structures
        ),
    ]


def _ratio_result(usefulness: Usefulness, regime: str, *, seed: int) -> MetricResult:
    def measure(column: Column) -> Estimate:
        if column == "real":
            own = usefulness.mean("real", seed=seed)
            if own.value == 0:
                raise NotMeasurableError(
                    "training on real cases reaches a Dice of 0: nothing can be divided by it"
                )
            return replace(own, value=1.0, lower=own.lower / own.value, upper=own.upper / own.value)
        return usefulness.ratio(regime if column == "synthetic" else "blind", seed=seed)

    low, high = usefulness.spread_over_seeds(regime)
    n_seeds = len(usefulness.regimes[regime].dice)
    description = Description(
        key=f"usefulness.ratio_{regime}",
        title=f"Usefulness, {'synthetic only' if regime == 'synthetic' else 'real and synthetic'}",
        meaning="Dice on real test subjects of a segmenter trained on "
        + ("synthetic cases alone" if regime == "synthetic" else "real and synthetic cases together")
        + ", divided by that of one trained on real cases. Noise is an answer that looks at no image.",
        better="higher",
    )
    note = (
        f"{n_seeds} trainings of {usefulness.n_steps} steps at most; mean Dice {low:.3f} to {high:.3f} over "
        f"seeds, {usefulness.mean('real').value:.3f} after training on all real cases."
        f"{usefulness.of_plateau(regime)}"
    )
    return compute_result(description, measure, note=note)


def _score_result(
    usefulness: Usefulness, score: Score, structure: int | None, key: str, name: str, *, seed: int
) -> MetricResult:
    title, meaning, better, unit = SCORES[score]
    both = usefulness.mean("both", structure, score=score, seed=seed)
    description = Description(
        key=f"usefulness.{score}_{key}",
        title=f"{title} after synthetic training, {name}",
        meaning=meaning,
        better=better,
        unit=unit,
    )
    return compute_result(
        description,
        lambda column: usefulness.mean(REGIMES[column], structure, score=score, seed=seed),
        note=f"Trained on both: {both}.",
    )


def _divide(top: float, bottom: float) -> float:
    return top / bottom if bottom > 0 else float("nan")
