"""The training of the decoder: what it changes, when the adversary begins, what a kill changes."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from ignite.engine import Events

from benchmarks.tiny_trainings import (
    FIRST_STAGES,
    SMALL,
    encode_all,
    make_run,
    make_small_model,
    make_third_stage,
    make_volumes,
)
from medldm import LatentDiffusionConfig
from medldm.networks import VAEConfig
from medldm.seeds import seed_everything
from medldm.training.decoder import DecoderCases, DecoderConfig, LatentDecoder, build_decoder_training
from medldm.training.handlers import TERMS
from tests.training.resume.training_states import differences, everything
from tests.training.small_trainings import run_killed_after

AUTOENCODERS = {**FIRST_STAGES, "linear_path": VAEConfig(**SMALL, linear_path=True)}


def build(folder, *, kind="vae", patch_size=(8, 8, 8), **options):
    seed_everything(0)
    model = make_small_model(AUTOENCODERS[kind])
    volumes = make_volumes(4)
    training = build_decoder_training(
        model,
        DecoderCases(encode_all(model, volumes), volumes),
        config=DecoderConfig(
            **{"n_steps": 4, "noise_level": 0.5, "denoising_steps": 1, "patch_size": patch_size} | options
        ),
        diffusion=LatentDiffusionConfig(prediction_type="v_prediction"),
        run=make_run(folder),
    )
    return model, training.trainer


@pytest.mark.parametrize("kind", list(AUTOENCODERS))
@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_only_the_weights_of_the_decoder_change(tmp_path, kind, ema_decay) -> None:
    model, trainer = build(
        tmp_path, kind=kind, ema_decay=ema_decay, adversarial_share=0, warmup_steps=1, learning_rate=1e-2
    )
    before = copy.deepcopy(model.state_dict())
    trainer.run()
    averaged = trainer.average.module.autoencoder
    for module, prefix in ((model, ""), (averaged, "autoencoder.")):
        changed = {
            prefix + name
            for name, value in module.state_dict().items()
            if not torch.equal(value, before[prefix + name])
        }
        decoding = {
            f"autoencoder.{name}"
            for name, weight in averaged.named_parameters()
            if any(weight is each for part in averaged.decoding_modules() for each in part.parameters())
        }
        assert changed == decoding


def test_the_decoder_is_called_as_the_model_calls_it(generator) -> None:
    model = make_small_model(FIRST_STAGES["vae"])
    latents = torch.randn(2, 4, 3, 4, 5, generator=generator)
    made = LatentDecoder(model.autoencoder)(model.unstandardise(latents)).reconstruction
    assert torch.equal(made, model.decode(latents))


@pytest.mark.parametrize(("share", "n_steps"), [(0.0, 6), (0.5, 6), (1.0, 3), (0.25, 4)])
def test_the_adversary_has_its_share_of_the_steps(tmp_path, share, n_steps) -> None:
    _, trainer = build(tmp_path, n_steps=n_steps, adversarial_share=share, patch_size=None, batch_size=1)
    steps = []
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda e: steps.append("adversarial" in e.state.output[TERMS])
    )
    trainer.run()
    n_with = round(share * n_steps)
    assert steps == [False] * (n_steps - n_with) + [True] * n_with


def test_the_weight_of_the_adversary_is_a_setting_and_part_of_the_identity(tmp_path) -> None:
    trainers = [
        build(tmp_path, adversarial_share=1.0, adversarial_weight=weight)[1] for weight in (0.005, 0.5)
    ]
    assert trainers[0].identity.digest != trainers[1].identity.digest
    assert [trainer.loss.config.adversarial_weight for trainer in trainers] == [0.005, 0.5]
    assert DecoderConfig().adversarial_weight == trainers[0].loss.config.adversarial_weight


def test_steps_are_counted_up_to_equal_parts() -> None:
    for n_steps, expected in ((1, 1), (7, 7), (10, 10), (11, 20), (995, 1000), (2000, 2000)):
        assert DecoderConfig(n_steps=n_steps).n_batches == expected


@pytest.mark.parametrize("kind", ["vae", pytest.param("vqvae", marks=pytest.mark.slow)])
def test_a_killed_training_ends_as_the_straight_one(tmp_path, kind) -> None:
    make = partial(make_third_stage, kind=kind)
    straight = make(tmp_path / "straight")
    straight.run()
    killed = make(tmp_path / "killed")
    run_killed_after(killed, 4)
    seed_everything(9)
    last = make(tmp_path / "killed")
    last.run()
    assert last.denoised.level.value == straight.denoised.level.value > 0
    assert differences(everything(straight), everything(last)) == []


def test_it_learns_to_make_the_volumes_from_denoised_latents(tmp_path) -> None:
    """With a denoiser that knows nothing latents say little, but the mean of the volumes can be learnt."""
    _, trainer = build(
        tmp_path, n_steps=40, adversarial_share=0, warmup_steps=1, learning_rate=1e-2, ema_decay=0.0
    )
    losses = []
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda e: losses.append(float(e.state.output["loss"]))
    )
    trainer.run()
    assert sum(losses[-5:]) < 0.97 * sum(losses[:5])


def test_values_outside_their_range_are_refused() -> None:
    for name, value in (
        ("noise_level", 0),
        ("adversarial_weight", -1),
        ("adversarial_share", 1.1),
        ("denoising_steps", 0),
    ):
        with pytest.raises(ValueError, match=f"{name} is {value}"):
            DecoderConfig(**{name: value})
