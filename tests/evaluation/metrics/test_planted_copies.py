"""Disguises do what they say, and no more."""

from __future__ import annotations

import numpy as np
import pytest

from medldm.evaluation.metrics.planted_copies import DisguiseConfig, disguise, plant_copies, shift_volume

NONE = {"max_shift": 0, "noise": 0.0, "flip_probability": 0.0, "max_log_gamma": 0.0, "max_gain": 0.0}


def make_volumes(n: int = 5) -> list[np.ndarray]:
    return list(np.random.default_rng(0).normal(size=(n, 6, 7, 5)))


def test_no_disguise_gives_the_sources() -> None:
    volumes = make_volumes()
    copies, sources = plant_copies(volumes, 5, DisguiseConfig(**NONE), seed=1)
    assert sorted(sources) == [0, 1, 2, 3, 4]
    for copy, source in zip(copies, sources, strict=True):
        assert copy == pytest.approx(volumes[source])


def test_sources_repeat_only_when_all_are_used() -> None:
    _, sources = plant_copies(make_volumes(3), 8, seed=2)
    assert sorted(np.bincount(sources)) == [2, 3, 3]


def test_shift_moves_voxels_and_repeats_the_border() -> None:
    volume = make_volumes()[0]
    moved = shift_volume(volume, (2, -1, 0))
    assert np.array_equal(moved[2:, :-1], volume[:-2, 1:])
    assert np.array_equal(moved[0, :-1], volume[0, 1:]) and np.array_equal(moved[1], moved[0])


def test_each_disguise_does_its_own_change() -> None:
    volume, rng = make_volumes()[0], np.random.default_rng(3)
    mirrored = disguise(volume, DisguiseConfig(**NONE | {"flip_probability": 1.0}), generator=rng)
    assert mirrored == pytest.approx(volume[::-1])
    noisy = disguise(volume, DisguiseConfig(**NONE | {"noise": 0.5}), generator=rng)
    assert (noisy - volume).std() == pytest.approx(0.5 * volume.std(), rel=0.15)
    louder = disguise(volume, DisguiseConfig(**NONE | {"max_gain": 0.2}), generator=rng)
    assert np.ptp(louder / volume) < 1e-9 and 0.8 <= (louder / volume).mean() <= 1.2
    bent = disguise(volume, DisguiseConfig(**NONE | {"max_log_gamma": 0.5}), generator=rng)
    assert (np.diff(bent.ravel()[volume.ravel().argsort()]) >= 0).all()
    assert (bent.min(), bent.max()) == pytest.approx((volume.min(), volume.max()))
    assert np.abs(bent - volume).max() > 0.01


def test_same_seed_plants_the_same_copies() -> None:
    first, again, other = (plant_copies(make_volumes(), 3, seed=seed)[0] for seed in (4, 4, 5))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], other[0])


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="0 copies of 5 volumes"):
        plant_copies(make_volumes(), 0)
    with pytest.raises(ValueError, match="max_gain is 1"):
        DisguiseConfig(max_gain=1)
    with pytest.raises(ValueError, match="flip_probability is 2"):
        DisguiseConfig(flip_probability=2)
