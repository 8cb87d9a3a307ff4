"""Latent diffusion over label maps: the schema in its checkpoints, one-hot volumes, and new anatomy.

The networks are those of images with one channel for each structure and one for the background: one-hot maps
go in, logits of a categorical distribution of each voxel come out. The most probable structure is taken.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from medldm.conditioning import ConditioningConfig, Conditions
from medldm.conditioning.config import SPATIAL_TYPES
from medldm.data.cohort import Cohort
from medldm.data.labels import LabelSchema
from medldm.label_maps.islands import remove_islands
from medldm.latent_diffusion.checkpoints import Checkpoint, CheckpointError, load_checkpoint
from medldm.latent_diffusion.config import LatentDiffusionConfig
from medldm.latent_diffusion.model import ConditionalDenoiser, LatentDiffusionModel
from medldm.latent_diffusion.model_files import Describe, load_latent_diffusion, make_latent_diffusion
from medldm.latent_diffusion.volume_space import VolumeSpace
from medldm.networks import VAE, LatentUNetConfig, VAEConfig
from medldm.sampling.sampler import LatentDiffusionSampler
from medldm.transforms import IntensityMapping

logger = logging.getLogger(__name__)

SCHEMA_KEY = "label_schema"
"""Name in a checkpoint's card of the structures, as `LabelSchema.to_dict` gives them."""

MAX_STRUCTURES = 255
"""Indices are kept as uint8."""


def require_schema(cohort: Cohort) -> LabelSchema:
    """Return the structures of a cohort.

    Raises:
        ValueError: if it has no label maps, or more structures than one byte can number.
    """
    if cohort.schema is None:
        raise ValueError("the cohort has no label maps: add labels/ and labels.json to it")
    if cohort.schema.n_structures > MAX_STRUCTURES:
        raise ValueError(
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
        conditioning_config: the conditions to train with.
        unet_config: of the denoiser.

    Raises:
        CheckpointError: if the first stage is of images, or of other structures.
        ValueError: for a condition that is itself a volume.
    """
    spatial = [] if conditioning_config is None else conditioning_config.conditioning_type
    if spatial := [name for name in spatial if name in SPATIAL_TYPES]:
        raise ValueError(f"conditions name {spatial}: a model of label maps takes class, scalars and text")
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


def load_label_map_model(
    path: str | Path,
) -> tuple[LatentDiffusionModel, LatentDiffusionConfig, LabelSchema]:
    """Rebuild a model of label maps from its file alone.

    Raises:
        CheckpointError: if the file is damaged, of another kind, or of a model of images.
    """
    model, config, checkpoint = load_latent_diffusion(path)
    return model, config, schema_of(checkpoint)


def draw_label_maps(
    model: LatentDiffusionModel,
    n: int,
    *,
    config: LatentDiffusionConfig,
    first_index: int = 0,
    conditions: Conditions | None = None,
    size: tuple[int, ...] | None = None,
    min_island_ml: float = 0.0,
    denoiser: ConditionalDenoiser | None = None,
    **settings: Any,
) -> Tensor:
    """Draw new anatomy.

    Args:
        model: of label maps, with a space.
        n: maps to draw.
        config: noise path and prediction type of the training.
        first_index: index of the first map in its seed; a map is the same alone and among others.
        conditions: of the n maps; None for the null of every condition.
        size: voxels (X, Y, Z); the training size if None.
        min_island_ml: connected components of a structure smaller than this are given to what surrounds them;
            0 leaves every voxel as it was drawn.
        denoiser: stands in the place of the model's own, e.g. the averaged one during a training.
        settings: fields of `SamplingConfig`: seed, num_steps, guidance_scale, ...

    Returns:
        (n, 1, X, Y, Z) uint8 on the CPU, the indices 0..K of the schema.

    Raises:
        ValueError: if the model has no space, or an argument is outside its range.
    """
    if model.space is None:
        raise ValueError("the model has no space (spacing and size): train it through the bundle")
    if n < 1 or min_island_ml < 0:
        raise ValueError(f"n is {n}, at least 1; min_island_ml is {min_island_ml}, at least 0 is needed")
    size = model.space.size if size is None else tuple(size)
    factor, channels = model.autoencoder.downsampling, model.autoencoder.latent_channels
    shape = (1, channels, *(-(-voxels // factor) for voxels in size))
    sampler = LatentDiffusionSampler(model, config, denoiser=denoiser)
    maps = []
    # One by one: the logits have as many channels as there are structures.
    for row in range(n):
        given = None if conditions is None else conditions[slice(row, row + 1)]
        logits = sampler.sample(shape, conditions=given, indices=[first_index + row], size=size, **settings)
        maps.append(decode_indices(logits).cpu())
    if min_island_ml == 0:
        return torch.cat(maps)
    return torch.cat([_clean(indices, model.space, min_island_ml) for indices in maps])


def _clean(indices: Tensor, space: VolumeSpace, min_island_ml: float) -> Tensor:
    cleaned, n_changed = remove_islands(indices[0, 0].numpy(), space.spacing_mm, min_island_ml=min_island_ml)
    logger.info("islands below %g ml removed: %d voxels changed", min_island_ml, n_changed)
    return torch.from_numpy(cleaned)[None, None]
