"""Diversity of sets whose members are equal, alike or unrelated."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from medldm.evaluation.errors import TooFewCasesError
from medldm.evaluation.metrics.diversity import (
    case_statistics,
    choose_pairs,
    mean_over_pairs,
    pairwise_feature_distance,
    pairwise_ms_ssim,
    spread_over_cases,
)


def make_set(
    n: int, *, own: float, seed: int = 0, shape: tuple[int, int, int] = (16, 18, 15)
) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    common = gaussian_filter(generator.normal(size=shape), 2)
    return [common + own * gaussian_filter(generator.normal(size=shape), 2) for _ in range(n)]


def test_pairs_are_all_of_them_or_as_many_different_ones_as_asked() -> None:
    assert choose_pairs(4).tolist() == [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]]
    pairs = choose_pairs(50, n_pairs=30, seed=1)
    assert len({tuple(pair) for pair in pairs.tolist()}) == 30 and (pairs[:, 0] < pairs[:, 1]).all()
    with pytest.raises(TooFewCasesError, match="1 case"):
        choose_pairs(1)


def test_equal_volumes_have_similarity_one_and_a_collapsed_set_a_higher_one() -> None:
    equal = make_set(3, own=0.0)
    assert pairwise_ms_ssim(equal, choose_pairs(3), data_range=0.5) == pytest.approx(np.ones(3), abs=1e-5)
    alike, different = (
        pairwise_ms_ssim(make_set(5, own=own), choose_pairs(5), data_range=0.5).mean() for own in (0.2, 1.0)
    )
    assert alike > different + 0.2


def test_batches_do_not_change_the_similarities() -> None:
    volumes, pairs = make_set(5, own=0.5), choose_pairs(5)
    whole = pairwise_ms_ssim(volumes, pairs, data_range=0.5)
    assert pairwise_ms_ssim(volumes, pairs, data_range=0.5, batch_size=3) == pytest.approx(whole, abs=1e-6)


def test_one_scale_is_plain_ssim_written_out() -> None:
    volumes = make_set(2, own=0.5, shape=(7, 7, 7))
    x, y = (volume.astype(np.float64) for volume in volumes)
    axis = np.exp(-0.5 * ((np.arange(7) - 3) / (1.5 * 7 / 11)) ** 2)
    w = axis[:, None, None] * axis[:, None] * axis
    w /= w.sum()
    mx, my = (w * x).sum(), (w * y).sum()
    vx, vy, cov = (w * x * x).sum() - mx**2, (w * y * y).sum() - my**2, (w * x * y).sum() - mx * my
    c1, c2 = (0.01 * 0.5) ** 2, (0.03 * 0.5) ** 2
    ssim = (2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    found = pairwise_ms_ssim(volumes, choose_pairs(2), data_range=0.5)
    assert found[0] == pytest.approx(max(ssim, 0), abs=1e-4)


@pytest.mark.parametrize("size", [7, 14, 15, 28, 31, 44, 64, 180])
def test_scales_fit_every_size(size: int) -> None:
    volumes = [np.zeros((size, 7 if size > 64 else size, 7 if size > 64 else size)), np.zeros((size, 7, 7))]
    cube = np.random.default_rng(0).normal(size=volumes[0].shape)
    assert pairwise_ms_ssim([cube, cube], choose_pairs(2), data_range=6.0) == pytest.approx([1.0], abs=1e-5)


def test_feature_distances_have_known_values_and_weights() -> None:
    features, pairs = np.array([[0.0, 0], [3, 4], [0, 8]]), choose_pairs(3)
    distances = pairwise_feature_distance(features, pairs)
    assert distances == pytest.approx([5, 8, 5])
    assert mean_over_pairs(distances, pairs, weights=None, n=3) == pytest.approx(6)
    assert mean_over_pairs(distances, pairs, weights=[2, 0, 1], n=3) == pytest.approx(8)
    assert np.isnan(mean_over_pairs(distances, pairs, weights=[3, 0, 0], n=3))


def test_brightness_contrast_and_grain_have_known_values() -> None:
    assert case_statistics(np.full((4, 5, 6), 3.0)) == pytest.approx([3, 0, 0])
    noise = np.random.default_rng(0).normal(size=(40, 40, 40))
    assert case_statistics(noise) == pytest.approx([0, 1, 1], abs=0.02)
    assert case_statistics(2 * noise + 5) == pytest.approx(2 * case_statistics(noise) + [5, 0, 0])
    ramp = np.arange(10.0).reshape(10, 1, 1)
    assert case_statistics(ramp) == pytest.approx([4.5, np.sqrt(8.25), np.sqrt(0.5)])
    smooth = gaussian_filter(noise, 2)
    _, contrast, grain = case_statistics(smooth / smooth.std())
    assert contrast == pytest.approx(1) and grain < 0.4


def test_the_spread_over_cases_is_the_unbiased_deviation_and_weights_repeat() -> None:
    values = np.random.default_rng(1).normal(size=7)
    assert spread_over_cases(values) == pytest.approx(values.std(ddof=1))
    repeated = np.repeat(values, [2, 0, 1, 1, 3, 0, 1])
    found = spread_over_cases(values, weights=[2, 0, 1, 1, 3, 0, 1])
    assert found == pytest.approx(repeated.std(ddof=1))
    assert np.isnan(spread_over_cases(values, weights=[1, 0, 0, 0, 0, 0, 0]))


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="crop or pad to one shape"):
        pairwise_ms_ssim([np.zeros((8, 8, 8)), np.zeros((8, 8, 9))], choose_pairs(2), data_range=1)
    with pytest.raises(ValueError, match="shortest axis has 6 voxels"):
        pairwise_ms_ssim(2 * [np.zeros((8, 6, 8))], choose_pairs(2), data_range=1)
    with pytest.raises(ValueError, match="data_range is 0"):
        pairwise_ms_ssim(2 * [np.zeros((8, 8, 8))], choose_pairs(2), data_range=0)
