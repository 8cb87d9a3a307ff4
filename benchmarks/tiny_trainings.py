"""Trainings of both stages that take a second, with all parts: benchmarks and tests stop and kill them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from monai.data import CacheDataset
from monai.transforms import Compose

from medldm import ConditioningConfig, LatentDiffusionConfig, LatentDiffusionModel, LatentUNetConfig
from medldm.latent_diffusion.checkpoints import hash_weights
from medldm.latent_diffusion.model import make_autoencoder
from medldm.networks import PatchDiscriminator, PatchDiscriminatorConfig, VAEConfig, VQVAEConfig
from medldm.seeds import seed_everything
from medldm.training import (
    Augmentation,
    AugmentationConfig,
    AutoencoderLoss,
    AutoencoderLossConfig,
    AutoencoderTrainingConfig,
    LatentDataset,
    RunConfig,
    build_autoencoder_training,
    build_diffusion_training,
    measure_latent_statistics,
)
from medldm.training.decoder import DecoderCases, DecoderConfig, build_decoder_training
from medldm.training.diffusion import DiffusionEvaluator
from medldm.training.previews import SampleWriter
from medldm.training.resume.resumable_trainer import ResumableTrainer
from medldm.training.resume.state_tree import flatten_state
from medldm.training.volumes import RandomPatchd

SEED, N_CASES, BATCH, EPOCHS = 3, 5, 2, 3
LENGTH = 3
"""Batches of an epoch; the last one has one case."""
SMALL: dict[str, Any] = {"down_channels": (4, 8), "n_groups": 4, "mid_attention": False, "n_res_blocks": 1}
FIRST_STAGES = {
    "vae": VAEConfig(**SMALL),
    "vqvae": VQVAEConfig(**SMALL, n_codes=8, restart_after=2),
    "linear": VAEConfig(**SMALL, linear_path=True, latent_channels=6),
    "lapped": VAEConfig(**SMALL, linear_path="lapped", latent_channels=6),
}


def make_first_stage(
    folder: Path, kind: str = "vqvae", *, settings: Mapping[str, Any] | None = None, **running: Any
) -> ResumableTrainer:
    """Build the training of an autoencoder with a discriminator on random patches.

    Args:
        folder: for all it writes.
        kind: one of `FIRST_STAGES`.
        settings: fields of the training's configuration.
        running: fields of `RunConfig`.
    """
    seed_everything(SEED)
    network = make_autoencoder(FIRST_STAGES[kind])
    patches = Compose([RandomPatchd(("image",), (8, 8, 8))])
    return build_autoencoder_training(
        network,
        CacheDataset(make_volumes(N_CASES), patches, progress=False),
        validation_set=CacheDataset(make_volumes(1), progress=False),
        loss=AutoencoderLoss(AutoencoderLossConfig(adversarial_start=2)),
        discriminator=PatchDiscriminator(PatchDiscriminatorConfig(channels=4, n_layers=1)),
        config=AutoencoderTrainingConfig(
            n_epochs=EPOCHS,
            learning_rate=1e-2,
            discriminator_learning_rate=1e-3,
            warmup_steps=2,
            ema_decay=0.9,
            seed=SEED,
        ).copy(**(settings or {})),
        run=make_run(folder, **running),
    ).trainer


def make_second_stage(
    folder: Path,
    *,
    sharding: str = "ddp",
    settings: Mapping[str, Any] | None = None,
    is_augmented: bool = False,
    **running: Any,
) -> ResumableTrainer:
    """Build the training of a denoiser with a class as its condition.

    Args:
        folder: for all it writes.
        sharding: how several processes share the denoiser.
        settings: fields of the training's configuration.
        is_augmented: whether each case has two further copies, of which the denoiser is told.
        running: fields of `RunConfig`.
    """
    seed_everything(SEED)
    augmentation = Augmentation(AugmentationConfig(), spacing_mm=(1, 1, 1), copies=3, seed=SEED)
    copies = make_copies(augmentation) if is_augmented else ()
    told = augmentation.n_channels if is_augmented else 0
    model = LatentDiffusionModel(
        autoencoder_config=VAEConfig(**SMALL, latent_channels=3),
        conditioning_config=ConditioningConfig(conditioning_type=("class",), num_classes=3, context_dim=8),
        unet_config=LatentUNetConfig(
            down_channels=(8, 16),
            n_groups=4,
            n_heads=2,
            n_res_blocks=1,
            augmentation_channels=told,
            dropout=0.1,
        ),
    )
    # Some layers start at zero; random weights make every part of the state matter.
    for weight in model.denoiser.unet.parameters():
        if weight.ndim > 1 and not weight.any():
            torch.nn.init.normal_(weight, std=0.1)
    training = build_diffusion_training(
        model,
        LatentDataset(
            make_latents(N_CASES), copies=copies, augmentation=augmentation if is_augmented else None
        ),
        validation_set=LatentDataset(make_latents(1)),
        config=LatentDiffusionConfig(
            n_epochs=EPOCHS, learning_rate=1e-3, warmup_steps=2, ema_decay=0.9, seed=SEED
        ).copy(**(settings or {})),
        run=make_run(folder, **running),
        sharding=sharding,
    )
    # Else most of the time goes into validations and previews.
    if isinstance(training.evaluator, DiffusionEvaluator):
        training.evaluator.n_times = 2
    for handler in training.handlers:
        if isinstance(handler, SampleWriter):
            handler.num_steps = 2
    return training.trainer


def make_third_stage(folder: Path, *, kind: str = "vae", **running: Any) -> ResumableTrainer:
    """Build the training of a decoder on denoised latents, with a discriminator, on random patches.

    Args:
        folder: for all it writes.
        kind: "vae" or "vqvae".
        running: fields of `RunConfig`.
    """
    seed_everything(SEED)
    model = make_small_model(FIRST_STAGES[kind])
    volumes = make_volumes(N_CASES)
    return build_decoder_training(
        model,
        DecoderCases(encode_all(model, volumes), volumes),
        validation_set=DecoderCases(encode_all(model, volumes[:1]), volumes[:1]),
        config=DecoderConfig(
            n_steps=9,
            batch_size=BATCH,
            patch_size=(8, 8, 8),
            denoising_steps=2,
            learning_rate=1e-2,
            warmup_steps=2,
            adaptive_weight=0.5,
            ema_decay=0.9,
            seed=SEED,
        ),
        diffusion=LatentDiffusionConfig(prediction_type="v_prediction"),
        discriminator=PatchDiscriminator(PatchDiscriminatorConfig(channels=4, n_layers=1)),
        run=make_run(folder, **running),
    ).trainer


def make_small_model(autoencoder: VAEConfig | VQVAEConfig) -> LatentDiffusionModel:
    """Return a model with a class as its condition, every weight of which matters."""
    model = LatentDiffusionModel(
        autoencoder_config=autoencoder,
        conditioning_config=ConditioningConfig(conditioning_type=("class",), num_classes=3, context_dim=8),
        unet_config=LatentUNetConfig(down_channels=(8, 16), n_groups=4, n_heads=2, n_res_blocks=1),
    )
    for weight in model.denoiser.unet.parameters():
        if weight.ndim > 1 and not weight.any():
            torch.nn.init.normal_(weight, std=0.1)
    return model


def encode_all(model: LatentDiffusionModel, volumes: list[dict[str, Any]]) -> LatentDataset:
    """Return the latents of volumes, with a class each; the model gets their statistics."""
    entries: list[Any] = []
    for number, case in enumerate(volumes):
        with torch.no_grad():
            mean, std = model.autoencoder.encode_moments(case["image"][None])
        entries.append({"mean": mean[0], "std": std[0], "class": torch.tensor(number % 3)})
    latents = LatentDataset(entries)
    if len(volumes) > 1:
        measure_latent_statistics(model, latents)
    return latents


STAGES = {"autoencoder": make_first_stage, "diffusion": make_second_stage}


def make_run(folder: Path, **running: Any) -> RunConfig:
    """Return how these trainings run: of two batches, the state after the second is saved."""
    own = {"output_dir": str(folder), "batch_size": BATCH, "save_batches": 2}
    return RunConfig(**(own | running))


def hash_state(trainer: ResumableTrainer) -> str:
    """Return a hash of every tensor of a training: weights, averages, optimisers, generators."""
    tensors, _ = flatten_state(trainer.training_state())
    return hash_weights(tensors)


def make_volumes(n: int) -> list[dict[str, Any]]:
    """Return cases of noise."""
    generator = torch.Generator().manual_seed(1)
    return [{"image": torch.rand(1, 12, 12, 12, generator=generator) * 2 - 1} for _ in range(n)]


def make_latents(n: int) -> list[Any]:
    """Return entries of a latent cache."""
    generator = torch.Generator().manual_seed(2)
    return [
        {
            "mean": torch.randn(3, 4, 4, 4, generator=generator),
            "std": torch.rand(3, 4, 4, 4, generator=generator),
            "class": torch.tensor(i % 3),
        }
        for i in range(n)
    ]


def make_copies(augmentation: Augmentation) -> list[list[dict[str, Any]]]:
    """Return two further entries of each case, with what is told of them."""
    made = []
    for number, entry in enumerate(make_latents(N_CASES)):
        draws = [augmentation.draw(str(number), copy, size=(8, 8, 8)) for copy in (1, 2)]
        made.append(
            [
                {**entry, "mean": entry["mean"].flip(k + 1), "augmentation": torch.tensor(drawn.vector)}
                for k, drawn in enumerate(draws)
            ]
        )
    return made
