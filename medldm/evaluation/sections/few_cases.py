"""Usefulness where real cases are few: does a segmenter gain from synthetic cases beside n real ones?

For each n, some draws of n real training cases are trained on alone, and again with all synthetic cases
added; both are tested on the same real subjects. The gain is the difference of their Dice, paired by draw and
by test subject, with an interval over both. The generator has seen all training cases: the question is what
the synthetic set gives to somebody else, who has n cases of the same kind.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medldm.evaluation.cases.sets import Known, LabelledImage
from medldm.evaluation.errors import TooFewCasesError
from medldm.evaluation.metrics.bootstrap import Estimate
from medldm.evaluation.metrics.checks import Floats
from medldm.evaluation.metrics.crossed_mean import crossed_mean
from medldm.evaluation.metrics.overlap import choose_column, dice_scores, only_known
from medldm.evaluation.sections.metric_result import Description, Light, MetricResult, estimate_to_dict
from medldm.evaluation.sections.usefulness import UsefulnessConfig
from medldm.evaluation.segmenter import train_segmenter
from medldm.runtime.distributed import gather_rows
from medldm.seeds import numbered_seed

ARMS = ("alone", "with_synthetic")


@dataclass(frozen=True, kw_only=True)
class FewCases:
    """Dice with a number of real cases, alone and with the synthetic ones.

    Args:
        n_real: cases of each draw.
        n_synthetic: added ones.
        n_foreign: of these, made from the label map of a training case that was not drawn; mean of the draws.
        alone: (D, N) mean Dice over structures, of each draw on each test case.
        with_synthetic: (D, N) the same with the synthetic cases added.
        n_steps: that the trainings took, fewest and most.
        subjects: of the test cases.
    """

    n_real: int
    n_synthetic: int
    n_foreign: float
    alone: Floats
    with_synthetic: Floats
    n_steps: tuple[int, int]
    subjects: tuple[Hashable, ...]

    def gain(self) -> Estimate:
        """Return the mean gain with its interval over draws and test subjects."""
        return crossed_mean(self.with_synthetic - self.alone, self.subjects)

    def mean(self, arm: str) -> Estimate:
        """Return the mean Dice "alone" or "with_synthetic", likewise."""
        return crossed_mean(getattr(self, arm), self.subjects)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able form."""
        return {
            "n_real": self.n_real,
            "n_synthetic": self.n_synthetic,
            "n_foreign": self.n_foreign,
            "n_draws": len(self.alone),
            **{name: estimate_to_dict(self.mean(name)) for name in ARMS},
            "gain": estimate_to_dict(self.gain()),
        }


def choose_counts(config: UsefulnessConfig, n_real: int) -> tuple[int, ...]:
    """Return the numbers of real cases that are fewer than there are."""
    return tuple(n for n in sorted(set(config.few_cases)) if n < n_real)


