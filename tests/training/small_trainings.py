"""Trainings of both stages that take a second, whole in every part: what the tests stop, kill and share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Events
from monai.data import CacheDataset
from monai.handlers import ValidationHandler
from monai.transforms import Compose
from torch.utils.data import DataLoader

from medldm import LatentDiffusionConfig
from medldm.latent_diffusion.model import make_autoencoder
from medldm.latent_diffusion.model_files import describe_autoencoder, describe_latent_diffusion
from medldm.networks import PatchDiscriminator, PatchDiscriminatorConfig, VAEConfig, VQVAEConfig
from medldm.seeds import seed_everything
from medldm.training import (
    AutoencoderEvaluator,
    AutoencoderLoss,
    AutoencoderLossConfig,
    AutoencoderTrainer,
    CheckpointWriter,
    DiffusionEvaluator,
    DiffusionTrainer,
    LatentDataset,
    TrainingLog,
    TrainingStateHandler,
    average_weights,
    make_schedule,
    training_loader,
)
from medldm.training.volumes import RandomPatchd

CPU = torch.device("cpu")
SMALL = {"down_channels": (4, 8), "n_groups": 4, "mid_attention": False, "n_res_blocks": 1}
FIRST_STAGES = {"vae": VAEConfig(**SMALL), "vqvae": VQVAEConfig(**SMALL, n_codes=8, restart_after=2)}
N_CASES, BATCH, EPOCHS = 5, 2, 3
LENGTH = 3
"""Batches of an epoch."""


def volumes(n: int) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(1)
    return [{"image": torch.rand(1, 12, 12, 12, generator=generator) * 2 - 1} for _ in range(n)]


def finish(trainer_class, loader, folder, *, stage, writer_of, evaluator, keeping, **options):
    """Build a trainer with a log, a writer and a state handler."""
    log = TrainingLog(folder / "logs", evaluator=evaluator)
    writer = writer_of(evaluator)
    keeping = {"every_steps": 2} | keeping
    state_handler = TrainingStateHandler(
        folder / "state" / stage, handlers=[log, writer], evaluator=evaluator, **keeping
    )
    return trainer_class(
        CPU,
        EPOCHS,
        loader,
        train_handlers=[ValidationHandler(interval=1, validator=evaluator), log, writer, state_handler],
        **options,
    )


def make_first_stage(folder: Path, kind: str = "vae", *, num_workers: int = 0, **keeping: Any):
    seed_everything(3)
    network = make_autoencoder(FIRST_STAGES[kind])
    discriminator = PatchDiscriminator(PatchDiscriminatorConfig(channels=4, n_layers=1))
    average = average_weights(network, 0.9)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    data = CacheDataset(volumes(N_CASES), Compose([RandomPatchd(("image",), (8, 8, 8))]), progress=False)
    evaluator = AutoencoderEvaluator(CPU, DataLoader(volumes(1)), network=average.module)
    return finish(
        AutoencoderTrainer,
        training_loader(data, batch_size=BATCH, seed=7, num_workers=num_workers),
        folder,
        stage="autoencoder",
        evaluator=evaluator,
        writer_of=lambda evaluator: CheckpointWriter(
            folder,
            name="autoencoder",
            describe=describe_autoencoder(average.module, None),
            evaluator=evaluator,
            metric="psnr",
            larger_is_better=True,
        ),
        network=network,
        optimizer=optimizer,
        schedule=make_schedule(optimizer, kind="cosine", warmup_steps=2, total_steps=9),
        loss=AutoencoderLoss(AutoencoderLossConfig(adversarial_start=2)),
        discriminator=discriminator,
        discriminator_optimizer=torch.optim.AdamW(discriminator.parameters(), lr=1e-3),
        average=average,
        keeping=keeping,
    )


def make_second_stage(
    folder: Path, make_model, *, num_workers: int = 0, sharding: str = "ddp", **keeping: Any
):
    seed_everything(3)
    model = make_model(("class",))
    config = LatentDiffusionConfig(n_epochs=EPOCHS, learning_rate=1e-3, ema_decay=0.9)
    generator = torch.Generator().manual_seed(2)
    entries = [
        {
            "mean": torch.randn(3, 4, 4, 4, generator=generator),
            "std": torch.rand(3, 4, 4, 4, generator=generator),
            "class": torch.tensor(i % 3),
        }
        for i in range(N_CASES)
    ]
    average = average_weights(model.denoiser, 0.9)
    optimizer = torch.optim.AdamW(model.denoiser.parameters(), lr=1e-3)
    validation = DataLoader(LatentDataset(entries[:1]))
    evaluator = DiffusionEvaluator(CPU, validation, network=model, config=config, average=average, n_times=2)
    return finish(
        DiffusionTrainer,
        training_loader(LatentDataset(entries), batch_size=BATCH, seed=7, num_workers=num_workers),
        folder,
        stage="diffusion",
        evaluator=evaluator,
        writer_of=lambda evaluator: CheckpointWriter(
            folder,
            name="latent_diffusion",
            describe=describe_latent_diffusion(model, config, denoiser=average.module),
            evaluator=evaluator,
            metric="validation_loss",
            larger_is_better=False,
        ),
        network=model,
        config=config,
        optimizer=optimizer,
        schedule=make_schedule(optimizer, warmup_steps=2),
        average=average,
        sharding=sharding,
        keeping=keeping,
    )


class Killed(BaseException):
    """Stands for a kill: nothing of the process survives."""


def run_killed_after(trainer, batches: int) -> None:
    """Run, and die after a number of batches; of two batches one is saved."""

    def die(engine) -> None:
        raise Killed

    trainer.add_event_handler(Events.ITERATION_COMPLETED(once=batches), die)
    with pytest.raises(Killed):
        trainer.run()
