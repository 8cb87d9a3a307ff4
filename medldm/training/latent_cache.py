"""Encode a cohort once: stage 2 trains on the posteriors of its latents, not on volumes.

Mean and standard deviation are kept, so that the noise of the latents is fresh in every epoch. A case's entry
is one safetensors file, named by its number: neither identifiers nor paths reach the cache.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.data import Dataset as MonaiDataset
from safetensors.torch import load_file, save
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from medldm.checkpoints import hash_weights, write_atomically
from medldm.latent_diffusion import LatentDiffusionModel
from medldm.training.volumes import ABSENT, SPATIAL_KEYS

logger = logging.getLogger(__name__)


class LatentDataset(Dataset[dict[str, Tensor]]):
    """Hold the posterior of each case's latents, with its conditions.

    Args:
        entries: of each case: "mean" and "std" (C, x, y, z), and its conditions; or the file that holds them.
    """

    def __init__(self, entries: list[dict[str, Tensor] | Path]) -> None:
        if not entries:
            raise ValueError("there are no cases to encode: the cohort's list is empty")
        self.entries = entries

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        entry = self.entries[index]
        return load_file(entry) if isinstance(entry, Path) else entry

    def measure_statistics(self) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation (C,) of the sampled latents over all cases, in float64.

        The variance of a sample is that of the means plus the mean of the variances.
        """
        n, total, squares = 0, torch.zeros(1), torch.zeros(1)
        total, squares = total.double(), squares.double()
        for index in range(len(self)):
            entry = self[index]
            mean, std = entry["mean"].double().flatten(1), entry["std"].double().flatten(1)
            n += mean.shape[1]
            total = total + mean.sum(dim=1)
            squares = squares + (mean**2 + std**2).sum(dim=1)
        mean = total / n
        return mean, (squares / n - mean**2).clamp(min=0).sqrt()


@torch.no_grad()
def cache_latents(
    model: LatentDiffusionModel, data_loader: Iterable[dict[str, Any]], *, directory: str | Path | None = None
) -> LatentDataset:
    """Encode every case of a loader once.

    Args:
        model: its frozen autoencoder encodes, on the device it is on.
        data_loader: batches with "image" (B, 1, X, Y, Z) in [-1, 1] and conditions; it must not shuffle.

    Returns:
        The latents of the cases, in the loader's order.
    """
    folder = _open_folder(model, directory)
    entries: list[dict[str, Tensor] | Path] = []
    device = model.latent_shift.device
    for batch in tqdm(data_loader, desc="encoding latents", leave=False):
        mean, std = model.autoencoder.encode_moments(torch.as_tensor(batch["image"]).to(device))
        for row in range(len(mean)):
            entry = {
                "mean": mean[row].float().cpu(),
                "std": std[row].float().cpu(),
                **_conditions(model.denoiser.conditioning.names, batch, row),
            }
            if folder is None:
                entries.append(entry)
                continue
            path = folder / f"{len(entries):06d}.safetensors"
            write_atomically(path, save({name: tensor.contiguous() for name, tensor in entry.items()}))
            entries.append(path)
    logger.info("encoded %d cases%s", len(entries), "" if folder is None else " to the latent cache")
    return LatentDataset(entries)


def encode_cases(
    model: LatentDiffusionModel,
    cases: Sequence[dict[str, Any]],
    *,
    transform: Callable[[Any], Any],
    directory: str | Path | None = None,
    num_workers: int = 0,
) -> LatentDataset:
    """Load, transform and encode a cohort's cases once; the arguments are those of `cache_latents`."""
    loader = DataLoader(MonaiDataset(list(cases), transform), batch_size=1, num_workers=num_workers)
    return cache_latents(model, loader, directory=directory)


def _open_folder(model: LatentDiffusionModel, directory: str | Path | None) -> Path | None:
    if directory is None:
        return None
    space = model.space.to_dict() if model.space is not None else None
    key = json.dumps([hash_weights(model.autoencoder.state_dict()), space], sort_keys=True)
    return Path(directory) / hashlib.sha256(key.encode()).hexdigest()[:16]


def _conditions(names: Sequence[str], batch: dict[str, Any], row: int) -> dict[str, Tensor]:
    keys = [key for name in names for key in (SPATIAL_KEYS.get(name, name), ABSENT + name) if key in batch]
    found = {key: torch.as_tensor(batch[key])[row] for key in keys}
    label = found.get("label")
    if label is not None and int(label.max()) < 256:
        found["label"] = label.to(torch.uint8)
    return found