def measure_few_cases(
    real: Sequence[LabelledImage],
    synthetic: Sequence[LabelledImage],
    test: Sequence[LabelledImage],
    *,
    n_structures: int,
    n_steps: int,
    config: UsefulnessConfig,
    sources: Sequence[int | None] = (),
    subjects: Sequence[Hashable] | None = None,
    known: tuple[Known | None, Known | None, Known | None] = (None, None, None),
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> list[FewCases]:
    """Train on every draw, alone and with the synthetic cases, and test it.

    Args:
        real: real training images with labels 0..K.
        synthetic: synthetic ones, all of which are added.
        test: real test cases.
        n_structures: K.
        n_steps: of each training, at most: the same for all.
        config: numbers of cases, draws (`n_seeds`) and segmenter.
        sources: place in `real` of the label map that each synthetic case was made from, None for a new map.
        subjects: of the test cases; without it each is its own.
        known: which structures the real, the synthetic and the test maps cover; None for all.
        seed: of draws and trainings.
        progress: told what is being trained.

    Raises:
        TooFewCasesError: for no synthetic case or fewer than 2 test cases.
    """
    if len(test) < 2 or not synthetic:
        raise TooFewCasesError(f"{len(synthetic)} synthetic and {len(test)} test cases; 1 and 2 are needed")
    counts = choose_counts(config, len(real))
    draws = range(config.n_seeds)

    def train_and_score(n: int, draw: int, arm: str) -> Floats:
        if progress is not None:
            progress(f"segmenter on {n} real cases {arm.replace('_', ' ')}, draw {draw + 1} of {len(draws)}")
        drawn = draw_cases(len(real), n, seed=seed, draw=draw)
        segmenter = train_segmenter(
            [real[place] for place in drawn],
            config.segmenter,
            n_structures=n_structures,
            n_steps=n_steps,
            seed=numbered_seed(seed, draw),
            added=synthetic if arm == "with_synthetic" else (),
            known=(
                None if known[0] is None else known[0][drawn],
                known[1] if arm == "with_synthetic" else None,
            ),
        )
        answers = [dice_scores(segmenter.segment(x), y, n_structures=n_structures) for x, y in test]
        return np.append(choose_column(only_known(np.stack(answers), known[2]), None), segmenter.n_steps)

    trainings = [(n, draw, arm) for n in counts for arm in ARMS for draw in draws]
    if not trainings:
        return []
    rows = gather_rows(trainings, lambda own: [train_and_score(*each) for each in own])
    table = rows.reshape(len(counts), len(ARMS), len(draws), len(test) + 1)
    names = tuple(range(len(test)) if subjects is None else subjects)
    return [
        FewCases(
            n_real=n,
            n_synthetic=len(synthetic),
            n_foreign=_count_foreign(sources, n, n_real=len(real), draws=draws, seed=seed),
            alone=each[0, :, :-1],
            with_synthetic=each[1, :, :-1],
            n_steps=(int(each[..., -1].min()), int(each[..., -1].max())),
            subjects=names,
        )
        for n, each in zip(counts, table, strict=True)
    ]


def draw_cases(n_real: int, n: int, *, seed: int, draw: int) -> list[int]:
    """Return the places of a draw; a draw of more cases holds that of fewer."""
    order = np.random.default_rng(numbered_seed(seed, draw)).permutation(n_real)
    return [int(place) for place in order[:n]]


def few_cases_results(found: Sequence[FewCases]) -> list[MetricResult]:
    """Turn the gains into results, one for each number of real cases."""
    return [_gain_result(each) for each in found]


def _gain_result(found: FewCases) -> MetricResult:
    gain, alone, helped = found.gain(), found.mean("alone"), found.mean("with_synthetic")
    light: Light = "grey"
    if gain.lower > 0 or gain.upper < 0:
        light = "green" if gain.lower > 0 else "red"
    note = (
        f"Dice {alone.value:.3f} alone, {helped.value:.3f} with {found.n_synthetic} synthetic cases; "
        f"{len(found.alone)} draws, {found.n_steps[0]} to {found.n_steps[1]} steps until the plateau or the "
        "end of the budget."
    )
    if found.n_foreign > 0:
        note += (
            f" Of the synthetic cases {found.n_foreign:.0f} have the label map of a training case that was "
            "not drawn: part of the gain is these real maps, not the images."
        )
    return MetricResult(
        description=Description(
            key=f"usefulness.gain_{found.n_real}",
            title=f"Gain beside {found.n_real} real cases",
            meaning="Dice on real test subjects with the synthetic cases added to so few real ones, less "
            "that of the real ones alone. Green: gain beyond chance. Red: loss. Grey: neither.",
            better="higher",
            unit="Dice",
        ),
        synthetic=gain,
        note=note,
        verdict=light,
    )


def _count_foreign(
    sources: Sequence[int | None], n: int, *, n_real: int, draws: Sequence[int], seed: int
) -> float:
    """Return how many maps are of cases outside the draw, the mean over draws."""
    known = [source for source in sources if source is not None]
    drawn = [set(draw_cases(n_real, n, seed=seed, draw=draw)) for draw in draws]
    return float(np.mean([sum(source not in own for source in known) for own in drawn]))
