"""The classifier two-sample test: folds, size and power, and its interval's coverage by simulation."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from scipy.stats import mannwhitneyu, norm

from medldm.evaluation.errors import TooFewCasesError
from medldm.evaluation.metrics.classifier_test import (
    ClassifierTest,
    Folds,
    auc_interval,
    auc_within_folds,
    draw_labellings,
    held_out_test,
    linear_test,
    make_folds,
)


def folds_of(n: int, m: int, *, seed: int = 0, n_folds: int = 5) -> Folds:
    return make_folds((range(n), range(m)), (range(n), range(m)), n_folds=n_folds, seed=seed)


def draw_sets(seed: int, n: int, m: int, *, shift: float = 0.0, d: int = 6) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    return generator.normal(size=(n, d)), generator.normal(size=(m, d)) + shift


def run(seed: int, n: int, m: int, *, shift: float = 0.0, n_permutations: int = 1) -> ClassifierTest:
    sets = draw_sets(seed, n, m, shift=shift)
    return linear_test(*sets, folds_of(n, m, seed=seed), n_permutations=n_permutations)


def test_folds_keep_subjects_together_and_hold_both_sets_alike() -> None:
    subjects = ([n // 2 for n in range(40)], [n // 3 for n in range(90)])
    folds = make_folds((range(40), range(90)), subjects)
    for unit in np.unique(folds.unit):
        assert len(np.unique(folds.fold[folds.unit == unit])) == 1
    counts = [np.bincount(folds.fold[folds.is_second == flag]) for flag in (False, True)]
    assert np.ptp(counts[0]) == 0 and np.ptp(counts[1]) == 0
    assert folds.n_subjects == (20, 30) and folds.n_folds == 5
    assert not set(folds.unit[folds.is_second]) & set(folds.unit[~folds.is_second])


def test_pairs_share_a_fold() -> None:
    folds = make_folds((range(20), range(20)), (range(20), range(20)), are_paired=True)
    assert folds.fold[:20].tolist() == folds.fold[20:].tolist() or sorted(folds.unit) == sorted(
        [*range(20), *range(20)]
    )
    for unit in range(20):
        assert len(np.unique(folds.fold[folds.unit == unit])) == 1
        assert folds.is_second[folds.unit == unit].tolist() == [False, True]


def test_order_of_the_cases_changes_nothing() -> None:
    first, second = draw_sets(1, 30, 24, shift=0.4)
    generator = np.random.default_rng(2)
    orders = [generator.permutation(len(each)) for each in (first, second)]
    results = []
    for p, q in ((np.arange(30), np.arange(24)), orders):
        keys = ([first[place].tobytes().hex() for place in p], [second[place].tobytes().hex() for place in q])
        folds = make_folds(keys, (p.tolist(), q.tolist()))
        results.append(linear_test(first[p], second[q], folds, n_permutations=99, seed=3))
    assert results[0] == results[1]


def test_auc_within_folds_is_the_mann_whitney_statistic_of_each_fold() -> None:
    folds = folds_of(25, 40)
    scores = np.random.default_rng(0).integers(0, 6, size=65).astype(float)
    wins = pairs = 0.0
    for fold in range(5):
        own = folds.fold == fold
        y, x = scores[own & folds.is_second], scores[own & ~folds.is_second]
        wins += mannwhitneyu(y, x).statistic
        pairs += len(x) * len(y)
    found = auc_within_folds(scores, folds, folds.is_second[None])
    assert found[0] == pytest.approx(wins / pairs)


def test_scores_of_different_folds_are_never_compared() -> None:
    folds = folds_of(20, 20)
    scores = folds.is_second + 0.0
    moved = scores + 100 * folds.fold
    assert auc_within_folds(moved, folds, folds.is_second[None])[0] == 1.0


def test_equal_sets_give_one_half_with_twice_the_variance_of_independent_folds() -> None:
    aucs = np.array([run(seed, 40, 40).auc.value for seed in range(150)])
    independent = np.sqrt((8 + 8 + 1) / (12 * 8 * 8) / 5)
    assert aucs.mean() == pytest.approx(0.5, abs=0.015)
    assert aucs.std() / independent == pytest.approx(np.sqrt(2), rel=0.2)


def test_p_value_of_the_linear_test_is_exact() -> None:
    p_values = np.array([run(seed, 20, 30, n_permutations=19).p_value for seed in range(200)])
    assert (p_values <= 0.05).mean() == pytest.approx(0.05, abs=0.035)
    assert p_values.mean() == pytest.approx(0.5, abs=0.06)


def test_p_value_of_held_out_scores_does_not_call_equal_sets_different() -> None:
    """Without the doubled variance about one in ten equal sets would have p <= 0.05."""
    p_values = []
    for seed in range(200):
        folds = folds_of(30, 30, seed=seed)
        features = np.concatenate(draw_sets(seed, 30, 30))[folds.order]
        scores = np.zeros(60)
        for fold in range(5):
            own = folds.fold == fold
            known, label = features[~own], folds.is_second[~own]
            scores[own] = features[own] @ (known[label].mean(0) - known[~label].mean(0))
        p_values.append(held_out_test(scores, folds, n_permutations=99, seed=seed).p_value)
    assert (np.array(p_values) <= 0.05).mean() <= 0.085


@pytest.mark.parametrize("shift", [0.0, 0.25, 0.5, 1.2])
def test_interval_of_the_cross_validated_auc_covers(shift: float) -> None:
    results = [run(seed, 30, 30, shift=shift).auc for seed in range(120)]
    truth = float(np.mean([each.value for each in results]))
    covered = np.mean([each.lower <= truth <= each.upper for each in results])
    assert covered >= 0.92


@pytest.mark.parametrize("auc", [0.5, 0.75, 0.95, 0.995])
def test_interval_covers_the_auc_of_two_normal_distributions(auc: float) -> None:
    """Scores of one classifier, as many as stand for the folds' dependence."""
    generator = np.random.default_rng(0)
    shift = np.sqrt(2) * norm.ppf(auc)
    covered = []
    for _ in range(500):
        x, y = generator.normal(size=30), generator.normal(size=20) + shift
        found = mannwhitneyu(y, x).statistic / 600
        interval = auc_interval(found, (60, 40))
        covered.append(interval.lower <= auc <= interval.upper)
    assert np.mean(covered) >= 0.93


