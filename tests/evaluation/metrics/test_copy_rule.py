"""The rule that fails a cohort: clean cohorts pass, one true copy does not."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import hypergeom

from medldm.evaluation.metrics.copy_rule import RULE, excess_p_value, lone_copy_threshold
from medldm.evaluation.metrics.copy_search import search_copies


def draw_best(generator: np.random.Generator, n: int, *, kind: str) -> np.ndarray:
    """Similarities (n, 1) of new volumes to the nearest of 180 training volumes."""
    if kind == "normal":
        return np.tanh(generator.normal(0.2, 0.12, size=(n, 180)).max(axis=1, keepdims=True))
    if kind == "gumbel":
        return np.tanh(0.5 + 0.05 * generator.gumbel(size=(n, 1)))
    return 0.3 + 0.3 * generator.beta(2, 5, size=(n, 1))


@pytest.mark.parametrize("kind", ["normal", "gumbel", "bounded"])
@pytest.mark.parametrize(("n_test", "n_synthetic"), [(20, 20), (20, 200), (100, 200)])
def test_clean_cohorts_pass_in_at_least_99_of_100_runs(kind: str, n_test: int, n_synthetic: int) -> None:
    generator = np.random.default_rng(1)
    n_runs = 600
    fails = sum(
        search_copies(
            draw_best(generator, n_synthetic, kind=kind), draw_best(generator, n_test, kind=kind)
        ).fails
        for _ in range(n_runs)
    )
    # 1 % of 600 runs, and three standard deviations.
    assert fails <= 6 + 3 * np.sqrt(6)


def test_a_plain_binomial_count_would_fail_clean_cohorts() -> None:
    """What the rule replaces: the count alone is above 0 in most clean cohorts."""
    generator = np.random.default_rng(2)
    found = [
        search_copies(draw_best(generator, 200, kind="normal"), draw_best(generator, 100, kind="normal"))
        for _ in range(100)
    ]
    assert np.mean([bool(each.copies) for each in found]) > 0.7
    assert np.mean([each.fails for each in found]) <= 0.04


@pytest.mark.parametrize("n_test", [20, 100])
def test_one_true_copy_among_200_fails_the_cohort(n_test: int) -> None:
    generator = np.random.default_rng(3)
    for similarity in (0.93, 0.97):
        synthetic = draw_best(generator, 200, kind="normal")
        synthetic[17] = similarity
        found = search_copies(synthetic, draw_best(generator, n_test, kind="normal"))
        assert found.beyond == (17,) and found.fails


def test_too_many_near_volumes_fail_the_cohort_without_any_far_one() -> None:
    generator = np.random.default_rng(4)
    test = draw_best(generator, 100, kind="normal")
    synthetic = draw_best(generator, 200, kind="normal")
    synthetic[:20] = test.max() + 0.01
    found = search_copies(synthetic, test)
    assert not found.beyond and found.fails and found.p_value < 0.002


def test_chance_of_the_count_is_the_predictive_law_of_an_order_statistic() -> None:
    """By ranks: among the N + M places the test volumes' j-th is as likely to be any."""
    n_test, n_synthetic, quantile = 25, 40, 0.95
    place = 23
    for n_above in (0, 1, 4, 11):
        # At least n_above synthetic volumes above the j-th test volume: at most j - 1 test volumes among the
        # lowest N - n_above + j - 1 of all.
        lowest = n_synthetic - n_above + place
        expected = hypergeom.sf(place - 1, n_test + n_synthetic, n_test, lowest)
        assert excess_p_value(n_above, n_synthetic, n_test, quantile=quantile) == pytest.approx(expected)


def test_lone_threshold_grows_with_the_cohort_and_the_spread() -> None:
    best = draw_best(np.random.default_rng(5), 50, kind="normal")[:, 0]
    small, large = (lone_copy_threshold(best, n, level=0.0025) for n in (20, 2000))
    assert best.max() < small < large < 1
    assert lone_copy_threshold(best, 200, level=1e-4) > lone_copy_threshold(best, 200, level=0.01)
    assert lone_copy_threshold(np.full(30, 0.5), 200, level=0.0025) == pytest.approx(0.5)


def test_rule_is_stated_in_one_sentence_and_bad_input_is_refused() -> None:
    assert RULE.endswith("100 evaluations.") and RULE.count(". ") == 0
    with pytest.raises(ValueError, match="7 of 5 volumes"):
        excess_p_value(7, 5, 20, quantile=0.99)
    with pytest.raises(ValueError, match="at least 2 volumes"):
        lone_copy_threshold([0.5], 10, level=0.01)
    with pytest.raises(ValueError, match=r"level 0\.7"):
        lone_copy_threshold([0.5, 0.4], 10, level=0.7)
