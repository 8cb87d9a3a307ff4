"""Usefulness: how well a segmenter works on real test subjects that learned from synthetic cases.

The same segmenter is trained on real cases, on synthetic cases, and on both, the same number of steps each,
from several seeds, and tested on real subjects that nobody trained on. As a floor stands an answer that
looks at no
image: at each voxel the most common label of the real training maps.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import torch

from medldm.configs import Config
from medldm.errors import ConfigError
from medldm.evaluation.metrics.bootstrap import Estimate, bootstrap_interval
from medldm.evaluation.metrics.checks import Floats, TooFewCasesError
from medldm.evaluation.sections.agreement import choose_column, weighted_mean
from medldm.evaluation.segmenter import (
    LabelledImage,
    Segmenter,
    SegmenterConfig,
    dice_scores,
    hausdorff95_mm,
    seconds_per_step,
    train_segmenter,
)
from medldm.runtime.distributed import broadcast_from_first, gather_rows
from medldm.seeds import numbered_seed
from medldm.transforms.window import centre_crop_or_pad

logger = logging.getLogger(__name__)

Regime = Literal["real", "synthetic", "both"]
REGIMES = get_args(Regime)
MIN_STEPS = 20


@dataclass(kw_only=True)
class UsefulnessConfig(Config):
    """The trainings.

    Args:
        n_seeds: trainings of each regime, at least 1; 3 for a result to be trusted.
        time_budget_s: of all trainings together; how many steps fit is measured on this machine first. 0
            leaves usefulness and label agreement out.
        segmenter: network and training; its `n_steps`, where given, overrides the time budget, so that two
            machines do exactly the same.
    """

    n_seeds: int = 3
    time_budget_s: float = 600.0
    segmenter: SegmenterConfig = field(default_factory=SegmenterConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_seeds < 1 or self.time_budget_s < 0:
            raise ConfigError(
                f"n_seeds {self.n_seeds} and time_budget_s {self.time_budget_s}: at least 1 and 0 or more "
                f"are needed"
            )


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
        regimes: by name.
        blind: of the answer that looks at no image; one "seed".
        n_steps: of each training.
        subjects: of the test cases.
    """

    regimes: dict[str, RegimeScores]
    blind: RegimeScores
    n_steps: int
    subjects: tuple[Hashable, ...]

    def mean(
        self,
        regime: str,
        structure: int | None = None,
        *,
        measure: Literal["dice", "hd95_mm"] = "dice",
        seed: int = 0,
    ) -> Estimate:
        """Return the mean over seeds and cases, with its interval by test subject.

        Args:
            regime: "real", "synthetic", "both" or "blind".
            structure: column, from 0; None takes the mean over structures.
            measure: "dice" or "hd95_mm".
            seed: of the resamples.
        """
        column = self._column(regime, structure, measure)
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

    def spread_over_seeds(self, regime: str) -> tuple[float, float]:
        """Return the lowest and highest seed's mean Dice."""
        scores = self.regimes[regime].dice
        means = [weighted_mean(choose_column(each, None), np.ones(len(each))) for each in scores]
        return min(means), max(means)

    def _column(self, regime: str, structure: int | None, measure: str) -> Floats:
        scores = self.blind if regime == "blind" else self.regimes[regime]
        columns = np.stack([choose_column(each, structure) for each in getattr(scores, measure)])
        return np.array([weighted_mean(case, np.ones(len(case))) for case in columns.T])


