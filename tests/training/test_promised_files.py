"""Each training writes the file that the next stage reads, however few cases validate and however it ends."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Events
from monai.data import CacheDataset

from benchmarks.tiny_trainings import SMALL, make_latents, make_volumes
from medldm import LatentDiffusionConfig
from medldm.data.labels import LabelSchema
from medldm.latent_diffusion.checkpoints import load_checkpoint
from medldm.latent_diffusion.label_maps import build_label_map_autoencoder, label_map_space
from medldm.latent_diffusion.model import make_autoencoder
from medldm.networks import VAEConfig
from medldm.training import (
    AutoencoderLoss,
    AutoencoderTrainingConfig,
    LatentDataset,
    RunConfig,
    Training,
    build_autoencoder_training,
    build_diffusion_training,
)
from medldm.training.label_maps import LabelMapEvaluator, OneHotInferer
from medldm.training.losses.label_maps import LabelMapLoss

SCHEMA = LabelSchema(structures={1: "a", 5: "b"})


def build_volumes(run: RunConfig, n_validation: int, n_epochs: int) -> Training[Any]:
    return build_autoencoder_training(
        make_autoencoder(VAEConfig(**SMALL)),
        CacheDataset(make_volumes(1), progress=False),
        validation_set=CacheDataset(make_volumes(n_validation), progress=False),
        loss=AutoencoderLoss(),
        config=AutoencoderTrainingConfig(n_epochs=n_epochs),
        run=run,
    )


def build_label_maps(run: RunConfig, n_validation: int, n_epochs: int) -> Training[Any]:
    maps = [{"image": (case["image"] > 0).to(torch.uint8)} for case in make_volumes(1)]
    return build_autoencoder_training(
        build_label_map_autoencoder(SCHEMA, **SMALL),
        CacheDataset(maps, progress=False),
        validation_set=CacheDataset(maps * n_validation, progress=False),
        loss=LabelMapLoss(),
        space=label_map_space((1, 1, 1), (12, 12, 12)),
        inferer=OneHotInferer(3),
        make_evaluator=partial(LabelMapEvaluator, schema=SCHEMA),
        config=AutoencoderTrainingConfig(n_epochs=n_epochs),
        run=run,
    )


@pytest.fixture
def build_latents(make_model):
    def build(run: RunConfig, n_validation: int, n_epochs: int) -> Training[Any]:
        latents = make_latents(1)
        return build_diffusion_training(
            make_model(("class",)),
            LatentDataset(latents),
            validation_set=LatentDataset(latents * n_validation),
            config=LatentDiffusionConfig(n_epochs=n_epochs),
            run=run,
        )

    return build


@pytest.fixture(params=["volumes", "label maps", "latents"])
def stage(request):
    """Return what builds a stage, its file and its metric."""
    if request.param == "volumes":
        return build_volumes, "autoencoder.safetensors", "psnr"
    if request.param == "label maps":
        return build_label_maps, "autoencoder.safetensors", "dice"
    return request.getfixturevalue("build_latents"), "latent_diffusion.safetensors", "validation_loss"


def run_in(folder: Path, **options: Any) -> RunConfig:
    return RunConfig(output_dir=str(folder), **options)


def training_of(file: Path) -> dict[str, Any]:
    return load_checkpoint(file).card["training"]


def test_without_a_validation_case_the_last_weights_are_written_and_that_is_said(
    stage, tmp_path, caplog
) -> None:
    build, file, metric = stage
    training = build(run_in(tmp_path), 0, 2)
    assert f"no case validates: {file} gets the last weights" in caplog.text
    training.trainer.run()
    card = training_of(tmp_path / file)
    assert card["selected_by"] == "last"
    assert card["epoch"] == 2
    assert metric not in card
    last = load_checkpoint(tmp_path / file.replace(".", "_last.")).weights
    found = load_checkpoint(tmp_path / file).weights
    assert all(torch.equal(found[name], last[name]) for name in last)


def test_an_interval_longer_than_the_training_still_chooses(stage, tmp_path) -> None:
    build, file, metric = stage
    build(run_in(tmp_path, val_interval=9), 1, 2).trainer.run()
    card = training_of(tmp_path / file)
    assert card["selected_by"] == metric
    assert math.isfinite(card[metric])
    last = training_of(tmp_path / file.replace(".", "_last."))
    assert last["selected_by"] == "last"
    assert metric not in last, "the metric is that of other weights"


def test_a_training_that_a_handler_ends_early_has_its_file(stage, tmp_path) -> None:
    build, file, metric = stage
    trainer = build(run_in(tmp_path, val_interval=9), 1, 5).trainer
    trainer.add_event_handler(Events.ITERATION_COMPLETED(once=2), lambda engine: engine.terminate())
    trainer.run()
    card = training_of(tmp_path / file)
    assert (card["selected_by"], card["iteration"]) == (metric, 2)


@pytest.mark.parametrize("values", [[math.nan, math.nan], [math.nan, 3.0]])
def test_a_validation_that_gives_no_number_chooses_nothing(stage, tmp_path, values) -> None:
    build, file, metric = stage
    training = build(run_in(tmp_path), 1, 2)
    left = list(values)
    assert training.evaluator is not None
    training.evaluator.add_event_handler(
        Events.EPOCH_COMPLETED, lambda engine: engine.state.metrics.update({metric: left.pop(0)})
    )
    training.trainer.run()
    card = training_of(tmp_path / file)
    assert card["epoch"] == 2
    assert card["selected_by"] == (metric if math.isfinite(values[1]) else "last")


def test_a_finished_training_whose_file_was_removed_writes_the_last_weights(stage, tmp_path) -> None:
    build, file, _ = stage
    build(run_in(tmp_path), 1, 1).trainer.run()
    (tmp_path / file).unlink()
    build(run_in(tmp_path), 1, 1).trainer.run()
    assert training_of(tmp_path / file)["selected_by"] == "last"
