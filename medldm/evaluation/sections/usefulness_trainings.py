"""The trainings of usefulness: the same segmenter on real cases, on synthetic cases, and on both."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import numpy as np
import numpy.typing as npt
import torch

from medldm.evaluation.cases.sets import Known, LabelledImage
from medldm.evaluation.errors import NotMeasurableError, TooFewCasesError
from medldm.evaluation.metrics.checks import Floats
from medldm.evaluation.metrics.overlap import dice_scores, hausdorff95_mm, only_known
from medldm.evaluation.sections import few_cases
from medldm.evaluation.sections.usefulness import RegimeScores, Usefulness, UsefulnessConfig
from medldm.evaluation.segmenter import Segmenter, seconds_per_step, train_segmenter
from medldm.runtime.distributed import broadcast_from_first, gather_rows
from medldm.seeds import numbered_seed
from medldm.transforms.window import centre_crop_or_pad

REGIMES = ("real", "synthetic", "both")
MIN_STEPS = 20


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
    known: tuple[Known | None, Known | None, Known | None] = (None, None, None),
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
        known: which structures the real, the synthetic and the test maps cover; None for all.
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
    sources = {"real": (real, ()), "synthetic": (synthetic, ()), "both": (real, synthetic)}
    covered = {"real": (known[0], None), "synthetic": (known[1], None), "both": (known[0], known[1])}

    def train_and_score(regime: str, number: int) -> Floats:
        if progress is not None:
            progress(f"segmenter on {regime} cases, seed {number + 1} of {config.n_seeds}")
        trained = real_segmenters[number] if regime == "real" and number < len(real_segmenters) else None
        segmenter = trained or train_segmenter(
            sources[regime][0],
            config.segmenter,
            n_structures=n_structures,
            n_steps=n_steps,
            seed=numbered_seed(seed, number),
            added=sources[regime][1],
            known=covered[regime],
        )
        answers = [segmenter.segment(image) for image, _ in test]
        scores = _score(answers, test, spacing_mm=spacing_mm, n_structures=n_structures, known=known[2])
        return np.append(np.ravel(scores), segmenter.n_steps)

    trainings = [(regime, number) for regime in sources for number in range(config.n_seeds)]
    rows = gather_rows(trainings, lambda own: [train_and_score(*each) for each in own])
    scores = rows[:, :-1].reshape(len(sources), config.n_seeds, 2, len(test), n_structures)
    taken = rows[:, -1].astype(int).reshape(len(sources), config.n_seeds)
    regimes = {
        regime: RegimeScores(dice=each[:, 0], hd95_mm=each[:, 1])
        for regime, each in zip(sources, scores, strict=True)
    }
    blind = blind_answer([labels for _, labels in real], n_structures=n_structures, known=known[0])
    answers = [centre_crop_or_pad(blind, labels.shape) for _, labels in test]
    dice, hd95 = _score(answers, test, spacing_mm=spacing_mm, n_structures=n_structures, known=known[2])
    regimes["blind"] = RegimeScores(dice=dice[None], hd95_mm=hd95[None])
    return Usefulness(
        regimes=regimes,
        n_steps=n_steps,
        subjects=tuple(range(len(test)) if subjects is None else subjects),
        steps_taken={regime: tuple(each.tolist()) for regime, each in zip(sources, taken, strict=True)},
    )


def count_trainings(config: UsefulnessConfig, n_real: int) -> int:
    """Return how many trainings share the time budget.

    Args:
        config: of the trainings.
        n_real: real training cases.
    """
    n_few = len(few_cases.ARMS) * len(few_cases.choose_counts(config, n_real))
    return config.n_seeds * (len(REGIMES) + n_few)


def fit_steps(cases: Sequence[LabelledImage], config: UsefulnessConfig, *, n_structures: int) -> int:
    """Return how many steps each training may take.

    Args:
        cases: the real training cases.
        config: the configured steps, or the time budget to measure against.
        n_structures: K.

    Raises:
        NotMeasurableError: where the budget is 0 or holds fewer than 20 steps a training.
    """
    if config.segmenter.n_steps is not None:
        return config.segmenter.n_steps
    if config.time_budget_s == 0:
        raise NotMeasurableError("the time budget of the segmenter trainings is 0")
    measured = seconds_per_step(cases, config.segmenter, n_structures=n_structures)
    seconds = float(broadcast_from_first(torch.tensor(measured, dtype=torch.float64)))
    n_trainings = count_trainings(config, len(cases))
    n_steps = int(config.time_budget_s / (n_trainings * seconds))
    if n_steps < MIN_STEPS:
        needed = MIN_STEPS * seconds * n_trainings
        raise NotMeasurableError(
            f"the time budget of {config.time_budget_s:g} s holds {n_steps} steps for each of "
            f"{n_trainings} trainings; {MIN_STEPS} steps, about {needed:.0f} s, are needed "
            f"at least"
        )
    return min(n_steps, config.segmenter.max_steps)


def blind_answer(
    label_maps: Sequence[npt.NDArray[np.int64]], *, n_structures: int, known: Known | None = None
) -> npt.NDArray[np.int64]:
    """Return the most common label 0..K at each voxel of maps laid over each other by their centres.

    Args:
        label_maps: 0..K.
        n_structures: K.
        known: (N, K) which structures the maps cover: one is as common as it is in those that cover it.
    """
    shape = [int(size) for size in np.median([labels.shape for labels in label_maps], axis=0)]
    stack = np.stack([centre_crop_or_pad(labels, shape) for labels in label_maps])
    counts = np.stack([(stack == value).sum(axis=0) for value in range(1, n_structures + 1)]).astype(float)
    if known is not None:
        counts *= (len(stack) / np.maximum(known.sum(axis=0), 1))[:, None, None, None]
    return np.concatenate([len(stack) - counts.sum(axis=0, keepdims=True), counts]).argmax(axis=0)


def _score(
    answers: Sequence[npt.NDArray[np.int64]],
    test: Sequence[LabelledImage],
    *,
    spacing_mm: Sequence[float],
    n_structures: int,
    known: Known | None,
) -> tuple[Floats, Floats]:
    pairs = [(answer, labels) for answer, (_, labels) in zip(answers, test, strict=True)]
    dice = np.stack([dice_scores(*pair, n_structures=n_structures) for pair in pairs])
    hd95 = np.stack([hausdorff95_mm(*pair, spacing_mm, n_structures=n_structures) for pair in pairs])
    return only_known(dice, known), only_known(hd95, known)
