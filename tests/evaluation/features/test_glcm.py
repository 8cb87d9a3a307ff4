"""Co-occurrence against counting by hand, and features against PyRadiomics and closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from medldm.evaluation.features.glcm import DIRECTIONS, co_occurrence, glcm_features

# radiomics.glcm of PyRadiomics 3.0.1, binCount 8, on the volume of `grey_volume`.
PYRADIOMICS = {
    "Autocorrelation": 20.83901048277998,
    "ClusterProminence": 249.39616874498458,
    "ClusterShade": -0.18818691923413192,
    "ClusterTendency": 10.084827776147794,
    "Contrast": 10.747108077011326,
    "Correlation": -0.03185335206686078,
    "DifferenceAverage": 2.7112171131511644,
    "DifferenceEntropy": 2.7532453781813038,
    "DifferenceVariance": 3.3190479685861103,
    "Id": 0.3732161897906184,
    "Idm": 0.27889652272652554,
    "Idmn": 0.8747578025536017,
    "Idn": 0.7689056391578695,
    "Imc1": -0.051484914030291165,
    "Imc2": 0.47983989553051437,
    "InverseVariance": 0.2759590824988494,
    "JointAverage": 4.582974900202957,
    "JointEnergy": 0.01921335637662869,
    "JointEntropy": 5.814086218859446,
    "MCC": 0.2686673116107266,
    "MaximumProbability": 0.03266943995935386,
    "SumEntropy": 3.6297005616960027,
}


def grey_volume() -> np.ndarray:
    i, j, k = np.indices((9, 11, 7))
    image = ((i * 7 + j * 13 + k * 29 + i * j * k + i * i * k) % 61) + 0.25 * i
    inside = (i - 4) ** 2 / 20 + (j - 5) ** 2 / 26 + (k - 3) ** 2 / 10 <= 1
    edges = np.linspace(0.5, 61.75, 9)
    return np.where(inside, np.digitize(image, edges).clip(1, 8), 0)


def test_features_are_those_of_pyradiomics() -> None:
    assert glcm_features(co_occurrence(grey_volume(), n_levels=8)) == pytest.approx(PYRADIOMICS, rel=1e-9)


def test_thirteen_directions_and_their_opposites_are_all_neighbours() -> None:
    both = set(DIRECTIONS) | {(-x, -y, -z) for x, y, z in DIRECTIONS}
    assert len(DIRECTIONS) == 13 and len(both) == 26


def test_counts_are_those_of_a_loop_over_pairs() -> None:
    levels = np.random.default_rng(0).integers(0, 4, (4, 3, 5))
    found = co_occurrence(levels, n_levels=3)
    for matrix, direction in zip(found, DIRECTIONS, strict=True):
        counts = np.zeros((3, 3))
        for here in np.ndindex(*levels.shape):
            there = tuple(np.add(here, direction))
            if (
                all(0 <= a < n for a, n in zip(there, levels.shape, strict=True))
                and levels[here] * levels[there]
            ):
                counts[levels[here] - 1, levels[there] - 1] += 1
                counts[levels[there] - 1, levels[here] - 1] += 1
        assert matrix == pytest.approx(counts / counts.sum())


def test_flat_region_has_its_conventional_values() -> None:
    features = glcm_features(co_occurrence(np.ones((3, 3, 3), dtype=int), n_levels=4))
    ones = {"Autocorrelation", "JointAverage", "Correlation", "JointEnergy", "MaximumProbability", "MCC"}
    ones |= {"Id", "Idm", "Idn", "Idmn"}
    assert features == pytest.approx({name: float(name in ones) for name in features}, abs=1e-12)


def test_alternating_planes_have_closed_form_contrast() -> None:
    levels = np.broadcast_to(np.array([1, 2] * 3)[:, None, None], (6, 5, 4))
    p = co_occurrence(levels, n_levels=2)
    contrast = {d: float(each[0, 1] + each[1, 0]) for d, each in zip(DIRECTIONS, p, strict=True)}
    assert contrast == pytest.approx({d: float(d[0] != 0) for d in DIRECTIONS})


def test_directions_without_room_are_left_out() -> None:
    levels = np.ones((1, 4, 1), dtype=int)
    assert co_occurrence(levels, n_levels=2).shape == (1, 2, 2)
    with pytest.raises(ValueError, match="no two voxels of the region are neighbours"):
        co_occurrence(np.ones((1, 1, 1), dtype=int), n_levels=2)
    with pytest.raises(ValueError, match="from 0 to 2 is needed"):
        co_occurrence(3 * levels, n_levels=2)
