"""Latent diffusion over label maps: the schema in its checkpoints, one-hot volumes, and both stages.

The networks are those of images with one channel for each structure and one for the background: one-hot maps
go in, logits of a categorical distribution of each voxel come out. The most probable structure is taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from medldm.conditioning import ConditioningConfig
from medldm.conditioning.config import SPATIAL_TYPES
from medldm.data.cohort import Cohort
from medldm.data.labels import LabelSchema
from medldm.errors import CheckpointError, ConfigError
from medldm.latent_diffusion.checkpoints import SCHEMA_KEY, Checkpoint, load_checkpoint
from medldm.latent_diffusion.config import LatentDiffusionConfig
from medldm.latent_diffusion.model import LatentDiffusionModel
from medldm.latent_diffusion.model_files import Describe, load_latent_diffusion, make_latent_diffusion
from medldm.latent_diffusion.volume_space import VolumeSpace
from medldm.networks import VAE, LatentUNetConfig, VAEConfig
from medldm.transforms import IntensityMapping

MAX_STRUCTURES = 255
"""Indices are kept as uint8."""


def require_schema(cohort: Cohort) -> LabelSchema:
    """Return the structures of a cohort.

    Raises:
        ConfigError: if it has no label maps, or more structures than one byte can number.
    """
    if cohort.schema is None:
        raise ConfigError("the cohort has no label maps: add labels/ and labels.json to it")
    if cohort.schema.n_structures > MAX_STRUCTURES:
        raise ConfigError(
            f"the cohort has {cohort.schema.n_structures} structures; {MAX_STRUCTURES} at most can be "
            "modelled: merge some of them"
        )
    return cohort.schema


def label_map_space(spacing_mm: tuple[float, ...], size: tuple[int, ...]) -> VolumeSpace:
    """Return the space of label maps, whose intensity is a channel's 0 or 1."""
    intensity = IntensityMapping(kind="identity_range", lower=0.0, upper=1.0)
    return VolumeSpace(spacing_mm=spacing_mm, size=size, intensity=intensity)  # type: ignore[arg-type]


def build_label_map_autoencoder(schema: LabelSchema, **options: Any) -> VAE:
    """Build the first stage for the structures of a schema.

    Args:
        schema: its K structures and the background are the K + 1 channels in and out.
        options: further fields of `VAEConfig`.
    """
    channels = schema.n_structures + 1
    return VAE(VAEConfig.from_dict({**options, "in_channels": channels, "out_channels": channels}))


def encode_one_hot(indices: Tensor, n_classes: int) -> Tensor:
    """Return indices (B, 1, X, Y, Z) as one-hot volumes (B, n_classes, X, Y, Z) float32."""
    return one_hot(indices[:, 0].long(), n_classes).movedim(-1, 1).float()


def decode_indices(logits: Tensor) -> Tensor:
    """Return the most probable class of each voxel, (B, K + 1, X, Y, Z) to (B, 1, X, Y, Z) uint8."""
    return logits.argmax(dim=1, keepdim=True).to(torch.uint8)


def describe_with_schema(describe: Describe, schema: LabelSchema) -> Describe:
    """Add the structures to the card that `describe` gives."""

    def described() -> tuple[Mapping[str, Tensor], dict[str, Any]]:
        weights, card = describe()
        return weights, {**card, SCHEMA_KEY: schema.to_dict()}

    return described


def schema_of(checkpoint: Checkpoint) -> LabelSchema:
    """Return the structures that a checkpoint's channels stand for.

    Raises:
        CheckpointError: if the checkpoint is not of a model of label maps.
    """
    if SCHEMA_KEY not in checkpoint.card:
        raise CheckpointError(
            f"{checkpoint.path} is not of a model of label maps: give one trained by the bundle labelmap_ldm"
        )
    return LabelSchema.from_dict(checkpoint.card[SCHEMA_KEY])


def make_label_map_diffusion(
    autoencoder_path: str | Path,
    *,
    schema: LabelSchema,
    conditioning_config: ConditioningConfig | None = None,
    unet_config: LatentUNetConfig | None = None,
) -> LatentDiffusionModel:
    """Build an untrained second stage around a trained first stage of label maps.

    Args:
        autoencoder_path: written by the first stage; its space becomes the model's.
        schema: of the cohort to train on; it must be that of the first stage.

    Raises:
        CheckpointError: if the first stage is of images, or of other structures.
        ConfigError: for a condition that is itself a volume.
    """
    spatial = [] if conditioning_config is None else conditioning_config.conditioning_type
    if spatial := [name for name in spatial if name in SPATIAL_TYPES]:
        raise ConfigError(f"conditions name {spatial}: a model of label maps takes class, scalars and text")
    found = schema_of(load_checkpoint(autoencoder_path, kind="autoencoder"))
    if dict(found.structures) != dict(schema.structures):
        raise CheckpointError(
            f"{autoencoder_path} was trained on the structures {dict(found.structures)}, the cohort has "
            f"{dict(schema.structures)}: give the cohort of stage 1, or train stage 1 again"
        )
    return make_latent_diffusion(
        autoencoder_path,
        conditioning_config=conditioning_config,
        unet_config=unet_config,
        autoencoder_type="vae",
    )


def load_label_map_model(path: str | Path) -> tuple[LatentDiffusionModel, LatentDiffusionConfig, LabelSchema]:
    """Rebuild a model of label maps from its file alone.

    Raises:
        CheckpointError: if the file is damaged, of another kind, or of a model of images.
    """
    model, config, checkpoint = load_latent_diffusion(path)
    return model, config, schema_of(checkpoint)
