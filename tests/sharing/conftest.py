"""Tiny trained-looking models in files, with cards as trainings write them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from medldm import LatentDiffusionConfig, LatentDiffusionModel, LatentUNetConfig, VAEConfig
from medldm.data.labels import LabelSchema
from medldm.data.split_record import SplitRecord
from medldm.latent_diffusion.checkpoints import save_checkpoint
from medldm.latent_diffusion.label_maps import describe_with_schema, label_map_space
from medldm.latent_diffusion.model_files import describe_latent_diffusion
from medldm.latent_diffusion.recorded_split import describe_with_split

CONFIG = LatentDiffusionConfig(prediction_type="v_prediction", noise_schedule="scaled_linear")
SPLIT = SplitRecord(
    validation_fraction=0.1,
    test_fraction=0.1,
    seed=3,
    parts={"training": "ab" * 8, "validation": "cd" * 8, "test": "ef" * 8},
    key_id="0123",
    cases={"training": ("1" * 16, "2" * 16)},
)


@pytest.fixture
def save_model(make_model: Callable[..., Any], tmp_path: Path) -> Callable[..., Path]:
    """Write the checkpoint of a tiny model of images, with more in its card where asked."""

    def save(
        conditioning_type: tuple[str, ...] = ("label_map",),
        *,
        more: dict[str, Any] | None = None,
        **options: Any,
    ) -> Path:
        model = make_model(conditioning_type, **options)
        weights, card = describe_with_split(describe_latent_diffusion(model, CONFIG), SPLIT)()
        path = tmp_path / "trained" / "latent_diffusion.safetensors"
        save_checkpoint(path, weights, {**card, **(more or {})})
        return path

    return save


@pytest.fixture
def save_label_map_model(tmp_path: Path) -> Callable[..., Path]:
    """Write the checkpoint of a tiny model of label maps."""

    def save(structures: dict[int, str] | None = None) -> Path:
        torch.manual_seed(1)
        schema = LabelSchema(structures=structures or {1: "shell", 5: "core"})
        channels = schema.n_structures + 1
        model = LatentDiffusionModel(
            autoencoder_config=VAEConfig(
                in_channels=channels,
                out_channels=channels,
                down_channels=(4, 8),
                n_groups=4,
                n_res_blocks=1,
                mid_attention=False,
            ),
            unet_config=LatentUNetConfig(down_channels=(8, 16), n_groups=4, n_heads=2, n_res_blocks=1),
            space=label_map_space((1.0, 1.0, 1.0), (16, 20, 16)),
            makes_label_maps=True,
        ).eval()
        path = tmp_path / "trained_maps" / "latent_diffusion.safetensors"
        save_checkpoint(path, *describe_with_schema(describe_latent_diffusion(model, CONFIG), schema)())
        return path

    return save
