"""Standardisation and reduction are fitted to the training set alone."""

from __future__ import annotations

import numpy as np
import pytest

from medldm.evaluation.features.space import fit_feature_space


def make_features(n: int = 60, *, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    features = generator.normal(size=(n, 6)) @ generator.normal(size=(6, 6))
    return np.column_stack([features * [1, 1e4, 1e-4, 1, 1, 1], np.full(n, 7.0)])


def test_training_set_becomes_standard_and_constant_features_go() -> None:
    train = make_features()
    standard = fit_feature_space(train).standardise(train)
    assert standard.shape == (60, 6)
    assert standard.mean(axis=0) == pytest.approx(np.zeros(6), abs=1e-9)
    assert standard.std(axis=0) == pytest.approx(np.ones(6))


def test_units_of_the_features_do_not_matter() -> None:
    train, other = make_features(), make_features(5, seed=1)
    units = np.array([10, 1, 1e3, 0.1, 5, 1, 1])
    space, scaled = fit_feature_space(train), fit_feature_space(train * units)
    assert scaled.standardise(other * units) == pytest.approx(space.standardise(other))


def test_components_carry_variance_in_order_and_all_of_them_keep_distances() -> None:
    train = make_features()
    space = fit_feature_space(train)
    reduced = space.reduce(train, 6)
    assert (np.diff(reduced.var(axis=0)) <= 1e-9).all()
    assert np.cov(reduced.T) == pytest.approx(np.diag(reduced.var(axis=0, ddof=1)), abs=1e-9)
    standard = space.standardise(train)
    assert np.linalg.norm(reduced[0] - reduced[1]) == pytest.approx(np.linalg.norm(standard[0] - standard[1]))
    assert space.reduce(train, 99).shape == (60, 6)


def test_bad_input_is_refused() -> None:
    space = fit_feature_space(make_features())
    with pytest.raises(ValueError, match="3 features are given; the space was fitted to 7"):
        space.standardise(np.zeros((2, 3)))
    with pytest.raises(ValueError, match="n_components is 0"):
        space.reduce(make_features(), 0)
    with pytest.raises(ValueError, match="no feature varies"):
        fit_feature_space(np.ones((4, 2)))
