"""Trainings of both stages that are small enough to run a hundred times, whole in every part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from monai.data import CacheDataset
from monai.handlers import ValidationHandler
from monai.transforms import Compose
from torch.utils.data import DataLoader

from medldm import ConditioningConfig, LatentDiffusionConfig, LatentDiffusionModel, LatentUNetConfig
from medldm.latent_diffusion.checkpoints import hash_weights
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
from medldm.training.resume.resumable_trainer import ResumableTrainer
from medldm.training.resume.state_tree import flatten_state
from medldm.training.volumes import RandomPatchd

CPU = torch.device("cpu")
SEED, N_CASES, BATCH, EPOCHS = 3, 6, 2, 4
SMALL: dict[str, Any] = {"down_channels": (4, 8), "n_groups": 4, "mid_attention": False, "n_res_blocks": 1}


def make_first_stage(folder: Path) -> ResumableTrainer:
    """Build the training of a VQ-VAE with a discriminator on random patches."""
    seed_everything(SEED)
    network = make_autoencoder(VQVAEConfig(**SMALL, n_codes=8, restart_after=2))
    discriminator = PatchDiscriminator(PatchDiscriminatorConfig(channels=4, n_layers=1))
    average, optimizer = average_weights(network, 0.9), torch.optim.AdamW(network.parameters(), lr=1e-2)
    data = CacheDataset(_volumes(N_CASES), Compose([RandomPatchd(("image",), (8, 8, 8))]), progress=False)
    evaluator = AutoencoderEvaluator(CPU, DataLoader(_volumes(1)), network=average.module)
    writer = CheckpointWriter(
        folder,
        name="autoencoder",
        describe=describe_autoencoder(average.module, None),
        evaluator=evaluator,
        metric="psnr",
        larger_is_better=True,
    )
    return AutoencoderTrainer(
        CPU,
        EPOCHS,
        training_loader(data, batch_size=BATCH, seed=SEED),
        network=network,
        optimizer=optimizer,
        schedule=make_schedule(optimizer, kind="cosine", warmup_steps=2, total_steps=12),
        loss=AutoencoderLoss(AutoencoderLossConfig(adversarial_start=2)),
        discriminator=discriminator,
        discriminator_optimizer=torch.optim.AdamW(discriminator.parameters(), lr=1e-3),
        average=average,
        train_handlers=_handlers(folder, evaluator, writer),
    )


def make_second_stage(folder: Path) -> ResumableTrainer:
    """Build the training of a denoiser with a class as its condition."""
    seed_everything(SEED)
    model = LatentDiffusionModel(
        autoencoder_config=VAEConfig(**SMALL, latent_channels=3),
        conditioning_config=ConditioningConfig(conditioning_type=("class",), num_classes=3, context_dim=8),
        unet_config=LatentUNetConfig(down_channels=(8, 16), n_groups=4, n_heads=2, n_res_blocks=1),
    )
    config = LatentDiffusionConfig(learning_rate=1e-3, ema_decay=0.9)
    entries = LatentDataset(_latents(N_CASES))
    average = average_weights(model.denoiser, 0.9)
    optimizer = torch.optim.AdamW(model.denoiser.parameters(), lr=1e-3)
    evaluator = DiffusionEvaluator(
        CPU,
        DataLoader(LatentDataset(_latents(1))),
        network=model,
        config=config,
        average=average,
        n_times=2,
    )
    writer = CheckpointWriter(
        folder,
        name="latent_diffusion",
        describe=describe_latent_diffusion(model, config, denoiser=average.module),
        evaluator=evaluator,
        metric="validation_loss",
        larger_is_better=False,
    )
    return DiffusionTrainer(
        CPU,
        EPOCHS,
        training_loader(entries, batch_size=BATCH, seed=SEED),
        network=model,
        config=config,
        optimizer=optimizer,
        schedule=make_schedule(optimizer, warmup_steps=2),
        average=average,
        train_handlers=_handlers(folder, evaluator, writer),
    )


STAGES = {"autoencoder": make_first_stage, "diffusion": make_second_stage}


def hash_state(trainer: ResumableTrainer) -> str:
    """Return a hash of every tensor of a training: weights, averages, optimisers, generators."""
    tensors, _ = flatten_state(trainer.training_state())
    return hash_weights(tensors)


def _handlers(folder: Path, evaluator: Any, writer: CheckpointWriter) -> list[Any]:
    log = TrainingLog(folder / "logs", evaluator=evaluator)
    state_handler = TrainingStateHandler(
        folder / "state", handlers=[log, writer], evaluator=evaluator, every_steps=1
    )
    return [ValidationHandler(interval=1, validator=evaluator), log, writer, state_handler]


def _volumes(n: int) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(1)
    return [{"image": torch.rand(1, 12, 12, 12, generator=generator) * 2 - 1} for _ in range(n)]


def _latents(n: int) -> list[Any]:
    generator = torch.Generator().manual_seed(2)
    return [
        {
            "mean": torch.randn(3, 4, 4, 4, generator=generator),
            "std": torch.rand(3, 4, 4, 4, generator=generator),
            "class": torch.tensor(i % 3),
        }
        for i in range(n)
    ]
