"""The network that tells two sets apart: what it can learn, and what it must not depend on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from medldm.errors import ConfigError
from medldm.evaluation.volume_classifier import (
    ClassifierConfig,
    VolumeClassifier,
    seconds_per_step,
    train_volume_classifier,
)

SMALL = ClassifierConfig(channels=(6, 8, 8), batch_size=8)


def textures(
    n: int, *, seed: int, blur: float = 0.8, shape: tuple[int, int, int] = (14, 16, 13)
) -> np.ndarray:
    """Smooth noise of mean 0.5 and deviation 0.15."""
    generator = np.random.default_rng(seed)
    volumes = np.stack([gaussian_filter(generator.normal(size=shape), blur) for _ in range(n)])
    return (0.5 + 0.15 * volumes / volumes.std((1, 2, 3), keepdims=True)).astype(np.float32)


def test_it_tells_textures_of_the_same_histogram_on_cases_it_never_saw() -> None:
    volumes = np.concatenate([textures(24, seed=0), textures(16, seed=1, blur=0.9)])
    classifier = train_volume_classifier(volumes, np.arange(40) >= 24, SMALL, n_steps=60)
    real = classifier.score(textures(12, seed=2))
    made = classifier.score(textures(12, seed=3, blur=0.9))
    assert (made[:, None] > real).mean() > 0.9


def test_same_seed_gives_the_same_classifier_and_leaves_torchs_own_stream_alone() -> None:
    volumes, is_second = textures(12, seed=4), np.arange(12) % 2 == 1
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    one, two, other = (
        train_volume_classifier(volumes, is_second, SMALL, n_steps=3, seed=seed).score(volumes)
        for seed in (0, 0, 1)
    )
    assert torch.rand(1) == expected
    assert (one == two).all() and (one != other).any()


def test_scores_do_not_depend_on_the_other_cases_or_their_order() -> None:
    volumes = textures(20, seed=6)
    classifier = train_volume_classifier(volumes, np.arange(20) < 9, SMALL, n_steps=2)
    whole = classifier.score(volumes)
    assert classifier.score(volumes[::-1].copy())[::-1] == pytest.approx(whole, abs=1e-5)
    assert classifier.score(volumes[3:4])[0] == pytest.approx(whole[3], abs=1e-5)


def test_mirrored_volumes_have_the_same_score() -> None:
    volumes = textures(6, seed=7)
    classifier = train_volume_classifier(volumes, np.arange(6) < 3, SMALL, n_steps=2)
    assert classifier.score(volumes[:, ::-1].copy()) == pytest.approx(classifier.score(volumes), abs=1e-5)


def test_large_volumes_are_seen_in_parts_that_cover_them() -> None:
    config = ClassifierConfig(channels=(4, 4, 4), patch_size=(8, 9, 8), batch_size=4)
    volumes = textures(4, seed=8, shape=(19, 9, 10))
    classifier = train_volume_classifier(volumes, np.arange(4) < 2, config, n_steps=2)
    before = classifier.score(volumes)
    for place in ((0, 0, 0), (18, 8, 9), (9, 4, 5)):
        changed = volumes.copy()
        changed[(slice(None), *place)] += 0.5
        assert (classifier.score(changed) != before).all()


def test_steps_are_timed() -> None:
    assert 0 < seconds_per_step(textures(4, seed=9), SMALL, n_steps=1) < 60


def test_bad_input_is_refused() -> None:
    with pytest.raises(ConfigError, match="three sizes of at least 8"):
        ClassifierConfig(patch_size=(4, 8, 8))
    with pytest.raises(ValueError, match="0 and 3 volumes are given"):
        train_volume_classifier(textures(3, seed=0), np.ones(3, dtype=bool), SMALL, n_steps=1)
    assert VolumeClassifier(SMALL).training
