"""Deformations: known ones are recovered, image and label map stay together, splines keep what is fine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from medldm.errors import ConfigError
from medldm.transforms import CentreCropOrPadd, Deformation, DeformVolume, DeformVolumed, LoadVolume
from medldm.transforms.deformation import PullGrid, deform_image, deform_labels

SPACING = (1.0, 1.5, 0.8)
SIZE = (33, 28, 40)
DEFORMATION = Deformation(rotation_deg=(6, -9, 12), scale=(1.1, 0.93, 1.04), translation_mm=(2.0, -1.5, 1.0))


def ellipsoid(
    radii_mm: tuple[float, ...] = (7, 8, 6), at: tuple[float, ...] = (2.0, 3.0, -4.0)
) -> np.ndarray:
    """A smooth ball-like image, 1 in the middle and -1 far away."""
    middle = (np.asarray(SIZE) - 1) / 2
    points = (np.indices(SIZE).T - middle) * SPACING - at
    distance = np.linalg.norm(points / radii_mm, axis=-1).T
    return np.tanh(3 * (1 - distance)).astype(np.float32)


def bend(seed: int = 0, share: float = 0.2) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-share, share, (3, 7, 7, 7))


def pull(deformation: Deformation) -> PullGrid:
    return PullGrid(deformation=deformation, size=SIZE, spacing_mm=SPACING)


def centroid_mm(weights: np.ndarray) -> np.ndarray:
    middle = (np.asarray(SIZE) - 1) / 2
    return (np.asarray(ndimage.center_of_mass(weights)) - middle) * SPACING


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))


def inverse_of(deformation: Deformation) -> np.ndarray:
    return np.linalg.inv(deformation.matrix)


def test_the_centroid_of_a_structure_moves_as_the_affine_says_in_image_and_label_map() -> None:
    image = ellipsoid()
    moved = deform_image(image, pull(DEFORMATION))
    labels = deform_labels((image > 0).astype(np.uint8), pull(DEFORMATION))
    expected = DEFORMATION.matrix @ centroid_mm(image > 0) + DEFORMATION.translation_mm
    np.testing.assert_allclose(centroid_mm(labels), expected, atol=0.06)
    np.testing.assert_allclose(centroid_mm(moved > 0), expected, atol=0.06)
    growth = labels.sum() / (image > 0).sum()
    assert growth == pytest.approx(np.prod(DEFORMATION.scale), rel=0.02)


def test_the_positions_are_those_of_the_affine() -> None:
    (_, position), *_ = pull(DEFORMATION).blocks()
    middle, index = (np.asarray(SIZE) - 1) / 2, np.array([5, 20, 33])
    point = inverse_of(DEFORMATION) @ ((index - middle) * SPACING - DEFORMATION.translation_mm)
    np.testing.assert_allclose(position[:, 5, 20, 33], point / SPACING + middle, atol=1e-9)


@pytest.mark.parametrize(
    ("there", "back"),
    [
        (Deformation(rotation_deg=(0, 0, 14)), Deformation(rotation_deg=(0, 0, -14))),
        (Deformation(scale=(1.2, 0.9, 1.1)), Deformation(scale=(1 / 1.2, 1 / 0.9, 1 / 1.1))),
        (Deformation(translation_mm=(1.3, 0.4, -2)), Deformation(translation_mm=(-1.3, -0.4, 2))),
    ],
)
def test_there_and_back_gives_the_volume(there: Deformation, back: Deformation) -> None:
    image = ellipsoid(at=(0, 0, 0))
    again = deform_image(deform_image(image, pull(there)), pull(back))
    assert np.abs(again - image).max() < 0.08
    labels = (image > 0).astype(np.int64)
    twice = deform_labels(deform_labels(labels, pull(there)), pull(back))
    assert 2 * (twice * labels).sum() / (twice.sum() + labels.sum()) > 0.94


def test_label_map_and_image_stay_in_register() -> None:
    """An image that is a function of its labels is the same function of them afterwards."""
    shells = ellipsoid()
    labels = np.digitize(shells, [-0.9, 0.0, 0.8]).astype(np.uint8)
    everything = Deformation(
        rotation_deg=(6, -9, 12), scale=(1.1, 0.93, 1.04), translation_mm=(2, 1, 1), elastic_shares=bend()
    )
    moved = deform_labels(labels, pull(everything))
    expected = np.digitize(deform_image(shells, pull(everything), order=5), [-0.9, 0.0, 0.8])
    for k in (1, 2, 3):
        agreement = dice(moved >= k, expected >= k)
        assert agreement > 0.92
        for axis in range(3):
            shifted = [dice(np.roll(moved >= k, step, axis), expected >= k) for step in (-1, 1)]
            assert max(shifted) < agreement - 0.03
    still = np.digitize(shells, [-0.9, 0.0, 0.8])
    assert ((moved == 3) & (still == 3)).sum() < 0.9 * (still == 3).sum(), "nothing moved"


def test_labels_agree_with_the_linear_shares_of_all_structures() -> None:
    rng = np.random.default_rng(0)
    labels = ndimage.zoom(rng.integers(0, 5, (5, 5, 5)), 4, order=0)
    grid = PullGrid(deformation=DEFORMATION, size=labels.shape, spacing_mm=(1, 1, 1))
    (_, position), *_ = grid.blocks()
    shares = [
        ndimage.map_coordinates(
            (np.pad(labels, 1) == k).astype(float), np.clip(position + 1, 0, 21), order=1, mode="nearest"
        )
        for k in range(5)
    ]
    ordered = np.sort(shares, axis=0)
    is_clear = ordered[-1] > ordered[-2] + 1e-5
    np.testing.assert_array_equal(deform_labels(labels, grid)[is_clear], np.argmax(shares, axis=0)[is_clear])


def test_nothing_folds_at_the_largest_displacements() -> None:
    shares = np.random.default_rng(3).choice([-0.4, 0.4], (3, 7, 7, 7))
    position = np.concatenate([part for _, part in pull(Deformation(elastic_shares=shares)).blocks()], axis=1)
    gradients = np.stack(np.gradient(position, axis=(1, 2, 3)))
    determinants = np.linalg.det(np.moveaxis(gradients, (0, 1), (-2, -1)))
    assert determinants.min() > 0
    assert determinants.max() > 1.5
    with pytest.raises(ConfigError, match="space may fold"):
        Deformation(elastic_shares=shares * 1.1)


def test_constant_air_stays_to_the_bit_and_nothing_exceeds_the_range() -> None:
    image = np.full(SIZE, -1, np.float32)
    image[8:20, 8:20, 10:30] = 1
    moved = deform_image(image, pull(DEFORMATION), order=5)
    assert moved.min() == -1
    assert moved.max() <= 1
    wider = ndimage.binary_dilation(image > 0, np.ones((3, 3, 3)), iterations=2)
    near = deform_labels(wider.astype(np.uint8), pull(DEFORMATION))
    assert (moved[near == 0] == -1).all()
    assert (moved[0, 0, 0], deform_labels(np.ones(SIZE, np.uint8), pull(DEFORMATION))[0, 0, 0]) == (-1, 0)


def test_no_deformation_is_crop_and_pad_to_the_bit(make_cohort) -> None:
    folder = make_cohort(1)
    case = {key: LoadVolume()(folder / f"{key}s" / "case_0.nii.gz") for key in ("image", "label")}
    keys, size = ("image", "label"), (16, 24, 15)
    expected = CentreCropOrPadd(keys, size, fill=-1.0)(case)
    found = DeformVolumed(keys, Deformation(), spacing_mm=(1, 1, 1), size=size)(case)
    for key in keys:
        assert torch.equal(found[key], expected[key])
        assert torch.equal(found[key].affine, expected[key].affine)
    barely = DeformVolumed(keys, Deformation(translation_mm=(1e-9, 0, 0)), spacing_mm=(1, 1, 1), size=size)(
        case
    )
    assert torch.equal(barely["label"], expected["label"])
    assert torch.allclose(barely["image"], expected["image"], atol=1e-2)
    assert torch.equal(barely["image"].affine, expected["image"].affine)


def test_a_flip_swaps_the_sides_and_is_an_involution() -> None:
    labels = torch.zeros(1, 9, 5, 4, dtype=torch.int64)
    labels[:, 0:3, 1:3], labels[:, 5:8, 2:4], labels[:, 4, 2] = 3, 4, 6
    flip = DeformVolume(Deformation(flip=True), spacing_mm=SPACING, is_label=True, mirror={3: 4, 4: 3})
    once = flip(labels)
    swapped = torch.tensor([0, 1, 2, 4, 3, 5, 6])[labels].flip(1)
    assert torch.equal(once, swapped)
    assert torch.equal(flip(once), labels)
    image = torch.rand(2, *SIZE)
    mirrored = DeformVolume(Deformation(flip=True), spacing_mm=SPACING, order=1)(image)
    torch.testing.assert_close(mirrored, image.flip(1), atol=1e-5, rtol=0)


def test_channels_move_alike_alone_and_together() -> None:
    volume = torch.from_numpy(np.stack([ellipsoid(), -ellipsoid()]))
    together = DeformVolume(DEFORMATION, spacing_mm=SPACING)(volume)
    for k in range(2):
        assert torch.equal(together[k], DeformVolume(DEFORMATION, spacing_mm=SPACING)(volume[k : k + 1])[0])


@pytest.mark.real_data
def test_cubic_splines_lose_a_small_part_of_the_fine_detail_that_linear_loses(real_data: Path) -> None:
    files = sorted((real_data / "hippocampus_mri" / "images").iterdir())[:6]
    losses = {1: [], 3: [], 5: []}
    for file in files:
        volume = np.asarray(LoadVolume()(file))[0]
        grid = PullGrid(
            deformation=Deformation(rotation_deg=(5, -7, 6)), size=volume.shape, spacing_mm=(1, 1, 1)
        )
        for order in losses:
            losses[order].append(fine_power(deform_image(volume, grid, order=order)) / fine_power(volume))
    decibels = {order: 10 * np.log10(np.mean(ratios)) for order, ratios in losses.items()}
    assert decibels[1] < -2.5
    assert -0.7 < decibels[3] < -0.1
    assert -0.3 < decibels[5] < 0.1


def fine_power(volume: np.ndarray) -> float:
    """Power from 0.3 to 0.4 cycles a voxel, of the inner voxels."""
    inner = volume[6:-6, 6:-6, 6:-6].astype(float)
    for axis, n in enumerate(inner.shape):
        inner = inner * np.hanning(n).reshape([-1 if each == axis else 1 for each in range(3)])
    radius = np.sqrt(sum(f**2 for f in np.meshgrid(*map(np.fft.fftfreq, inner.shape), indexing="ij")))
    return float((np.abs(np.fft.fftn(inner)) ** 2)[(radius >= 0.3) & (radius < 0.4)].sum())
