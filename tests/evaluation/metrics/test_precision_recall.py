"""Precision, recall, density and coverage in cases whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from medldm.evaluation.errors import TooFewCasesError
from medldm.evaluation.metrics.precision_recall import measure_manifolds, neighbour_radii
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
