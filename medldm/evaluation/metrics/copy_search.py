"""Copies of training patients among synthetic volumes: how many, of whom, and how well they would have been
found.

A similarity of each volume to its nearest training volume is needed, from any detector: cross-correlation
(`neighbours.NeighbourIndex`) or a contrastive encoder. Real test patients, who cannot be copies, give the
threshold: the 99th percentile of their similarity to the training set. Whether the volumes above it are more,
or further above it, than chance explains is decided by `copy_rule`. What the search can find is measured by
planting disguised copies; the result never says more than that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.stats import beta

from medldm.evaluation.errors import NotMeasurableError, TooFewCasesError
from medldm.evaluation.metrics.bootstrap import Estimate
from medldm.evaluation.metrics.checks import Floats
from medldm.evaluation.metrics.copy_rule import excess_p_value, lone_copy_threshold
from medldm.evaluation.metrics.planted_copies import plant_copies

Detector = Callable[[Sequence[npt.ArrayLike]], npt.NDArray[np.floating]]
"""Volumes to their similarity (Q, T) to each training volume."""


class CopyCandidate(NamedTuple):
    """A synthetic volume and its nearest training volume, by their places in the sets."""

    synthetic: int
    train: int
    similarity: float


@dataclass(frozen=True, kw_only=True)
class CopySearch:
    """What a search for copies found.

    Args:
        threshold: similarity above which a synthetic volume is taken for a copy.
        false_positive_rate: share of real test volumes above the threshold.
        n_synthetic: volumes searched.
        n_test: real test volumes that the threshold stands on.
        copies: places of the copies in the synthetic set.
        memorised: places of the copied volumes in the training set, each once.
        n_memorised_subjects: different training subjects among them.
        worst: the most similar pairs, most similar first, whether copies or not.
        p_value: probability of as many copies in a cohort without any.
        lone_threshold: similarity that no volume of a cohort without copies should reach.
        beyond: places of the copies above `lone_threshold`.
        level: probability of each of the two rules to fail a cohort without copies.
        power: share of planted copies found, with its interval; None where it was not measured.
        lone_power: share of planted copies above `lone_threshold`, each enough to fail a cohort.
    """

    threshold: float
    false_positive_rate: float
    n_synthetic: int
    n_test: int
    copies: tuple[int, ...]
    memorised: tuple[int, ...]
    n_memorised_subjects: int
    worst: tuple[CopyCandidate, ...]
    p_value: float
    lone_threshold: float
    beyond: tuple[int, ...]
    level: float
    power: Estimate | None = None
    lone_power: Estimate | None = None

    @property
    def fails(self) -> bool:
        """Whether there are more copies, or nearer ones, than chance explains."""
        return self.p_value < self.level or bool(self.beyond)

    def sentence(self) -> str:
        """Return the finding in one sentence, with the power of the detector, and no promise beyond it."""
        at = f"at threshold {self.threshold:.3f}"
        power = (
            "with unknown detector power"
            if self.power is None
            else f"with detector power {self.power.value:.2f} ({self.power.level:.0%} interval "
            f"{self.power.lower:.2f} to {self.power.upper:.2f})"
        )
        if not self.copies:
            return f"No copies found {at} {power} among {self.n_synthetic} synthetic volumes."
        n_expected = self.n_synthetic * self.false_positive_rate
        chance = f"about {n_expected:.1f} are expected by chance, p = {self.p_value:.2g}"
        if not self.fails:
            return (
                f"No more copies found than chance explains {at} {power}: {len(self.copies)} of "
                f"{self.n_synthetic} synthetic volumes lie above it; {chance}."
            )
        far = f"; {len(self.beyond)} of them lie beyond {self.lone_threshold:.3f}, further than chance goes"
        return (
            f"{len(self.copies)} of {self.n_synthetic} synthetic volumes are copies of "
            f"{self.n_memorised_subjects} training subjects {at} {power}; {chance}"
            f"{far if self.beyond else ''}."
        )


def copy_threshold(test_similarity: npt.ArrayLike, *, quantile: float = 0.99) -> float:
    """Return the similarity that only 1 - `quantile` of real test volumes reach.

    Args:
        test_similarity: (M, T) of real test volumes to training volumes.
        quantile: below 1. With fewer than 1 / (1 - quantile) test volumes it is near the largest one's, and
            the true share of false positives is uncertain.
    Raises:
        ValueError: for values that do not fit or a quantile not between 0 and 1.
        TooFewCasesError: for fewer than 20 test volumes.
    """
    similarity = _check_similarity(test_similarity, "test_similarity")
    if not 0 < quantile < 1:
        raise ValueError(f"quantile is {quantile}; a number between 0 and 1 is needed")
    if len(similarity) < 20:
        raise TooFewCasesError(
            f"{len(similarity)} real test volumes; a threshold from them needs at least 20"
        )
    return float(np.quantile(similarity.max(axis=1), quantile))


def search_copies(
    synthetic_similarity: npt.ArrayLike,
    test_similarity: npt.ArrayLike,
    *,
    quantile: float = 0.99,
    train_subjects: Sequence[object] | None = None,
    n_worst: int = 8,
    alarm_rate: float = 0.01,
) -> CopySearch:
    """Count the synthetic volumes that are more like a training volume than real test volumes are.

    Args:
        synthetic_similarity: (M, T) of synthetic volumes to training volumes.
        test_similarity: (N, T) of real test volumes to the same, by the same detector.
        quantile: of the test volumes, for the threshold.
        train_subjects: (T,) subject of each training volume; without it each is its own.
        n_worst: pairs to return.
        alarm_rate: probability of failing a cohort without copies; a share of 1 % for each of several
            searches.

    Raises:
        ValueError: for arrays that do not fit.
        TooFewCasesError: for too few test volumes.
    """
    synthetic = _check_similarity(synthetic_similarity, "synthetic_similarity")
    test = _check_similarity(test_similarity, "test_similarity")
    n_train = synthetic.shape[1]
    subjects = list(range(n_train)) if train_subjects is None else list(train_subjects)
    if test.shape[1] != n_train or len(subjects) != n_train:
        raise ValueError(
            f"similarities to {n_train} and {test.shape[1]} training volumes and {len(subjects)} subjects "
            "are given; all must be as many"
        )
    threshold = copy_threshold(test, quantile=quantile)
    best, nearest = synthetic.max(axis=1), synthetic.argmax(axis=1)
    copies = np.flatnonzero(best > threshold)
    memorised = np.unique(nearest[copies])
    worst = np.argsort(-best, kind="stable")[:n_worst]
    level = alarm_rate / 2
    lone = max(lone_copy_threshold(test.max(axis=1), len(synthetic), level=level), threshold)
    return CopySearch(
        threshold=threshold,
        false_positive_rate=float((test.max(axis=1) > threshold).mean()),
        n_synthetic=len(synthetic),
        n_test=len(test),
        copies=tuple(copies.tolist()),
        memorised=tuple(memorised.tolist()),
        n_memorised_subjects=len({subjects[index] for index in memorised}),
        worst=tuple(CopyCandidate(int(m), int(nearest[m]), float(best[m])) for m in worst),
        p_value=excess_p_value(len(copies), len(synthetic), len(test), quantile=quantile),
        lone_threshold=lone,
        beyond=tuple(np.flatnonzero(best > lone).tolist()),
        level=level,
    )


def find_planted(
    detector: Detector,
    train: Sequence[npt.ArrayLike],
    *,
    n: int = 100,
    seed: int = 0,
) -> Floats:
    """Plant disguised copies and return how similar the detector finds each to its source.

    Args:
        detector: volumes to similarities (n, T).
        train: T training volumes.
        n: copies to plant.
        seed: of the disguises; the same for several detectors plants the same copies.

    Returns:
        (n,); minus infinity where the nearest training volume is not the source. A copy is found where its
        number lies above the threshold.

    Raises:
        ValueError: for a detector that returns another shape.
    """
    return score_planted(detector, *plant_copies(train, n, seed=seed), n_train=len(train))


def score_planted(
    detector: Detector, copies: Sequence[npt.ArrayLike], sources: npt.NDArray[np.int64], *, n_train: int
) -> Floats:
    """Return how similar a detector finds planted copies to their sources.

    Args:
        detector: volumes to similarities (n, T).
        copies: n of them.
        sources: (n,) places in the training set.
        n_train: T.

    Returns:
        (n,) as in `find_planted`.

    Raises:
        ValueError: for a detector that returns another shape.
    """
    similarity = _check_similarity(detector(copies), "the detector's result")
    n = len(copies)
    if similarity.shape != (n, n_train):
        raise ValueError(
            f"the detector returned {similarity.shape} for {n} volumes and {n_train} training volumes"
        )
    return np.where(similarity.argmax(axis=1) == sources, similarity.max(axis=1), -np.inf)


def measure_power(planted: npt.ArrayLike, threshold: float) -> Estimate:
    """Return the share of planted copies, from `find_planted`, that lie above a threshold.

    Source: interval of a share, Clopper and Pearson 1934.
    """
    found = np.asarray(planted) > threshold
    return share_with_interval(int(found.sum()), len(found))


def share_with_interval(n_found: int, n: int) -> Estimate:
    """Return n_found / n with its exact binomial interval of 95 %.

    Source: Clopper and Pearson 1934.
    """
    tail = (1 - 0.95) / 2
    lower = 0.0 if n_found == 0 else float(beta.ppf(tail, n_found, n - n_found + 1))
    upper = 1.0 if n_found == n else float(beta.ppf(1 - tail, n_found + 1, n - n_found))
    return Estimate(value=n_found / n, lower=lower, upper=upper, level=0.95, n_subjects=(n,))


def _check_similarity(similarity: npt.ArrayLike, name: str) -> Floats:
    array = np.asarray(similarity, dtype=np.float64)
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(f"{name} has the shape {array.shape}; (Q, T), not empty, is needed")
    if not np.isfinite(array).all():
        raise NotMeasurableError(f"{name} holds similarities that are not finite: the detector failed")
    return array
