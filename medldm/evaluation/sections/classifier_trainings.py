"""The trainings of the real-or-synthetic network: one for each set and fold, all alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from medldm.configs import Config
from medldm.evaluation.cases.comparable import ComparableSet
from medldm.evaluation.errors import NotMeasurableError
from medldm.evaluation.metrics.checks import Floats
from medldm.evaluation.metrics.classifier_test import Folds
from medldm.evaluation.volume_classifier import ClassifierConfig, seconds_per_step, train_volume_classifier
from medldm.runtime.distributed import broadcast_from_first, gather_rows
from medldm.seeds import numbered_seed

MIN_STEPS = 20


@dataclass(kw_only=True)
class RealOrSyntheticConfig(Config):
    """The two classifiers.

    Args:
        n_folds: of the cross-validation.
        n_cases: of each set, at most.
        n_permutations: of the p-values.
        time_budget_s: of all trainings of the network together; how many steps fit is measured on this
            machine first. 0 leaves the network out.
        network: the network and its training; its `n_steps`, where given, overrides the time budget, so that
            two machines do exactly the same.
    """

    n_folds: int = 5
    n_cases: int = 100
    n_permutations: int = 1999
    time_budget_s: float = 300.0
    network: ClassifierConfig = field(default_factory=ClassifierConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("[2, inf)", "n_folds")
        self.require("[10, inf)", "n_cases")
        self.require("[19, inf)", "n_permutations")
        self.require("[0, inf]", "time_budget_s")

    @property
    def has_network(self) -> bool:
        """Whether the network is asked for."""
        return self.time_budget_s > 0 or self.network.n_steps is not None


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two sets to be told apart.

    Args:
        first: real test cases.
        second: cases of another set.
        folds: of both.
    """

    first: ComparableSet
    second: ComparableSet
    folds: Folds


def score_held_out(
    pairs: Mapping[str, Pair], config: RealOrSyntheticConfig, *, n_steps: int, seed: int
) -> dict[str, Floats]:
    """Return the scores (N + M,) of each pair's cases by networks that learned from the other folds.

    Args:
        pairs: by name.
        config: of the network.
        n_steps: of each training, from `fit_steps`.
        seed: of the trainings; a fold has the same one whatever the pair.
    """
    trainings = [(pair, fold) for pair in pairs.values() for fold in range(pair.folds.n_folds)]
    n_longest = max(len(pair.folds.fold) for pair in pairs.values())

    def train_some(own: Sequence[tuple[Pair, int]]) -> list[Floats]:
        rows = [_train_and_score(*each, config, n_steps=n_steps, seed=seed) for each in own]
        return [np.pad(row, (0, n_longest - len(row))) for row in rows]

    rows = gather_rows(trainings, train_some)
    scores = {}
    for name, pair in pairs.items():
        own = [row for row, (each, _) in zip(rows, trainings, strict=True) if each is pair]
        scores[name] = np.asarray(np.sum(own, axis=0)[: len(pair.folds.fold)])
    return scores


def fit_steps(pair: Pair, config: RealOrSyntheticConfig, *, n_sets: int) -> int:
    """Return how many steps each training of the network may take.

    Args:
        pair: some volumes.
        config: the configured steps, or the time budget to measure against.
        n_sets: that are told from the real test set.

    Raises:
        NotMeasurableError: where the budget holds fewer than 20 steps a training.
    """
    if config.network.n_steps is not None:
        return config.network.n_steps
    few = np.concatenate([pair.first.volumes[:8], pair.second.volumes[:8]])
    measured = seconds_per_step(few, config.network)
    seconds = float(broadcast_from_first(torch.tensor(measured, dtype=torch.float64)))
    n_trainings = n_sets * pair.folds.n_folds
    n_steps = int(min(config.time_budget_s / (n_trainings * seconds), config.network.max_steps))
    if n_steps < min(MIN_STEPS, config.network.max_steps):
        raise NotMeasurableError(
            f"the time budget of {config.time_budget_s:g} s holds {n_steps} steps for each of {n_trainings} "
            f"trainings of the real-or-synthetic network; {MIN_STEPS} steps, about "
            f"{MIN_STEPS * seconds * n_trainings:.0f} s, are needed at least"
        )
    return n_steps


def _train_and_score(
    pair: Pair, fold: int, config: RealOrSyntheticConfig, *, n_steps: int, seed: int
) -> Floats:
    """Return the scores of a fold's cases (N + M,), 0 for all others."""
    volumes = np.concatenate([pair.first.volumes, pair.second.volumes])[pair.folds.order]
    inside = pair.folds.fold == fold
    classifier = train_volume_classifier(
        volumes[~inside],
        pair.folds.is_second[~inside],
        config.network,
        n_steps=n_steps,
        seed=numbered_seed(seed, fold),
    )
    scores = np.zeros(len(volumes))
    scores[inside] = classifier.score(volumes[inside])
    return scores
