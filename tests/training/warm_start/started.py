"""Checkpoints to start from, written by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medldm import LatentDiffusionConfig, LatentDiffusionModel
from medldm.latent_diffusion.checkpoints import save_checkpoint
from medldm.latent_diffusion.label_maps import describe_with_schema
from medldm.latent_diffusion.model_files import describe_autoencoder, describe_latent_diffusion
from medldm.training.warm_start import StartCheckpoint, StartPlan, open_start, plan_denoiser_start

V = LatentDiffusionConfig(prediction_type="v_prediction")


def save_model(model: LatentDiffusionModel, path: Path, *, config: LatentDiffusionConfig = V) -> Path:
    save_checkpoint(path, *describe_latent_diffusion(model, config)())
    return path


def save_autoencoder(network: Any, path: Path, *, space: Any = None, schema: Any = None) -> Path:
    describe = describe_autoencoder(network, space)
    save_checkpoint(path, *(describe if schema is None else describe_with_schema(describe, schema))())
    return path


def opened(path: Path, *, stage: str = "diffusion", **options: Any) -> StartCheckpoint:
    start = open_start(path, stage=stage, **options)
    assert start is not None
    return start


def plan_of(
    path: Path, model: LatentDiffusionModel, *, config: LatentDiffusionConfig = V, **options: Any
) -> StartPlan:
    plan = plan_denoiser_start(opened(path, **options), model, config=config)
    assert plan is not None
    return plan
