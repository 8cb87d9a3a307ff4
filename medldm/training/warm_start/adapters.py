"""Low-rank adapters: what a denoiser learns on few cases, in few weights beside those it began with.

    W' = W + B A,        W (out, in k^3), A (r, in k^3), B (out, r)

W stays as it is, A begins at random and B at zero, so that the training begins with W to the bit. For a
convolution A is one with its kernel to r channels, and B one of a single voxel back. The layers of the levels
and of the middle are adapted; conditioner, embeddings, input and output are trained in full, for conditions
may be new. B A is added to W when a checkpoint is written: inference needs nothing new.

Source: Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", arXiv 2106.09685, Eq. 3, with
the factor alpha / r at 1; the factorised convolution as LoCon has it in Yeh et al. 2023, "Navigating
Text-To-Image Customization: From LyCORIS Fine-Tuning to Model Evaluation", arXiv 2309.14859.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from medldm.latent_diffusion.model import ConditionalDenoiser
from medldm.latent_diffusion.model_files import Describe
from medldm.seeds import numbered_seed
from medldm.training.warm_start.freezing import MIDDLE, choose_frozen, parts_of_denoiser

logger = logging.getLogger(__name__)

_WEIGHT = "weight"
_ORIGINAL = f".parametrizations.{_WEIGHT}.original"
_UPDATE = f".parametrizations.{_WEIGHT}.0."


class LowRankUpdate(nn.Module):
    """Add B A to a weight (out, in, ...): the parametrization of a layer.

    Args:
        weight: to adapt.
        rank: r; at most the sizes of the weight are of use, and no more are taken.
        generator: of A.
    """

    def __init__(self, weight: Tensor, rank: int, *, generator: torch.Generator) -> None:
        super().__init__()
        n_out, n_in = weight.shape[0], weight[0].numel()
        rank = min(rank, n_out, n_in)
        bound = 1 / math.sqrt(n_in)
        down = (2 * torch.rand(rank, n_in, generator=generator) - 1) * bound
        self.down = nn.Parameter(down.to(weight))
        self.up = nn.Parameter(torch.zeros(n_out, rank).to(weight))

    def forward(self, weight: Tensor) -> Tensor:
        """Return W + B A."""
        return add_update(weight, self.down, self.up)


def add_update(weight: Tensor, down: Tensor, up: Tensor) -> Tensor:
    """Return W + B A in the shape of W."""
    return weight + (up @ down).view_as(weight)


def add_adapters(
    denoiser: ConditionalDenoiser,
    rank: int | None,
    *,
    freeze: str | Sequence[str] | None = None,
    seed: int = 0,
) -> None:
    """Adapt the layers of a denoiser's levels and middle, whose own weights are frozen; nothing for None.

    Args:
        denoiser: to train.
        rank: of the adapters.
        freeze: parts that get none.
        seed: of the training, from which the beginnings follow.
    """
    if rank is None:
        return
    frozen = choose_frozen(denoiser, freeze)
    generator = torch.Generator().manual_seed(numbered_seed(seed, rank))
    parts = {
        name: modules
        for name, modules in parts_of_denoiser(denoiser).items()
        if name not in frozen and (name == MIDDLE or name.startswith("level_"))
    }
    n_layers = 0
    for part in (module for modules in parts.values() for module in modules):
        part.requires_grad_(False)
        for layer in [each for each in part.modules() if isinstance(each, (nn.Conv3d, nn.Linear))]:
            update = LowRankUpdate(layer.weight, rank, generator=generator)
            parametrize.register_parametrization(layer, _WEIGHT, update)
            n_layers += 1
    n_trained = sum(weight.numel() for weight in denoiser.parameters() if weight.requires_grad)
    logger.info("adapters of rank %d in %d layers; %d weights are trained", rank, n_layers, n_trained)


def merge_adapters(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights with every adapter added to what it adapts, under the names of a network without."""
    merged = {}
    for name, value in weights.items():
        if name.endswith(_ORIGINAL):
            layer = name.removesuffix(_ORIGINAL)
            down, up = weights[f"{layer}{_UPDATE}down"], weights[f"{layer}{_UPDATE}up"]
            merged[f"{layer}.{_WEIGHT}"] = add_update(value, down, up)
        elif _UPDATE not in name:
            merged[name] = value
    return merged


def describe_merged(describe: Describe) -> Describe:
    """Return a function that merges the adapters in the weights of a checkpoint."""

    def described() -> tuple[Mapping[str, Tensor], dict[str, Any]]:
        weights, card = describe()
        return merge_adapters(weights), card

    return described
