"""The Frechet distance against closed forms, and its bias in small samples."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import sqrtm
from scipy.stats import ortho_group

from medldm.evaluation.errors import TooFewCasesError
from medldm.evaluation.metrics.frechet import (
    extrapolated_frechet_distance,
    frechet_distance,
    gaussian_frechet_distance,
)


def test_commuting_covariances_give_the_closed_form() -> None:
    rotation = ortho_group.rvs(7, random_state=0)
    a, b = np.array([4.0, 1, 0.25, 9, 2, 0, 1e-6]), np.array([1.0, 1, 4, 16, 0.5, 3, 1e6])
    mean_a, mean_b = np.arange(7.0), np.full(7, 0.5)
    expected = ((mean_a - mean_b) ** 2).sum() + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    found = gaussian_frechet_distance(mean_a, rotation * a @ rotation.T, mean_b, rotation * b @ rotation.T)
    assert found == pytest.approx(expected, rel=1e-8)


def test_general_covariances_agree_with_the_matrix_root_of_the_product() -> None:
    generator = np.random.default_rng(1)
    x, y = generator.normal(size=(2, 6, 12))
    a, b = x @ x.T / 12, y @ y.T / 12
    expected = np.trace(a) + np.trace(b) - 2 * np.trace(sqrtm(a @ b)).real
    assert gaussian_frechet_distance(np.zeros(6), a, np.zeros(6), b) == pytest.approx(expected, abs=1e-8)


def test_a_singular_covariance_has_distance_zero_to_itself() -> None:
    x = np.random.default_rng(2).normal(size=(3, 8))
    covariance = x.T @ x
    assert gaussian_frechet_distance(np.zeros(8), covariance, np.zeros(8), covariance) < 1e-8


def test_distance_is_symmetric_and_invariant_to_rotation() -> None:
    generator = np.random.default_rng(3)
    a, b = generator.normal(size=(60, 5)), 2 * generator.normal(size=(70, 5)) + 1
    rotation = ortho_group.rvs(5, random_state=1)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a))
    assert frechet_distance(a @ rotation, b @ rotation) == pytest.approx(frechet_distance(a, b))


def test_weights_count_cases_like_copies_of_rows() -> None:
    generator = np.random.default_rng(4)
    a, b = generator.normal(size=(30, 3)), generator.normal(size=(25, 3))
    w = generator.integers(0, 3, 30)
    expected = frechet_distance(np.repeat(a, w, axis=0), b)
    assert frechet_distance(a, b, weights=(w, None)) == pytest.approx(expected)


def test_extrapolation_takes_away_most_of_the_bias_of_small_samples() -> None:
    generator = np.random.default_rng(5)
    n_features, plain, extrapolated = 12, [], []
    for seed in range(12):
        a, b = generator.normal(size=(2, 80, n_features))
        b[:, 0] += 1.0
        plain.append(frechet_distance(a, b) - 1.0)
        extrapolated.append(extrapolated_frechet_distance(a, b, seed=seed) - 1.0)
    assert np.mean(plain) > 0.4
    assert abs(np.mean(extrapolated)) < 0.25 * np.mean(plain)


def test_fewer_than_five_cases_a_feature_are_refused_unless_forced() -> None:
    a = np.random.default_rng(6).normal(size=(49, 10))
    for measure in (frechet_distance, extrapolated_frechet_distance):
        with pytest.raises(TooFewCasesError, match=r"49 cases for 10 features.*50 here"):
            measure(a, a)
    assert np.isfinite(frechet_distance(a, a, force=True))


def test_what_is_no_covariance_is_refused() -> None:
    with pytest.raises(ValueError, match="not symmetric"):
        gaussian_frechet_distance(np.zeros(2), np.array([[1.0, 1], [0, 1]]), np.zeros(2), np.eye(2))
    with pytest.raises(ValueError, match="eigenvalue -1"):
        gaussian_frechet_distance(np.zeros(2), np.diag([1.0, -1]), np.zeros(2), np.eye(2))
    with pytest.raises(ValueError, match=r"\(D,\) and \(D, D\) are needed"):
        gaussian_frechet_distance(np.zeros(3), np.eye(2), np.zeros(3), np.eye(2))
