"""Every fidelity measure puts another half of the real set far below blurred volumes and far below noise."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from medldm.evaluation.features.space import FeatureSpace, fit_feature_space
from medldm.evaluation.metrics.frechet import extrapolated_frechet_distance, frechet_distance
from medldm.evaluation.metrics.histograms import stack_quantiles
from medldm.evaluation.metrics.kernel_distance import mmd_permutation_test
from medldm.evaluation.metrics.spectrum import power_of_cases, spectral_distance
from tests.evaluation.measures import (
    histogram_distance,
    kernel_inception_distance,
    mean_manifold_scores,
    radiomics_table,
)

Volumes = list[np.ndarray]
N = 30
SETS = ("half", "other_half", "blurred", "noise")


@pytest.fixture(scope="module")
def volumes() -> dict[str, Volumes]:
    """A bright ellipsoid of varying size and grey in a dark, textured surround."""
    generator = np.random.default_rng(0)
    real = []
    for _ in range(2 * N):
        radii = generator.uniform(3.5, 5.5, 3)
        inside = (
            sum(((axis - 7.5) / r) ** 2 for axis, r in zip(np.indices((16, 16, 16)), radii, strict=True)) <= 1
        )
        texture = gaussian_filter(generator.normal(size=inside.shape), 0.6)
        real.append(generator.normal(100, 5) * inside + 30 * texture)
    sets = {"half": real[:N], "other_half": real[N:], "blurred": [gaussian_filter(v, 1.0) for v in real[N:]]}
    sets["noise"] = [generator.normal(v.mean(), v.std(), v.shape) for v in real[N:]]
    return sets


@pytest.fixture(scope="module")
def space_and_features(volumes: dict[str, Volumes]) -> tuple[FeatureSpace, dict[str, np.ndarray]]:
    raw = {name: radiomics_table(volumes[name], n_bins=16, limits=(-100, 200))[0] for name in SETS}
    return fit_feature_space(raw["half"]), raw


@pytest.mark.parametrize(
    "distance",
    [
        frechet_distance,
        extrapolated_frechet_distance,
        kernel_inception_distance,
        lambda a, b: mmd_permutation_test(a, b, bandwidth=20.0, n_permutations=1).squared_mmd,
    ],
    ids=["frechet", "frechet_infinity", "kid", "mmd"],
)
def test_feature_distances(
    space_and_features: tuple[FeatureSpace, dict[str, np.ndarray]], distance: Callable[..., float]
) -> None:
    space, raw = space_and_features
    reduced = {name: space.reduce(raw[name], 5) for name in SETS}
    half, blurred, noise = (distance(reduced["half"], reduced[name]) for name in SETS[1:])
    assert abs(half) < 0.1 * min(blurred, noise)


def test_manifold_scores(space_and_features: tuple[FeatureSpace, dict[str, np.ndarray]]) -> None:
    space, raw = space_and_features
    reduced = {name: space.reduce(raw[name], 5) for name in SETS}
    half, *damaged = (mean_manifold_scores(reduced["half"], reduced[name]) for name in SETS[1:])
    assert min(half.values()) > 0.6
    for scores in damaged:
        assert max(scores.values()) < 0.1


def test_spectral_distance(volumes: dict[str, Volumes]) -> None:
    power = {name: power_of_cases(volumes[name], (1.0, 1.0, 1.0), n_shells=8) for name in SETS}
    half, blurred, noise = (spectral_distance(power["half"], power[name]) for name in SETS[1:])
    assert half < 0.1 * min(blurred, noise)


def test_histogram_distance_of_a_tissue(volumes: dict[str, Volumes]) -> None:
    labels = {name: [v > 50 for v in volumes["other_half" if name != "half" else "half"]] for name in SETS}
    quantiles = {
        name: stack_quantiles(list(zip(volumes[name], labels[name], strict=True)), structure=1)
        for name in SETS
    }
    half, blurred, noise = (histogram_distance(quantiles["half"], quantiles[name]) for name in SETS[1:])
    assert half < 0.4 * blurred
    assert blurred < 0.5 * noise