def test_interval_has_a_width_at_the_ends_and_shrinks_with_the_cases() -> None:
    assert auc_interval(1.0, (60, 60)).upper == 1.0
    lowers = [auc_interval(1.0, (n, n)).lower for n in (10, 20, 60, 200)]
    assert all(a < b for a, b in pairwise(lowers)) and 0.85 < lowers[2] < 0.97
    low, high = auc_interval(0.2, (30, 50)), auc_interval(0.8, (30, 50))
    assert (low.lower, low.upper) == pytest.approx((1 - high.upper, 1 - high.lower))


def test_sets_far_apart_are_told_always_and_a_narrower_one_as_well() -> None:
    assert run(0, 20, 30, shift=4.0).auc.value == 1.0
    wide, _ = draw_sets(1, 60, 60)
    narrow = 0.5 * draw_sets(2, 60, 60)[0]
    assert linear_test(wide, narrow, folds_of(60, 60), n_permutations=99).p_value == 0.01


def test_relabellings_exchange_pairs_and_keep_the_numbers_of_each_fold() -> None:
    folds = make_folds((range(12), range(12)), (range(12), range(12)), are_paired=True)
    labels = draw_labellings(folds, n_permutations=50, seed=0)
    for unit in range(12):
        assert (labels[:, folds.unit == unit].sum(axis=1) == 1).all()
    plain = folds_of(15, 25)
    labels = draw_labellings(plain, n_permutations=50, seed=0)
    for fold in range(plain.n_folds):
        counts = labels[:, plain.fold == fold].sum(axis=1)
        assert (counts == counts[0]).all()
    assert (labels[0] == plain.is_second).all() and len(np.unique(labels, axis=0)) == 51


def test_bad_input_is_refused() -> None:
    with pytest.raises(TooFewCasesError, match="9 subjects; telling two sets apart needs at least 10"):
        folds_of(9, 20)
    with pytest.raises(ValueError, match=r"\(40,\) finite ones"):
        held_out_test(np.full(40, np.nan), folds_of(20, 20))
