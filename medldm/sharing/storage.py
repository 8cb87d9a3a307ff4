"""Weights stored in half the bytes, exact on load, and what that costs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from medldm.errors import ConfigError
from medldm.latent_diffusion.model import LatentDiffusionModel
from medldm.networks.downsampling import latent_size
from medldm.seeds import volume_seed

HALVES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
SMALL = 4096
"""Values of a tensor below which nothing is won: norms, biases and statistics keep float32."""


def halve(weights: Mapping[str, Tensor], half: str) -> dict[str, Tensor]:
    """Return weights with their large float tensors rounded to the nearest number of a half type.

    The linear path is kept as it is: it is small, and orthogonal.

    Args:
        weights: name to tensor.
        half: "float16" or "bfloat16".

    Raises:
        ConfigError: if a weight is too large for the type.
    """
    rounded = {}
    for name, tensor in weights.items():
        is_large = tensor.numel() >= SMALL and tensor.is_floating_point() and "linear_path" not in name
        rounded[name] = tensor.to(HALVES[half]) if is_large else tensor
        if not torch.isfinite(rounded[name]).all():
            raise ConfigError(f"the weight {name} is too large for {half}: take bfloat16, or none")
    return rounded


@torch.no_grad()
def measure_loss(
    model: LatentDiffusionModel, weights: Mapping[str, Tensor], stored: Mapping[str, Tensor]
) -> dict[str, float]:
    """Say how much of a model is lost by rounding its weights.

    Args:
        model: whose weights are replaced by the stored ones.
        weights: before rounding.
        stored: after it.

    Returns:
        "weights": the largest change of a weight, relative to the largest weight of its tensor. "volume":
        root mean square change of a volume decoded from standard normal latents, of a range of 2.
    """
    latents = draw_latents(model)
    before = model.decode(latents)
    model.load_state_dict({name: tensor.float() for name, tensor in stored.items()})
    changes = [
        float((stored[name].float() - tensor).abs().max() / tensor.abs().max().clamp_min(1e-30))
        for name, tensor in weights.items()
        if stored[name].dtype != tensor.dtype
    ]
    volume = (model.decode(latents) - before).square().mean().sqrt()
    return {"weights": max(changes, default=0.0), "volume": float(volume)}


def describe_storage(half: str, loss: Mapping[str, float], *, weights_sha256: str) -> dict[str, Any]:
    """Return what a packaged card says of its weights' type."""
    return {"dtype": half, "loss": dict(loss), "rounded_from": weights_sha256}


def draw_latents(model: LatentDiffusionModel) -> Tensor:
    """Return standard normal latents (1, C, x, y, z) of a volume of the model's size, the same each time."""
    factors = model.autoencoder.downsampling
    size = latent_size(model.space.size, factors) if model.space is not None else (8, 8, 8)
    generator = torch.Generator().manual_seed(volume_seed(0, 0))
    return torch.randn(1, model.autoencoder.latent_channels, *size, generator=generator)
