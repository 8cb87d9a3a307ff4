"""Tissue measures: spheres of known volume and overlap, and real demonstration images as the oracle."""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path

import numpy as np
import pytest

FILE = Path(__file__).resolve().parents[2] / "benchmarks" / "conditions" / "tissue.py"
spec = importlib.util.spec_from_file_location("tissue", FILE)
assert spec is not None and spec.loader is not None
tissue = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = tissue
spec.loader.exec_module(tissue)

SPACING_MM = (3.0, 4.0, 3.5)
MEANS = {"t1": (0.0, 0.7, 1.0, 0.25), "t2": (0.0, 0.6, 0.4, 1.0)}  # background, grey, white, fluid


def make_labels(fluid_radius_mm: float, *, shift_mm: float = 0.0) -> np.ndarray:
    """Fluid in white matter in grey matter: three spheres about one centre."""
    axes = [edge * (np.arange(44) - 21.5) for edge in SPACING_MM]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    radius = np.sqrt((x - shift_mm) ** 2 + y**2 + z**2)
    return np.select([radius < fluid_radius_mm, radius < 48, radius < 60], [3, 2, 1], 0)


def make_image(labels: np.ndarray, contrast: str, *, seed: int = 0, noise: float = 0.02) -> np.ndarray:
    image = np.asarray(MEANS[contrast])[labels]
    return np.where(labels > 0, image + noise * np.random.default_rng(seed).standard_normal(labels.shape), 0)


@pytest.mark.parametrize("contrast", ["t1", "t2"])
@pytest.mark.parametrize("radius_mm", [14.0, 18.0, 22.0])
def test_volume_of_fluid_is_that_of_the_sphere(contrast: str, radius_mm: float) -> None:
    image = make_image(make_labels(radius_mm), contrast)
    expected_ml = 4 / 3 * math.pi * radius_mm**3 / 1000
    assert tissue.deep_fluid_ml(image, spacing_mm=SPACING_MM) == pytest.approx(expected_ml, rel=0.05)


def test_sign_of_the_skewness_tells_the_contrasts_apart() -> None:
    labels = make_labels(18.0)
    assert tissue.contrast_skewness(make_image(labels, "t1"), spacing_mm=SPACING_MM) < -1
    assert tissue.contrast_skewness(make_image(labels, "t2"), spacing_mm=SPACING_MM) > 1


def test_measures_ignore_gain_and_offset() -> None:
    labels = make_labels(18.0)
    image = make_image(labels, "t2")
    for measure in (tissue.contrast_skewness, tissue.deep_fluid_ml):
        before = measure(image, spacing_mm=SPACING_MM)
        assert measure(700 * image - 1.5, spacing_mm=SPACING_MM) == pytest.approx(before)
    assert tissue.map_overlap(700 * image - 1.5, labels, tissues=(1, 2, 3)) == tissue.map_overlap(
        image, labels, tissues=(1, 2, 3)
    )


def test_mask_fills_dark_fluid_and_leaves_specks_out() -> None:
    labels = make_labels(18.0)
    image = np.where(labels == 3, 0.0, make_image(labels, "t1"))
    image[:2, :2, :2] = 1.0
    assert np.array_equal(tissue.brain_mask(image), labels > 0)


def test_own_map_overlaps_wholly_and_a_shifted_one_as_spheres_do() -> None:
    labels, other = make_labels(18.0), make_labels(18.0, shift_mm=12.0)
    image = make_image(labels, "t1", noise=0.0)
    assert tissue.map_overlap(image, labels, tissues=(1, 2, 3)) == {0: 1.0, 1: 1.0, 2: 1.0, 3: 1.0}
    shifted = tissue.map_overlap(image, other, tissues=(1, 2, 3))
    # Two balls of radius R, d apart: the share of each in their lens is 1 - 3d/4R + d^3/16R^3.
    assert shifted[0] == pytest.approx(1 - 0.75 * 12 / 60 + (12 / 60) ** 3 / 16, abs=0.02)
    assert all(shifted[value] < 0.85 for value in (1, 2, 3))


