"""Label agreement: does a synthetic image show the anatomy of the label map it was made from?

A segmenter that learned from real training data alone segments each synthetic image. Its Dice against the
conditioning map mixes two errors: the image not following the map, and the segmenter's own. The second is
known from real test data, so that

    label agreement = Dice(synthetic image, conditioning map) - Dice(real test image, its map)            (1)

is 0 where synthetic images follow their maps as well as real ones do, and negative where they do not.
Chance is the Dice between the output on each synthetic image and another synthetic case's map.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from medldm.data.labels import LabelSchema
from medldm.evaluation.cases.sets import Image, Known, LabelledImage, Labels
from medldm.evaluation.errors import TooFewCasesError
from medldm.evaluation.metrics.bootstrap import Estimate, bootstrap_interval
from medldm.evaluation.metrics.checks import Floats
from medldm.evaluation.metrics.overlap import choose_column, dice_scores, only_known, weighted_mean
from medldm.evaluation.sections.metric_result import Column, Description, MetricResult, compute_result
from medldm.transforms.window import centre_crop_or_pad


@dataclass(frozen=True, kw_only=True)
class LabelAgreement:
    """Dice of a segmenter's output, case by case and structure by structure.

    NaN stands where neither map has the structure, and where the true map does not cover it.

    Args:
        synthetic: (N, K) against the conditioning map.
        test: (M, K) real test images against their own maps.
        chance: (N, K) synthetic images against the map of another synthetic case.
        subjects: of the synthetic and of the test cases.
        predicted: the segmenter's maps of the synthetic images.
        predicted_test: of the real test images.
    """

    synthetic: Floats
    test: Floats
    chance: Floats
    subjects: tuple[Sequence[Hashable], Sequence[Hashable]]
    predicted: tuple[Labels, ...]
    predicted_test: tuple[Labels, ...]

    def difference(self, structure: int | None = None, *, chance: bool = False, seed: int = 0) -> Estimate:
        """Return Eq. (1) with its interval by subject.

        Args:
            structure: column, from 0; None takes the mean over structures.
            chance: put the shuffled maps in the place of the conditioning maps.
            seed: of the resamples.
        """
        first, second = (
            choose_column(each, structure) for each in (self.chance if chance else self.synthetic, self.test)
        )
        return bootstrap_interval(
            lambda u, v: weighted_mean(first, u) - weighted_mean(second, v), self.subjects, seed=seed
        )

    def dice(self, which: str, structure: int | None = None, *, seed: int = 0) -> Estimate:
        """Return the mean Dice of "synthetic", "test" or "chance" with its interval by subject."""
        subjects = self.subjects[1] if which == "test" else self.subjects[0]
        column = choose_column(getattr(self, which), structure)
        return bootstrap_interval(lambda w: weighted_mean(column, w), [subjects], seed=seed)


def measure_label_agreement(
    segment: Callable[[Image], Labels],
    synthetic: Sequence[LabelledImage],
    test: Sequence[LabelledImage],
    *,
    n_structures: int,
    subjects: tuple[Sequence[Hashable], Sequence[Hashable]] | None = None,
    known: tuple[Known | None, Known | None] = (None, None),
    seed: int = 0,
) -> LabelAgreement:
    """Segment synthetic and real test images and compare with their maps.

    Args:
        segment: image (X, Y, Z) to labels 0..K, trained on real training data.
        synthetic: images with their conditioning maps 0..K.
        test: real test images with their maps.
        n_structures: K.
        subjects: of the synthetic and of the test cases; without it each case is its own.
        known: which structures the maps of the synthetic and of the test cases cover; others do not count.
        seed: of the shuffling.

    Raises:
        TooFewCasesError: for fewer than 2 cases in either set.
    """
    if len(synthetic) < 2 or len(test) < 2:
        raise TooFewCasesError(
            f"{len(synthetic)} synthetic and {len(test)} test cases; at least 2 each are needed"
        )
    predicted = tuple(segment(image) for image, _ in synthetic)
    predicted_test = tuple(segment(image) for image, _ in test)
    # A random cycle: an order in which no case keeps its place.
    cycle = np.random.default_rng(seed).permutation(len(synthetic))
    others = np.empty_like(cycle)
    others[cycle] = np.roll(cycle, 1)
    shuffled = [
        centre_crop_or_pad(synthetic[other][1], map_.shape)
        for other, map_ in zip(others, predicted, strict=True)
    ]

    def score(answers: Sequence[Labels], truth: Iterable[Labels], covered: Known | None) -> Floats:
        pairs = zip(answers, truth, strict=True)
        scores = np.stack([dice_scores(*pair, n_structures=n_structures) for pair in pairs])
        return only_known(scores, covered)

    return LabelAgreement(
        synthetic=score(predicted, (labels for _, labels in synthetic), known[0]),
        test=score(predicted_test, (labels for _, labels in test), known[1]),
        chance=score(predicted, shuffled, None if known[0] is None else known[0][others]),
        subjects=subjects or (range(len(synthetic)), range(len(test))),
        predicted=predicted,
        predicted_test=predicted_test,
    )


def agreement_results(agreement: LabelAgreement, schema: LabelSchema, *, seed: int) -> list[MetricResult]:
    """Turn label agreement into one result for the mean and one for each structure."""

    def make(structure: int | None, name: str) -> MetricResult:
        def measure(column: Column) -> Estimate:
            if column == "real":
                own = agreement.dice("test", structure, seed=seed)
                return replace(own, value=0.0, lower=own.lower - own.value, upper=own.upper - own.value)
            return agreement.difference(structure, chance=column == "noise", seed=seed)

        synthetic, test = (agreement.dice(which, structure, seed=seed) for which in ("synthetic", "test"))
        description = Description(
            key=f"agreement.{'mean' if structure is None else schema.values[structure]}",
            title=f"Label agreement, {name}",
            meaning="Dice of a segmenter between its output on the synthetic image and the map it was made "
            "from, minus its Dice on real test data: 0 where synthetic images follow their maps as well as "
            "real ones do. Noise is another case's map.",
            better="higher",
            unit="Dice",
        )
        return compute_result(
            description, measure, note=f"Dice {synthetic} on synthetic, {test} on real test images."
        )

    return [
        make(None, "all structures"),
        *(make(place, name) for place, name in enumerate(schema.structures.values())),
    ]