def measure_usefulness(
    real: Sequence[LabelledImage],
    synthetic: Sequence[LabelledImage],
    test: Sequence[LabelledImage],
    *,
    spacing_mm: Sequence[float],
    n_structures: int,
    n_steps: int,
    config: UsefulnessConfig | None = None,
    subjects: Sequence[Hashable] | None = None,
    seed: int = 0,
    real_segmenters: Sequence[Segmenter] = (),
    progress: Callable[[str], None] | None = None,
) -> Usefulness:
    """Train every regime from every seed and test it.

    Args:
        real: real training images with labels 0..K.
        synthetic: synthetic ones.
        test: real test cases.
        spacing_mm: of all of them.
        n_structures: K.
        n_steps: of each training, from `fit_steps`.
        config: seeds and segmenter.
        subjects: of the test cases; without it each is its own.
        seed: first of the seeds.
        real_segmenters: already trained on `real` from the first seeds, to be used again.
        progress: told what is being trained.

    Raises:
        TooFewCasesError: for no training case, or fewer than 2 test cases.
    """
    config = config or UsefulnessConfig()
    if len(test) < 2 or not real or not synthetic:
        raise TooFewCasesError(
            f"{len(real)} real, {len(synthetic)} synthetic and {len(test)} test cases; 1, 1 and 2 are needed "
            f"at least"
        )
    sources = {"real": list(real), "synthetic": list(synthetic), "both": [*real, *synthetic]}

    def train_and_score(regime: str, number: int) -> Floats:
        if progress is not None:
            progress(f"segmenter on {regime} cases, seed {number + 1} of {config.n_seeds}")
        known = real_segmenters[number] if regime == "real" and number < len(real_segmenters) else None
        segmenter = known or train_segmenter(
            sources[regime],
            config.segmenter,
            n_structures=n_structures,
            n_steps=n_steps,
            seed=numbered_seed(seed, number),
        )
        answers = [segmenter.segment(image) for image, _ in test]
        return np.ravel(_score(answers, test, spacing_mm=spacing_mm, n_structures=n_structures))

    trainings = [(regime, number) for regime in sources for number in range(config.n_seeds)]
    rows = gather_rows(trainings, lambda own: [train_and_score(*each) for each in own])
    scores = rows.reshape(len(sources), config.n_seeds, 2, len(test), n_structures)
    regimes = {
        regime: RegimeScores(dice=each[:, 0], hd95_mm=each[:, 1])
        for regime, each in zip(sources, scores, strict=True)
    }
    blind = blind_answer([labels for _, labels in real], n_structures=n_structures)
    answers = [centre_crop_or_pad(blind, labels.shape) for _, labels in test]
    dice, hd95 = _score(answers, test, spacing_mm=spacing_mm, n_structures=n_structures)
    return Usefulness(
        regimes=regimes,
        blind=RegimeScores(dice=dice[None], hd95_mm=hd95[None]),
        n_steps=n_steps,
        subjects=tuple(range(len(test)) if subjects is None else subjects),
    )


def fit_steps(cases: Sequence[LabelledImage], config: UsefulnessConfig, *, n_structures: int) -> int:
    """Return how many steps each training may take.

    Args:
        cases: some training cases.
        config: the configured steps, or the time budget to measure against.
        n_structures: K.

    Raises:
        TooFewCasesError: where the budget is 0 or holds fewer than 20 steps a training.
    """
    if config.segmenter.n_steps is not None:
        return config.segmenter.n_steps
    if config.time_budget_s == 0:
        raise TooFewCasesError("the time budget of the segmenter trainings is 0")
    measured = seconds_per_step(cases, config.segmenter, n_structures=n_structures)
    seconds = float(broadcast_from_first(torch.tensor(measured, dtype=torch.float64)))
    n_steps = int(config.time_budget_s / (len(REGIMES) * config.n_seeds * seconds))
    if n_steps < MIN_STEPS:
        needed = MIN_STEPS * seconds * len(REGIMES) * config.n_seeds
        raise TooFewCasesError(
            f"the time budget of {config.time_budget_s:g} s holds {n_steps} steps for each of "
            f"{len(REGIMES) * config.n_seeds} trainings; {MIN_STEPS} steps, about {needed:.0f} s, are needed "
            f"at least"
        )
    return min(n_steps, config.segmenter.max_steps)


def blind_answer(label_maps: Sequence[npt.NDArray[np.int64]], *, n_structures: int) -> npt.NDArray[np.int64]:
    """Return the most common label 0..K at each voxel of maps laid over each other by their centres."""
    shape = [int(size) for size in np.median([labels.shape for labels in label_maps], axis=0)]
    stack = np.stack([centre_crop_or_pad(labels, shape) for labels in label_maps])
    return np.stack([(stack == value).sum(axis=0) for value in range(n_structures + 1)]).argmax(axis=0)


def _score(
    answers: Sequence[npt.NDArray[np.int64]],
    test: Sequence[LabelledImage],
    *,
    spacing_mm: Sequence[float],
    n_structures: int,
) -> tuple[Floats, Floats]:
    pairs = [(answer, labels) for answer, (_, labels) in zip(answers, test, strict=True)]
    dice = np.stack([dice_scores(*pair, n_structures=n_structures) for pair in pairs])
    hd95 = np.stack([hausdorff95_mm(*pair, spacing_mm, n_structures=n_structures) for pair in pairs])
    return dice, hd95


def _divide(top: float, bottom: float) -> float:
    return top / bottom if bottom > 0 else float("nan")
