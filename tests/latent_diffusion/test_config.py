"""LatentDiffusionConfig: noise paths by name, and what it refuses."""

from __future__ import annotations

import json

import pytest
import torch

from medldm import LatentDiffusionConfig, LatentDiffusionSampler
from medldm.latent_diffusion.config import NOISE_PATH_FIELDS, read_diffusion


def test_example_of_the_readme_is_ho_et_als_schedule() -> None:
    config = LatentDiffusionConfig(
        autoencoder_type="vae",
        autoencoder_path="trained_vae.safetensors",
        n_timesteps=1000,
        beta_start=1e-4,
        beta_end=0.02,
        learning_rate=1e-4,
        n_epochs=100,
    )
    alpha, _ = config.noise_path().alpha_sigma(1000)
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    assert alpha == pytest.approx((1 - betas).prod().sqrt().item(), rel=1e-12)


@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "cosine", "sigmoid", "flow"])
def test_every_path_survives_the_card_and_samples(schedule, make_model) -> None:
    prediction = "velocity" if schedule == "flow" else "v_prediction"
    config = LatentDiffusionConfig(noise_schedule=schedule, prediction_type=prediction)
    card = json.loads(json.dumps(config.describe_diffusion()))
    assert LatentDiffusionConfig.from_dict(read_diffusion(card)).noise_path() == config.noise_path()
    volume = LatentDiffusionSampler(make_model(()), config).sample((1, 3, 4, 5, 4), num_steps=2)
    assert torch.isfinite(volume).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"autoencoder_type": "gan"}, "autoencoder_type is 'gan': choose from"),
        ({"noise_schedule": "linaer"}, "schedule is 'linaer'"),
        ({"prediction_type": "noise"}, "prediction_type is 'noise': choose from"),
        ({"zero_terminal_snr": True, "prediction_type": "epsilon"}, "epsilon"),
        ({"precision": "half"}, "precision is 'half'"),
        ({"n_epochs": 0}, "n_epochs is 0"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"ema_decay": 1.0}, r"ema_decay is 1.0: a number in \[0, 1\)"),
        ({"beta_start": 0.5, "beta_end": 0.1}, "beta_start is 0.5"),
    ],
)
def test_bad_values_are_named(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        LatentDiffusionConfig(**options)


OTHER_VALUES = {
    "noise_schedule": "cosine",
    "n_timesteps": 50,
    "beta_start": 1e-3,
    "beta_end": 0.03,
    "zero_terminal_snr": True,
    "time_distribution": "uniform",
    "logit_mean": 0.5,
    "logit_std": 2.0,
    "time_shift": 3.0,
}


@pytest.mark.parametrize(
    ("kind", "argument", "name"),
    [(kind, *item) for kind, arguments in NOISE_PATH_FIELDS.items() for item in arguments.items()],
)
def test_every_argument_of_a_path_is_set_by_a_field_and_comes_back_from_the_card(
    kind, argument, name
) -> None:
    schedule = {"noise_schedule": kind} if kind == "flow" else {}
    plain = LatentDiffusionConfig(**schedule, prediction_type="v_prediction")
    changed = plain.copy(**{name: OTHER_VALUES[name]})
    assert (
        getattr(changed.noise_path(), argument) == OTHER_VALUES[name] != getattr(plain.noise_path(), argument)
    )
    card = json.loads(json.dumps(changed.describe_diffusion()))
    assert card["noise_path"] == changed.noise_path().to_dict()
    assert LatentDiffusionConfig(**read_diffusion(card)).noise_path() == changed.noise_path()


def test_cards_of_version_0_1_0_hold_the_fields_themselves() -> None:
    card = {
        "noise_schedule": "flow",
        "n_timesteps": 1000,
        "beta_start": 1e-4,
        "beta_end": 0.02,
        "zero_terminal_snr": False,
        "time_shift": 2.0,
        "prediction_type": "velocity",
    }
    config = LatentDiffusionConfig(**read_diffusion(card))
    assert config.noise_path().to_dict() == {
        "kind": "flow",
        "time_distribution": "logit_normal",
        "logit_mean": 0.0,
        "logit_std": 1.0,
        "shift": 2.0,
    }


def test_a_misspelt_key_is_named_with_its_neighbour() -> None:
    with pytest.raises(ValueError, match="n_epochs"):
        LatentDiffusionConfig.from_dict({"n_epoch": 3})
