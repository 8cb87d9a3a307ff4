"""Weights of the denoiser's loss by structure, so that small ones count for more than their few latents.

Each voxel has the weight of its structure; a latent has the mean of those of its block of voxels, by the
share of each structure in it. A case's weights are divided by their mean, so that the loss keeps its scale:

    loss = sum_i w_i e_i^2 / sum_i w_i                                                              Eq. (1)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from medldm.configs import unknown_name_message
from medldm.errors import ConfigError
from medldm.latent_diffusion.config import LatentDiffusionConfig
from medldm.latent_diffusion.model import LatentDiffusionModel
from medldm.training.latent_dataset import LatentDataset
from medldm.training.volumes import SPATIAL_KEYS, UNKNOWN

BACKGROUND = "background"
LARGEST_INVERSE = 10.0
"""Largest weight that an inverse volume gives."""


class RegionWeights:
    """Turn label maps into weights on the grid of the latents.

    Args:
        weights: name of a structure, or "background", to its weight; 1 for those left out.
        structures: value in the files to name, as of the model's conditions.

    Raises:
        ConfigError: for a name that is no structure.
    """

    def __init__(self, weights: Mapping[str, float], structures: Mapping[Any, str]) -> None:
        names = name_regions(structures)
        for name in weights:
            if name not in names:
                raise ConfigError(unknown_name_message(name, names, kind="structure in region_weights"))
        self.table = torch.tensor([float(weights.get(name, 1.0)) for name in names])

    def on_latents(self, labels: Tensor, size: Sequence[int], factors: Sequence[int]) -> Tensor:
        """Return the weights (B, 1, x, y, z), of mean 1 in each case.

        Args:
            labels: (B, 1, X, Y, Z), 0 for background and 1 to K for the structures.
            size: (x, y, z) of the latents.
            factors: voxels of each axis to one latent.
        """
        of_voxels = self.table.to(labels.device)[labels.long()]
        missing = [n * f - m for n, f, m in zip(size, factors, labels.shape[2:], strict=True)]
        # As the autoencoder pads its volumes.
        padding = [amount for n in reversed(missing) for amount in (0, n)]
        of_latents = F.avg_pool3d(F.pad(of_voxels, padding, mode="replicate"), tuple(factors))
        return of_latents / of_latents.mean(dim=(1, 2, 3, 4), keepdim=True)


def name_regions(structures: Mapping[Any, str]) -> list[str]:
    """Return the names of the indices 0 to K of a label map."""
    return [BACKGROUND, *(structures[value] for value in sorted(structures, key=int))]


def resolve_region_weights(
    config: LatentDiffusionConfig, model: LatentDiffusionModel, dataset: LatentDataset
) -> LatentDiffusionConfig:
    """Return a configuration whose weights are numbers, and refuse those that the model cannot have.

    "inverse_volume" gives a structure the mean volume of the largest one over its own, at most 10; the
    background keeps 1.

    Raises:
        ConfigError: for unknown structures, or a model without label maps.
    """
    weights = config.region_weights
    if weights is None:
        return config
    structures = model.conditioning_config.structures
    if "label_map" not in model.conditioning_config.conditioning_type or not structures:
        raise ConfigError(
            "region_weights need to know where the structures are: name label_map in conditioning_type, or "
            "leave them out"
        )
    if isinstance(weights, str):
        weights = _inverse_volumes(dataset, name_regions(structures))
    RegionWeights(weights, structures)
    return config.copy(region_weights=dict(weights))


def region_weights_of(config: LatentDiffusionConfig, model: LatentDiffusionModel) -> RegionWeights | None:
    """Return the weights of a configuration that `resolve_region_weights` gave; None for none."""
    if config.region_weights is None:
        return None
    if isinstance(config.region_weights, str):
        raise ConfigError(
            f"region_weights are {config.region_weights!r}: let resolve_region_weights measure them"
        )
    return RegionWeights(config.region_weights, model.conditioning_config.structures)


def _inverse_volumes(dataset: LatentDataset, names: Sequence[str]) -> dict[str, float]:
    """Return the weight of each structure that a training cohort shows.

    Volumes are the means over the cases whose label map covers the structure.
    """
    volumes, n_covering = torch.zeros(2, len(names), dtype=torch.float64)
    n_maps = 0
    for entry in dataset.sound_entries():
        labels = entry.get(SPATIAL_KEYS["label_map"])
        if labels is not None:
            volumes += torch.bincount(labels.flatten().long(), minlength=len(names)).double()
            unknown = entry.get(UNKNOWN + "label_map", torch.zeros(len(names) - 1, dtype=torch.bool))
            n_covering += F.pad(~unknown, (1, 0), value=True)
            n_maps += 1
    volumes *= n_maps / n_covering.clamp(min=1)
    largest = float(volumes[1:].max())
    found = {}
    for name, volume in zip(names[1:], volumes[1:].tolist(), strict=True):
        if volume > 0:
            found[name] = min(LARGEST_INVERSE, largest / volume)
    return found
