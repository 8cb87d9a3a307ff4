"""The loss against its definition, and an encoder that learns to recognise volumes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from medldm.evaluation.errors import TooFewCasesError
from medldm.evaluation.features.contrastive import (
    ContrastiveConfig,
    nt_xent_loss,
    prepare_volumes,
    take_off_blur,
    train_contrastive_encoder,
)
from medldm.evaluation.metrics.neighbours import cosine_neighbours
from medldm.evaluation.metrics.planted_copies import DisguiseConfig, plant_copies

TINY = {"size": (16, 16, 16), "channels": (8, 8, 16, 16), "n_projected": 16, "batch_size": 16}


def make_volumes(n: int, *, seed: int = 0) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    return [gaussian_filter(generator.normal(size=(18, 17, 16)), 2.0) for _ in range(n)]


def make_anatomy(n: int) -> list[np.ndarray]:
    """Volumes that share nearly all they show, as crops of one organ do."""
    common = 6 * gaussian_filter(np.random.default_rng(99).normal(size=(18, 17, 16)), 4.0)
    return [common + volume for volume in make_volumes(n)]


def test_loss_is_equation_1_written_out(generator: torch.Generator) -> None:
    first, second = torch.randn((2, 3, 5), generator=generator)
    views, temperature = [*first, *second], 0.3

    def s(i: int, j: int) -> float:
        return float(torch.cosine_similarity(views[i], views[j], dim=0)) / temperature

    total = 0.0
    for i in range(6):
        j = (i + 3) % 6
        total -= math.log(math.exp(s(i, j)) / sum(math.exp(s(i, k)) for k in range(6) if k != i))
    assert float(nt_xent_loss(first, second, temperature=temperature)) == pytest.approx(total / 6, rel=1e-5)


def test_loss_of_equal_embeddings_is_log_of_the_number_of_others() -> None:
    same = torch.ones((4, 3))
    assert float(nt_xent_loss(same, same, temperature=0.5)) == pytest.approx(math.log(7), rel=1e-6)


def test_trained_encoder_recognises_disguised_copies_better_than_an_untrained_one() -> None:
    train = make_volumes(24)
    copies, sources = plant_copies(train, 48, DisguiseConfig(max_shift=1, flip_probability=0), seed=1)
    config = ContrastiveConfig(n_steps=60, learning_rate=3e-3, **TINY)
    hits = {}
    for name, n_steps in (("untrained", 1), ("trained", 60)):
        encoder = train_contrastive_encoder(
            train, ContrastiveConfig(**config.to_dict() | {"n_steps": n_steps})
        )
        similarity = cosine_neighbours(encoder.embed(copies), encoder.embed(train))
        hits[name] = (similarity.argmax(axis=1) == sources).mean()
    assert hits["trained"] > 0.6
    assert hits["trained"] > hits["untrained"] + 0.2


def test_volumes_that_look_alike_do_not_hold_the_loss_at_that_of_chance() -> None:
    losses: list[float] = []
    config = ContrastiveConfig(n_steps=60, **TINY)
    encoder = train_contrastive_encoder(
        make_anatomy(32), config, on_step=lambda step, loss: losses.append(loss)
    )
    chance = math.log(2 * 16 - 1)
    assert losses[0] > chance
    assert np.mean(losses[-5:]) < 0.8 * chance
    features = encoder.embed(make_anatomy(32))
    assert np.median(cosine_neighbours(features, features)[~np.eye(32, dtype=bool)]) < 0.3


def test_taking_off_the_blur_leaves_detail_and_removes_shading() -> None:
    detail = torch.from_numpy(make_volumes(1)[0]).float()[None, None]
    slope = torch.linspace(-1, 1, 18)[:, None, None].expand(18, 17, 16)
    plain, shaded = (take_off_blur(each, 5)[0, 0, 3:-3] for each in (detail, 7 * detail + slope))
    torch.testing.assert_close(plain, shaded, atol=0.12, rtol=0)
    assert float(take_off_blur(detail, 5).std()) == pytest.approx(1, rel=1e-4)
    assert not take_off_blur(torch.ones((1, 1, 9, 9, 9)), 5).any()


def test_same_seed_gives_the_same_weights_and_leaves_the_global_generator_alone() -> None:
    volumes, losses = make_volumes(5), []
    torch.manual_seed(11)
    before = torch.random.get_rng_state()
    config = ContrastiveConfig(n_steps=2, **TINY)
    features = [
        train_contrastive_encoder(
            volumes, config, on_step=lambda step, loss: losses.append((step, loss))
        ).embed(volumes)
        for _ in range(2)
    ]
    assert np.array_equal(features[0], features[1])
    assert losses[:2] == losses[2:] and [step for step, _ in losses] == [1, 2, 1, 2]
    assert torch.equal(before, torch.random.get_rng_state())


def test_features_are_standard_on_the_training_set_and_ignore_unit_and_batch() -> None:
    train = make_volumes(6)
    encoder = train_contrastive_encoder(train, ContrastiveConfig(n_steps=2, **TINY))
    features = encoder.embed(train)
    varied = features.std(axis=0) > 1e-3
    assert features.shape == (6, 16) and varied.sum() > 8
    assert features.mean(axis=0) == pytest.approx(np.zeros(16), abs=1e-4)
    assert features.std(axis=0, ddof=1)[varied] == pytest.approx(np.ones(varied.sum()), abs=1e-3)
    scaled = encoder.embed([40 * volume + 1000 for volume in train], batch_size=1)
    assert scaled == pytest.approx(features, abs=5e-3)
    assert encoder.embed([np.random.default_rng(5).normal(size=(9, 21, 33))]).shape == (1, 16)


def test_prepared_volumes_are_means_over_blocks() -> None:
    volume = np.arange(16.0**3).reshape(16, 16, 16)
    prepared = prepare_volumes([volume], (8, 8, 8))
    blocks = volume.reshape(8, 2, 8, 2, 8, 2).mean(axis=(1, 3, 5))
    expected = (blocks - blocks.mean()) / blocks.std(ddof=1)
    np.testing.assert_allclose(prepared[0, 0].numpy(), expected, atol=1e-5)


def test_bad_input_is_refused() -> None:
    with pytest.raises(TooFewCasesError, match="3 volumes; contrastive training needs at least 4"):
        train_contrastive_encoder(make_volumes(3))
    with pytest.raises(ValueError, match="three sizes of at least 8"):
        ContrastiveConfig(size=(4, 8, 8))
    with pytest.raises(ValueError, match="Did you mean 'noise'"):
        ContrastiveConfig.from_dict({"augmentation": {"nois": 1.0}})
    with pytest.raises(ValueError, match="batch_size is 1"):
        ContrastiveConfig(batch_size=1)
    with pytest.raises(ValueError, match="no volumes"):
        prepare_volumes([], (8, 8, 8))
