"""Volumes are aligned by whole voxels, and copies are planted as an autoencoder would leave them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from medldm.evaluation.features.autoencoded import OwnAutoencoder, align, latent_detector, plant_autoencoded
from medldm.evaluation.metrics.planted_copies import shift_volume


def make_volumes(n: int, *, seed: int, channels: int = 1) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    shape = (20, 22, 18)
    common = gaussian_filter(np.random.default_rng(99).normal(size=shape), 2.0)
    return [
        np.stack(
            [(4 * common + 3 * gaussian_filter(generator.normal(size=shape), 1.5)) for _ in range(channels)]
        )
        .astype(np.float32)
        .clip(-1, 1)
        for _ in range(n)
    ]


def halve(volume: np.ndarray) -> np.ndarray:
    c, x, y, z = volume.shape
    return volume.reshape(c, x // 2, 2, y // 2, 2, z // 2, 2).mean(axis=(2, 4, 6))


BLURRED = OwnAutoencoder(
    reconstruct=lambda volume: gaussian_filter(volume, (0, 1, 1, 1)).astype(np.float32), encode=halve
)


@pytest.mark.parametrize("shift", [(0, 0, 0), (2, -1, 1), (-3, 2, 0)])
def test_a_moved_volume_is_moved_back(shift: tuple[int, int, int]) -> None:
    template = make_volumes(1, seed=0)[0]
    moved = np.stack([shift_volume(template[0], shift)])
    inner = (slice(None), *[slice(4, -4)] * 3)
    np.testing.assert_array_equal(align(moved, template[0])[inner], template[inner])


def test_channels_are_disguised_alike_and_autoencoded() -> None:
    volumes = [np.concatenate([each, each]) for each in make_volumes(3, seed=1)]
    copies, sources = plant_autoencoded(volumes, 3, BLURRED, seed=0)
    assert sorted(sources.tolist()) == [0, 1, 2]
    for copy in copies:
        assert copy.shape == volumes[0].shape and np.abs(copy).max() <= 1
        np.testing.assert_array_equal(copy[0], copy[1])
        roughness = [float(np.abs(np.diff(each[0], axis=0)).mean()) for each in (copy, volumes[0])]
        assert roughness[0] < roughness[1]


def test_latents_of_a_moved_mirrored_copy_are_those_of_its_source() -> None:
    train = make_volumes(8, seed=2)
    similarity = latent_detector(train, BLURRED)
    copies = [shift_volume(each[0], (1, -1, 2))[None, ::-1] for each in train[:4]]
    found = similarity(copies)
    assert found.argmax(axis=1).tolist() == [0, 1, 2, 3]
    assert found.max(axis=1).min() > 0.6 > similarity(make_volumes(6, seed=3)).max()
