"""Classifier two-sample test: can a classifier that learned from other cases tell two sets apart?

Cases are divided into folds, whole subjects at a time and with the shares of both sets in each. A classifier
learns from all folds but one and scores the cases of that one. The statistic is the AUC within folds,

    AUC = sum_f wins_f / sum_f n_f m_f,   wins_f = #{s(y) > s(x)} + #{s(y) = s(x)} / 2,                    (1)

x of the n_f cases of the first set in fold f and y of the m_f of the second: scores of different classifiers
are never compared. It is 0.5 on average where both sets come from one distribution, and 1 where the
classifier tells every case.

Folds are not independent: the classifier of one learned from the cases of the others. For a rule that is
linear in its training cases, and sets of one distribution, write d_f for the difference of the sets' means
in fold f. The score difference in fold f is then sum_{g != f} d_g . d_f, and those of two folds share the
term d_f . d_g: of k folds, each pair has the covariance 1 / (k - 1) of one's variance, and the variance of
(1) is

    k V (1 + (k - 1) / (k - 1)) / k^2 = 2 V / k,                                                           (2)

twice that of k independent folds, for any k. Intervals and, where the classifier is not trained again for
each relabelling, p-values take that into account.

Source: Lopez-Paz and Oquab 2017, Revisiting Classifier Two-Sample Tests, Section 3 (there with one split and
accuracy); Nadeau and Bengio 2003 on the variance of cross-validation.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.stats import norm

from medldm.evaluation.errors import TooFewCasesError
from medldm.evaluation.metrics.bootstrap import Estimate
from medldm.evaluation.metrics.checks import Floats, check_two_sets
from medldm.evaluation.metrics.ridge import ridge_predictor

MIN_SUBJECTS = 10
"""In each set; with fewer the interval is wider than half the scale."""

VARIANCE_OF_FOLDS = 2.0
"""How much larger the variance of (1) is than that of independent folds, Eq. (2)."""

Labels = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Folds:
    """Both sets in one row, the first before the second, each in an order of its own.

    Args:
        order: (N + M,) place of each case among the cases that were given, the first set's before the
            second's.
        is_second: (N + M,) whether it is of the second set.
        unit: (N + M,) number of its subject.
        fold: (N + M,) number of its fold, from 0.
    """

    order: npt.NDArray[np.int64]
    is_second: Labels
    unit: npt.NDArray[np.int64]
    fold: npt.NDArray[np.int64]

    @property
    def n_folds(self) -> int:
        """Return the number of folds."""
        return int(self.fold.max()) + 1

    @property
    def n_subjects(self) -> tuple[int, int]:
        """Return the subjects in each set."""
        first, second = (len(np.unique(self.unit[self.is_second == flag])) for flag in (False, True))
        return first, second


@dataclass(frozen=True, kw_only=True)
class ClassifierTest:
    """Result of the test.

    Args:
        auc: of Eq. (1), with its interval.
        p_value: of the hypothesis that both sets come from one distribution; at least 1 / (permutations + 1).
        n_folds: folds.
    """

    auc: Estimate
    p_value: float
    n_folds: int


def make_folds(
    keys: tuple[Sequence[Hashable], Sequence[Hashable]],
    subjects: tuple[Sequence[Hashable], Sequence[Hashable]],
    *,
    n_folds: int = 5,
    are_paired: bool = False,
    seed: int = 0,
) -> Folds:
    """Divide two sets into folds, whole subjects at a time, whatever order their cases come in.

    Args:
        keys: of the cases of both sets, such as hashes of their contents: what the cases are sorted by.
        subjects: of the cases of both sets.
        n_folds: at most; each holds two subjects of each set at least.
        are_paired: whether subjects of the same name in both sets are the same people. Their cases then
            share a fold.
        seed: of the division.

    Raises:
        TooFewCasesError: for fewer than 10 subjects in a set.
    """
    order: list[int] = []
    units: list[int] = []
    names: dict[Hashable, int] = {}
    for number, (own_keys, own_subjects) in enumerate(zip(keys, subjects, strict=True)):
        if (n := len(set(own_subjects))) < MIN_SUBJECTS:
            raise TooFewCasesError(
                f"a set has {n} subjects; telling two sets apart needs at least {MIN_SUBJECTS} in each"
            )
        names_of_keys = [str(key) for key in own_keys]
        places = sorted(range(len(own_keys)), key=names_of_keys.__getitem__)
        shift = len(order)
        order += [shift + place for place in places]
        for place in places:
            name = own_subjects[place] if are_paired else (number, own_subjects[place])
            units.append(names.setdefault(name, len(names)))
    is_second = np.arange(len(order)) >= len(keys[0])
    unit = np.array(units)
    smallest = min(len(np.unique(unit[is_second == flag])) for flag in (False, True))
    fold = _assign_folds(unit, is_second, n_folds=min(n_folds, smallest // 2), seed=seed)
    return Folds(order=np.array(order), is_second=is_second, unit=unit, fold=fold)


def _assign_folds(
    unit: npt.NDArray[np.int64], is_second: Labels, *, n_folds: int, seed: int
) -> npt.NDArray[np.int64]:
    """Deal out the subjects of the first set, of the second and of both, each in turn."""
    generator = np.random.default_rng(seed)
    of_unit = np.zeros(unit.max() + 1, dtype=np.int64)
    of_first, of_second = np.unique(unit[~is_second]), np.unique(unit[is_second])
    both = np.intersect1d(of_first, of_second)
    for group in (both, np.setdiff1d(of_first, both), np.setdiff1d(of_second, both)):
        of_unit[generator.permutation(group)] = np.arange(len(group)) % n_folds
    return of_unit[unit]


def auc_within_folds(scores: Floats, folds: Folds, labellings: npt.NDArray[np.bool_]) -> Floats:
    """Return Eq. (1) for each labelling.

    Args:
        scores: (N + M,) of the held-out cases, or (P, N + M) where each labelling has its own; higher means
            more likely of the second set.
        folds: of the cases.
        labellings: (P, N + M) whether each case counts as of the second set.
    """
    rows = np.atleast_2d(scores)
    wins, pairs = np.zeros(len(labellings)), np.zeros(len(labellings))
    for fold in range(folds.n_folds):
        inside = folds.fold == fold
        own, second = rows[:, inside], labellings[:, inside].astype(np.float64)
        above = (own[:, :, None] > own[:, None, :]) + 0.5 * (own[:, :, None] == own[:, None, :])
        lost = np.matmul(above, (1 - second)[:, :, None])[:, :, 0]
        wins += (second * lost).sum(axis=1)
        pairs += second.sum(axis=1) * (1 - second).sum(axis=1)
    return wins / np.maximum(pairs, 1)


def draw_labellings(folds: Folds, *, n_permutations: int, seed: int) -> Labels:
    """Return the observed labelling and random ones (P + 1, N + M) that are as likely where the sets agree.

    Within each fold the labels of subjects are permuted; a subject with cases in both sets may have them
    exchanged.
    """
    generator = np.random.default_rng(seed)
    labels = np.repeat(folds.is_second[None], n_permutations + 1, axis=0)
    for fold in range(folds.n_folds):
        inside = np.flatnonzero(folds.fold == fold)
        units, of_case = np.unique(folds.unit[inside], return_inverse=True)
        own = folds.is_second[inside]
        share = np.array([own[of_case == number].mean() for number in range(len(units))])
        is_both = (share > 0) & (share < 1)
        flips = (generator.random((n_permutations, len(units))) < 0.5) & is_both
        drawn = np.repeat(share[None] == 1, n_permutations, axis=0)
        drawn[:, ~is_both] = generator.permuted(drawn[:, ~is_both], axis=1)
        labels[1:, inside] = np.where(is_both[of_case], own ^ flips[:, of_case], drawn[:, of_case])
    return labels


def auc_interval(auc: float, n_subjects: tuple[int, int], *, level: float = 0.95) -> Estimate:
    """Return the interval of a cross-validated AUC; it has a width at 0 and at 1 as well.

    Its ends are the AUCs theta from which the observed one lies z standard deviations away,
    |theta - AUC| = z V(theta)^(1/2), with the variance of Hanley and McNeil and (2) as half the cases.

    Args:
        auc: of Eq. (1).
        n_subjects: in each set.
        level: of confidence.

    Source: Newcombe 2006, Confidence intervals for an effect size measure based on the Mann-Whitney
    statistic, Part 2, Method 5.
    """
    n, m = (count / VARIANCE_OF_FOLDS for count in n_subjects)
    z = float(norm.ppf((1 + level) / 2))
    middle = (n + m) / 2 - 1

    def excess(theta: float) -> float:
        spread = 1 + middle * ((1 - theta) / (2 - theta) + theta / (1 + theta))
        return abs(theta - auc) - z * math.sqrt(theta * (1 - theta) * spread / (n * m))

    # At 0 and 1 the variance is 0 and the observed value itself a root, not the one that is meant.
    near = 1e-9
    lower = 0.0 if auc <= near else float(brentq(excess, 0.0, auc - near))
    upper = 1.0 if auc >= 1 - near else float(brentq(excess, auc + near, 1.0))
    return Estimate(value=auc, lower=lower, upper=upper, level=level, n_subjects=n_subjects)


def held_out_test(
    scores: npt.ArrayLike, folds: Folds, *, n_permutations: int = 9999, seed: int = 0
) -> ClassifierTest:
    """Judge held-out scores of classifiers that are too dear to be trained again.

    The p-value is of the hypothesis that the scores of a fold's cases, given the classifier that other cases
    made, are exchangeable between the sets. Labels are permuted within folds; the permuted AUCs are spread
    about 0.5 by the root of (2), since a new labelling would have made other classifiers.

    Args:
        scores: (N + M,) in the order of the folds, finite.
        folds: of the cases.
        n_permutations: random relabellings.
        seed: of the relabellings.

    Raises:
        ValueError: for scores that do not fit or are not finite.
    """
    array = np.asarray(scores, dtype=np.float64)
    if array.shape != folds.fold.shape or not np.isfinite(array).all():
        raise ValueError(
            f"scores of shape {array.shape} are given; {folds.fold.shape} finite ones are needed, one a case"
        )
    labellings = draw_labellings(folds, n_permutations=n_permutations, seed=seed)
    values = auc_within_folds(array, folds, labellings)
    spread = 0.5 + math.sqrt(VARIANCE_OF_FOLDS) * (values[1:] - 0.5)
    return _result(np.concatenate([values[:1], spread]), folds)


def linear_test(
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    folds: Folds,
    *,
    n_permutations: int = 1999,
    seed: int = 0,
) -> ClassifierTest:
    """Test two sets of features by a regularised linear classifier, trained again for each relabelling.

    The p-value is exact: folds are kept, labels are permuted within them, and everything is done again.

    Args:
        first: (N, D) features.
        second: (M, D).
        folds: of the cases.
        n_permutations: random relabellings.
        seed: of the relabellings.

    Raises:
        ValueError: for features that do not fit.
    """
    features = np.concatenate(check_two_sets(first, second))[folds.order]
    labellings = draw_labellings(folds, n_permutations=n_permutations, seed=seed)
    values = [
        auc_within_folds(_linear_scores(features, folds, part), folds, part)
        for part in np.array_split(labellings, max(len(labellings) // 200, 1))
    ]
    return _result(np.concatenate(values), folds)


def _linear_scores(features: Floats, folds: Folds, labellings: Labels) -> Floats:
    """Return the held-out scores (P, N + M) of each labelling's own classifiers."""
    scores = np.zeros(labellings.shape)
    for fold in range(folds.n_folds):
        inside = folds.fold == fold
        known = labellings[:, ~inside].astype(np.float64)
        predict = ridge_predictor(features[~inside], features[inside])
        scores[:, inside] = (known - known.mean(axis=1, keepdims=True)) @ predict.T
    return scores


def _result(values: Floats, folds: Folds) -> ClassifierTest:
    """Turn the observed AUC and those of relabellings into a result."""
    # Rounding must not make an equal labelling seem smaller than the observed one.
    p_value = float((values >= values[0] - 1e-12).mean())
    auc = auc_interval(float(values[0]), folds.n_subjects)
    return ClassifierTest(auc=auc, p_value=p_value, n_folds=folds.n_folds)