def test_picture_without_a_brain_scores_chance() -> None:
    labels = make_labels(18.0)
    noise = np.random.default_rng(1).random(labels.shape)
    overlaps = tissue.map_overlap(noise, labels, tissues=(1, 2, 3))
    shares = np.bincount(labels.ravel())[1:] / (labels > 0).sum()
    assert all(overlaps[value] < max(shares[value - 1], 0.5) + 0.1 for value in (1, 2, 3))
    assert math.isnan(tissue.deep_fluid_ml(np.zeros((8, 8, 8)), spacing_mm=SPACING_MM))
    assert math.isnan(tissue.contrast_skewness(np.ones((40, 40, 40)), spacing_mm=SPACING_MM))
    assert not tissue.brain_mask(np.zeros((8, 8, 8))).any()


def test_means_are_those_of_the_voxels_and_absent_tissues_have_none() -> None:
    labels = make_labels(18.0)
    image = make_image(labels, "t2")
    means = tissue.tissue_means(image, labels, tissues=(1, 3, 9))
    assert means[:2] == pytest.approx([image[labels == 1].mean(), image[labels == 3].mean()])
    assert math.isnan(means[2])
    overlaps = tissue.map_overlap(image, labels, tissues=(1, 2, 3, 9))
    assert overlaps[2] > 0.99 and math.isnan(overlaps[9])


def test_dice_of_small_masks_by_hand() -> None:
    first, second = np.array([True, True, False]), np.array([True, False, False])
    assert tissue.dice(first, second) == pytest.approx(2 / 3)
    assert math.isnan(tissue.dice(~first & first, ~second & second))


def test_line_agrees_with_polyfit_and_leaves_missing_pairs_out() -> None:
    generator = np.random.default_rng(0)
    x = generator.random(20)
    y = 3 * x + generator.normal(size=20)
    correlation, slope = tissue.fit_line(x, y)
    assert correlation == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert slope == pytest.approx(np.polyfit(x, y, 1)[0])
    assert tissue.fit_line([*x, np.nan, 5.0], [*y, 7.0, np.nan]) == pytest.approx((correlation, slope))
    assert all(math.isnan(value) for value in tissue.fit_line([1, 1, 1], [1, 2, 3]))


def test_mistakes_are_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        tissue.brain_mask(np.full((4, 4, 4), np.nan))
    with pytest.raises(ValueError, match=r"\(4, 4\)"):
        tissue.brain_mask(np.zeros((4, 4)))
    with pytest.raises(ValueError, match=r"\(4, 4, 4\).*\(4, 4, 5\)"):
        tissue.map_overlap(np.zeros((4, 4, 4)), np.zeros((4, 4, 5), dtype=int), tissues=(1,))
    with pytest.raises(ValueError, match="asked has"):
        tissue.fit_line([1, 2], [1])


@pytest.mark.slow
def test_real_images_follow_their_own_contrast_fluid_and_map() -> None:
    pytest.importorskip("nilearn", reason="the extra `demo` is not installed")
    from medldm.demo.brain import WIDE_VENTRICLE_PULL_MM, load_template, make_subject

    template = load_template(4.0)
    cases = [
        make_subject(
            template,
            seed=5,
            index=index,
            contrast="t2" if index % 2 else "t1",
            ventricle_pull_mm=WIDE_VENTRICLE_PULL_MM,
        )
        for index in range(8)
    ]
    spacing = (4.0, 4.0, 4.0)
    skews = [tissue.contrast_skewness(image, spacing_mm=spacing) for image, _ in cases]
    assert all((skew > 0) == bool(index % 2) for index, skew in enumerate(skews))
    true_ml = [0.064 * int((labels == 3).sum()) for _, labels in cases]
    correlation, slope = tissue.fit_line(
        true_ml, [tissue.deep_fluid_ml(image, spacing_mm=spacing) for image, _ in cases]
    )
    assert correlation > 0.9 and 0.3 < slope < 0.5
    for (image, own), (_, other) in zip(cases, cases[1:] + cases[:1], strict=True):
        right, wrong = (tissue.map_overlap(image, labels, tissues=(1, 2, 3)) for labels in (own, other))
        assert right[0] > 0.93 and min(right[1], right[2]) > 0.65
        assert all(right[value] > wrong[value] for value in (0, 1, 2, 3))
