"""A card says how its model was trained: what another machine can repeat, and nothing else."""

from __future__ import annotations

import json
import math

from medldm import LatentDiffusionConfig
from medldm.training.configs import AutoencoderTrainingConfig, RunConfig
from medldm.training.length import count_epochs
from medldm.training.losses.reconstruction import AutoencoderLoss, AutoencoderLossConfig
from medldm.training.recipe import NOT_RECORDED, settings_of

RUN = RunConfig(output_dir="/home/anna", batch_size=3, val_interval=4)


def test_steps_stand_for_the_epochs_of_the_same_cohort() -> None:
    for n_cases, accumulation in ((7, 1), (7, 2), (12, 4)):
        config = AutoencoderTrainingConfig(n_epochs=5, accumulation_steps=accumulation)
        settings = settings_of(config, RUN, n_batches=math.ceil(n_cases / 3))
        again = {"n_steps": settings["n_steps"], "n_epochs": None, "cases": [0] * n_cases}
        assert count_epochs(**again, batch_size=3, accumulation_steps=accumulation) == 5


def test_config_loss_run_and_further_knobs_are_recorded_without_paths() -> None:
    loss = AutoencoderLoss(AutoencoderLossConfig(adversarial_start=0.25))
    config = AutoencoderTrainingConfig(learning_rate=0.002, gradient_clip=math.inf)
    settings = settings_of(config, RUN, n_batches=2, loss=loss, further={"patch_size": [8, 8, 8]})
    wanted = {"batch_size": 3, "val_interval": 4, "learning_rate": 0.002, "patch_size": [8, 8, 8]}
    assert wanted.items() <= settings.items() and settings["adversarial_start"] == 0.25
    assert json.loads(json.dumps(settings, allow_nan=False))["gradient_clip"] == "inf"
    assert not set(settings) & set(NOT_RECORDED) and "/home/anna" not in str(settings)


def test_rates_of_a_training_from_weights_are_not_those_of_one_from_nothing() -> None:
    config = LatentDiffusionConfig(learning_rate=0.1, warmup_steps=7, autoencoder_path="/home/anna/a.pth")
    assert settings_of(config, RUN, n_batches=2)["warmup_steps"] == 7
    started = settings_of(config, RUN, n_batches=2, is_started=True)
    assert not {"learning_rate", "warmup_steps", "autoencoder_path"} & set(started)
