"""The ridge classifier against its normal equations."""

from __future__ import annotations

import numpy as np
import pytest

from medldm.evaluation.metrics.ridge import ridge_predictor


def test_ridge_predictor_is_the_solution_of_the_normal_equations_with_the_wanted_freedom() -> None:
    generator = np.random.default_rng(0)
    known, asked = generator.normal(size=(50, 30)), generator.normal(size=(7, 30))
    matrix = ridge_predictor(known, asked, share_of_freedom=0.2)
    labels = generator.normal(size=50)
    labels -= labels.mean()

    def standard(each: np.ndarray) -> np.ndarray:
        z = np.clip((each - known.mean(0)) / known.std(0), -4, 4)
        return np.hstack([z, z**2])

    x, new = standard(known), standard(asked)
    x, new = (x - x.mean(0)) / x.std(0), (new - x.mean(0)) / x.std(0)
    smoother = ridge_predictor(known, known, share_of_freedom=0.2)
    assert np.trace(smoother) == pytest.approx(10, rel=1e-6)
    values = np.linalg.svd(x, compute_uv=False) ** 2
    penalties = np.geomspace(1e-3, 1e6, 4000)
    freedom = np.array([(values / (values + each)).sum() for each in penalties])
    penalty = penalties[np.abs(freedom - 10).argmin()]
    weights = np.linalg.solve(x.T @ x + penalty * np.eye(60), x.T @ labels)
    assert matrix @ labels == pytest.approx(new @ weights, abs=0.01)


def test_features_that_do_not_vary_are_left_out() -> None:
    generator = np.random.default_rng(1)
    known, asked = generator.normal(size=(30, 4)), generator.normal(size=(5, 4))
    known[:, 2], asked[:, 2] = 7.0, 9.0
    kept = [0, 1, 3]
    assert ridge_predictor(known, asked) == pytest.approx(ridge_predictor(known[:, kept], asked[:, kept]))
