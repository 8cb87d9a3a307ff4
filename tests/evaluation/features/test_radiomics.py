"""Radiomics features against PyRadiomics, Parseval's theorem and closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from medldm.evaluation.features.radiomics import (
    first_order_features,
    grey_levels,
    haar_bands,
    radiomics_features,
    wavelet_energies,
)
from tests.evaluation.measures import radiomics_table

# radiomics.firstorder of PyRadiomics 3.0.1, binCount 8.
PYRADIOMICS = {
    "10Percentile": 7.5,
    "90Percentile": 56.25,
    "Entropy": 2.985413018681627,
    "InterquartileRange": 28.5,
    "Kurtosis": 1.8265239628696657,
    "Maximum": 61.75,
    "MeanAbsoluteDeviation": 15.155296299157845,
    "Mean": 31.82059800664452,
    "Median": 30.75,
    "Minimum": 0.5,
    "Range": 61.25,
    "RobustMeanAbsoluteDeviation": 12.245498521902714,
    "RootMeanSquared": 36.31738781640702,
    "Skewness": -0.021328835710496766,
    "Uniformity": 0.12751514883941678,
    "Variance": 306.40220030683986,
}


def make_volume() -> tuple[np.ndarray, np.ndarray]:
    i, j, k = np.indices((9, 11, 7))
    image = ((i * 7 + j * 13 + k * 29 + i * j * k + i * i * k) % 61) + 0.25 * i
    return image, (i - 4) ** 2 / 20 + (j - 5) ** 2 / 26 + (k - 3) ** 2 / 10 <= 1


def test_first_order_features_are_those_of_pyradiomics() -> None:
    image, mask = make_volume()
    levels = grey_levels(image, mask, n_bins=8, limits=None)
    assert first_order_features(image[mask], levels[mask]) == pytest.approx(PYRADIOMICS, rel=1e-10)


def test_whole_vector_holds_first_order_texture_and_wavelets_of_the_mask() -> None:
    image, mask = make_volume()
    features = radiomics_features(image, mask, n_bins=8)
    assert features["first_order_Variance"] == pytest.approx(PYRADIOMICS["Variance"])
    assert features["glcm_Contrast"] == pytest.approx(10.747108077011326)
    assert len(features) == 16 + 22 + 2 * 7 + 1
    assert all(np.isfinite(value) for value in features.values())


def test_fixed_limits_let_texture_see_gain_and_own_range_hides_it() -> None:
    image, _ = make_volume()
    fixed = [radiomics_features(each, limits=(0, 200))["glcm_Contrast"] for each in (image, 3 * image)]
    own = [radiomics_features(each)["glcm_Contrast"] for each in (image, 3 * image)]
    assert fixed[1] > 5 * fixed[0]
    assert own[1] == pytest.approx(own[0])


def test_voxels_beyond_the_limits_count_to_the_outer_levels() -> None:
    image = np.array([[[-5.0, 0.0, 0.99, 1.0, 2.0, 9.0]]])
    levels = grey_levels(image, np.ones(image.shape, dtype=bool), n_bins=2, limits=(0.0, 2.0))
    assert levels.ravel().tolist() == [1, 1, 1, 2, 2, 2]


def test_haar_bands_keep_the_energy() -> None:
    volume = np.random.default_rng(0).normal(size=(8, 6, 10))
    bands = haar_bands(volume)
    assert sorted(bands) == sorted(a + b + c for a in "LH" for b in "LH" for c in "LH")
    assert sum((band**2).sum() for band in bands.values()) == pytest.approx((volume**2).sum())


def test_stripes_along_an_axis_lie_in_that_axis_high_band_alone() -> None:
    for axis, name in enumerate(("HLL", "LHL", "LLH")):
        stripes = (np.indices((8, 8, 8))[axis] % 2).astype(float)
        energies = wavelet_energies(stripes, n_levels=2)
        # Coefficients (0 - 1) / sqrt(2), times sqrt(2) for each of the two smooth axes.
        assert energies[f"1_{name}"] == pytest.approx(np.log10(2.0))
        assert {k for k, v in energies.items() if v > -12} == {f"1_{name}"}


def test_white_noise_has_the_same_energy_in_every_band() -> None:
    energies = wavelet_energies(2 * np.random.default_rng(1).normal(size=(32, 32, 32)))
    assert list(energies.values()) == pytest.approx(np.full(15, np.log10(4)), abs=0.08)


def test_odd_shapes_and_several_volumes_give_one_table() -> None:
    volumes = [np.random.default_rng(seed).normal(size=(7, 9, 5)) for seed in range(3)]
    table, names = radiomics_table(volumes, limits=(-3, 3))
    assert table.shape == (3, len(names)) and len(set(names)) == len(names)
    assert table[1].tolist() == list(radiomics_features(volumes[1], limits=(-3, 3)).values())


def test_flat_volume_has_finite_features() -> None:
    assert all(np.isfinite(value) for value in radiomics_features(np.full((6, 6, 6), 3.0)).values())


def test_bad_input_is_refused() -> None:
    image, mask = make_volume()
    with pytest.raises(ValueError, match="a mask of that shape that is not empty"):
        radiomics_features(image, np.zeros(image.shape))
    with pytest.raises(ValueError, match="limits in order"):
        radiomics_features(image, mask, limits=(1.0, 1.0))
    with pytest.raises(ValueError, match="3 levels for a volume"):
        wavelet_energies(image, n_levels=3)
