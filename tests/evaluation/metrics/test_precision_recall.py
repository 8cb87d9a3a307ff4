"""Precision, recall, density and coverage in cases whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from medldm.evaluation.errors import TooFewCasesError
from medldm.evaluation.metrics.precision_recall import (
    expected_coverage,
    manifold_estimates,
    measure_manifolds,
    neighbour_radii,
    score_interval,
)
from tests.evaluation.measures import mean_manifold_scores


def modes(n: int, *, which: range, seed: int, sd: float = 1.0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    centres = 30 * np.eye(5)[generator.permutation(np.resize(list(which), n))]
    return centres + sd * generator.normal(size=(n, 5))


def test_radii_are_those_found_by_sorting() -> None:
    points = np.random.default_rng(0).normal(size=(12, 3))
    expected = [np.sort(np.linalg.norm(points - point, axis=1))[4] for point in points]
    assert neighbour_radii(points, k=4) == pytest.approx(expected)


def test_identical_sets_have_all_scores_one() -> None:
    points = modes(100, which=range(5), seed=1)
    means = mean_manifold_scores(points, points)
    assert means["precision"] == means["recall"] == means["coverage"] == 1.0
    assert means["density"] >= 1.0


def test_two_samples_of_one_distribution_score_near_one() -> None:
    means = mean_manifold_scores(modes(250, which=range(5), seed=2), modes(250, which=range(5), seed=3))
    assert means["precision"] > 0.8 and means["recall"] > 0.8 and means["coverage"] > 0.9
    assert means["density"] == pytest.approx(1.0, abs=0.15)


def test_collapse_to_one_of_five_modes_keeps_precision_and_loses_recall() -> None:
    real = modes(250, which=range(5), seed=4)
    whole_mode = mean_manifold_scores(real, modes(250, which=range(1), seed=5))
    assert whole_mode["precision"] > 0.75
    assert whole_mode["recall"] <= 0.2 and whole_mode["coverage"] <= 0.2
    narrow = mean_manifold_scores(real, modes(250, which=range(1), seed=6, sd=0.05))
    assert narrow["precision"] > 0.9
    assert narrow["recall"] < 0.02 and narrow["coverage"] < 0.1


def test_far_sets_score_zero() -> None:
    real = modes(60, which=range(5), seed=7)
    assert set(mean_manifold_scores(real, real + 500).values()) == {0.0}


def test_an_outlier_in_the_real_set_inflates_precision_but_not_density() -> None:
    generator = np.random.default_rng(8)
    real = np.concatenate([generator.normal(size=(100, 2)), [[40.0, 40.0]]])
    synthetic = generator.normal(size=(100, 2)) + 20
    means = mean_manifold_scores(real, synthetic)
    assert means["precision"] > 0.9
    assert means["density"] < 0.3


def test_too_few_cases_for_the_neighbours_are_refused() -> None:
    with pytest.raises(TooFewCasesError, match="5 cases; 5 neighbours of each need at least 6"):
        measure_manifolds(np.eye(5), np.eye(5))
    with pytest.raises(ValueError, match="k is 0"):
        neighbour_radii(np.eye(5), k=0)


def test_expected_coverage_is_that_of_samples_of_one_distribution() -> None:
    generator = np.random.default_rng(9)
    for n, m in ((30, 30), (40, 15)):
        found = [
            mean_manifold_scores(generator.normal(size=(n, 3)), generator.normal(size=(m, 3)))["coverage"]
            for _ in range(300)
        ]
        assert np.mean(found) == pytest.approx(expected_coverage(n, m), abs=0.01)


SETTINGS = {
    "same": lambda g: (g.normal(size=(60, 4)), g.normal(size=(60, 4))),
    "shifted": lambda g: (g.normal(size=(60, 4)), g.normal(size=(60, 4)) + 0.8),
    "apart": lambda g: (g.normal(size=(60, 4)), g.normal(size=(60, 4)) + 1.6),
    "narrow": lambda g: (g.normal(size=(60, 4)), 0.4 * g.normal(size=(60, 4))),
}


@pytest.mark.parametrize("setting", list(SETTINGS))
def test_intervals_cover_the_mean_score_of_such_samples(setting: str) -> None:
    """Resampling the scores of the cases alone would cover in 51 to 67 % of some of these."""
    generator = np.random.default_rng(0)
    names = (range(60), range(60))
    truth = {name: [] for name in ("precision", "recall", "density", "coverage")}
    for _ in range(300):
        for name, value in mean_manifold_scores(*SETTINGS[setting](generator)).items():
            truth[name].append(value)
    covered = {name: 0 for name in truth}
    for seed in range(50):
        found = manifold_estimates(*SETTINGS[setting](generator), subjects=names, n_halves=40, seed=seed)
        for name, each in found.items():
            covered[name] += each.lower <= np.mean(truth[name]) <= each.upper
    assert min(covered.values()) >= 0.84 * 50, covered


def test_intervals_have_a_width_where_every_case_scores_alike() -> None:
    points = modes(60, which=range(5), seed=10)
    far = manifold_estimates(points, points + 500, subjects=(range(60), range(60)))
    for each in far.values():
        assert each.value == each.lower == 0.0 and 0.05 < each.upper < 0.2
    equal = manifold_estimates(points, points, subjects=(range(60), range(60)))
    for name in ("precision", "recall", "coverage"):
        assert equal[name].value == equal[name].upper == 1.0 and 0.8 < equal[name].lower < 0.95


def test_wilsons_interval_at_the_ends_is_the_closed_form() -> None:
    z = 1.959963984540054
    interval = score_interval(0.0, (60, 60), variance=0.0, is_share=True)
    assert interval.upper == pytest.approx(z**2 / (30 + z**2))
    interval = score_interval(0.3, (60, 60), variance=0.21 / 12, is_share=True)
    centre, half = (0.3 + z**2 / 24) / (1 + z**2 / 12), z / (1 + z**2 / 12) * np.sqrt(0.21 / 12 + z**2 / 576)
    assert (interval.lower, interval.upper) == pytest.approx((centre - half, centre + half))


def test_a_case_is_no_neighbour_of_its_own_origin() -> None:
    """Cases far from each other, and made ones next to their origins."""
    points = 100 * np.random.default_rng(11).normal(size=(60, 60))
    free = mean_manifold_scores(points, points + 0.01)
    assert free["precision"] == free["coverage"] == 1.0
    paired = {
        name: each.mean()
        for name, each in vars(measure_manifolds(points, points + 0.01, are_paired=True)).items()
    }
    independent = mean_manifold_scores(points, 100 * np.random.default_rng(12).normal(size=(60, 60)))
    assert paired["density"] == pytest.approx(independent["density"], abs=0.25)
    with pytest.raises(ValueError, match="60 real and 59 synthetic cases are no pairs"):
        measure_manifolds(points, points[1:], are_paired=True)


def test_few_subjects_are_refused_by_name() -> None:
    points = modes(80, which=range(5), seed=13)
    with pytest.raises(TooFewCasesError, match=r"40 cases in the smallest set; .* at least 50 of each"):
        manifold_estimates(points, points, subjects=(range(80), [n // 2 for n in range(80)]))
