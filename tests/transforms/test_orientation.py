"""Turning an array and its affine together moves no voxel in the world."""

from __future__ import annotations

import numpy as np

from medldm.transforms.orientation import to_ras_affine, turn, turn_back


def test_every_voxel_keeps_its_place_in_the_world(oblique: np.ndarray) -> None:
    shape = (3, 4, 5)
    affine = oblique[:, [2, 0, 1, 3]]
    index = np.stack(np.meshgrid(*[np.arange(size) for size in shape], indexing="ij"), axis=-1)
    world = index @ affine[:3, :3].T + affine[:3, 3]
    turned, axes, flips = to_ras_affine(affine, shape)
    moved = np.stack([turn(world[..., part], axes, flips) for part in range(3)], axis=-1)
    again = np.stack(np.meshgrid(*[np.arange(size) for size in moved.shape[:3]], indexing="ij"), axis=-1)
    np.testing.assert_allclose(again @ turned[:3, :3].T + turned[:3, 3], moved, atol=1e-12)
    assert (np.diag(turned)[:3] > 0).all()


def test_turning_back_restores_the_array(oblique: np.ndarray) -> None:
    array = np.random.default_rng(0).normal(size=(3, 4, 5))
    for permutation in ([0, 1, 2, 3], [2, 0, 1, 3], [1, 0, 2, 3]):
        _, axes, flips = to_ras_affine(oblique[:, permutation], array.shape)
        np.testing.assert_array_equal(turn_back(turn(array, axes, flips), axes, flips), array)
