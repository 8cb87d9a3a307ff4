"""Latents and volumes of the same cases, and patches that show the same place of both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from medldm.errors import ConfigError
from medldm.networks.blocks import pad_to_multiple
from medldm.runtime.batch_shard import BatchShard
from medldm.training.latent_dataset import LatentDataset
from medldm.training.quarantine import BadCase


class DecoderCases(Dataset[Any]):
    """Give the posterior of a case's latents and its conditions, as cached, with its volume under "image".

    Cases that are a `BadCase` among the latents are left out.

    Args:
        latents: of the cases, one entry each.
        volumes: of the same cases in the same order, with "image" (C, X, Y, Z).
        length: of the data set, which goes through the cases again and again; None for once.

    Raises:
        ConfigError: if the lengths differ or no case is left.
    """

    def __init__(self, latents: LatentDataset, volumes: Any, *, length: int | None = None) -> None:
        if len(latents) != len(volumes):
            raise ConfigError(
                f"there are latents of {len(latents)} cases and {len(volumes)} volumes: give both of the same"
            )
        self.latents = latents
        self.volumes = volumes
        self.numbers = [n for n in range(len(latents)) if not isinstance(latents[n], BadCase)]
        if not self.numbers:
            raise ConfigError("there is no case to train the decoder on")
        self.length = len(self.numbers) if length is None else length
        self.transform = latents.transform

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        number = self.numbers[int(index) % len(self.numbers)]
        return {**self.latents_of(index), "image": torch.as_tensor(self.volumes[number]["image"])}

    @property
    def n_cases(self) -> int:
        """Number of different cases."""
        return len(self.numbers)

    def latents_of(self, index: int) -> dict[str, Tensor]:
        """Return the posterior of a case's latents and its conditions, without reading its volume."""
        entry: Any = self.latents[self.numbers[int(index) % len(self.numbers)]]
        return dict(entry)

    def case_hashes(self) -> list[str]:
        """Return a hash of what each case holds, in their order."""
        hashes = self.latents.case_hashes()
        return [hashes[number] for number in self.numbers]


def crop_same_place(
    latents: Tensor,
    volume: Tensor,
    *,
    patch_size: Sequence[int] | None,
    downsampling: Sequence[int],
    generator: torch.Generator,
    shard: BatchShard,
) -> tuple[Tensor, Tensor]:
    """Crop a random patch of each row's latents, and the voxels that it stands for.

    Args:
        latents: (B, C, x, y, z), own rows of a batch.
        volume: (B, C', X, Y, Z); it is padded with its edge voxels where latents reach beyond it.
        patch_size: voxels of the patch, rounded up to whole latents, and no larger than the volume; None for
            all.
        downsampling: voxels of a latent on each axis.
        generator: of the places, which are drawn for the whole batch.
        shard: the rows.

    Returns:
        (B, C, a, b, c) and (B, C', a f, b g, c h) for factors f, g, h.
    """
    volume = pad_to_multiple(volume, downsampling)
    if patch_size is None:
        return latents, volume
    n = [
        min(-(-p // f), size) for p, f, size in zip(patch_size, downsampling, latents.shape[2:], strict=True)
    ]
    room = torch.tensor([size - own + 1 for size, own in zip(latents.shape[2:], n, strict=True)])
    drawn = torch.rand(shard.total, 3, generator=generator)
    starts = shard.own((drawn * room).long().minimum(room - 1))
    crops = [
        (_crop(row, start, n, [1, 1, 1]), _crop(real, start, n, downsampling))
        for row, real, start in zip(latents, volume, starts.tolist(), strict=True)
    ]
    return torch.stack([crop for crop, _ in crops]), torch.stack([crop for _, crop in crops])


def _crop(values: Tensor, start: Sequence[int], n: Sequence[int], factors: Sequence[int]) -> Tensor:
    x, y, z = (slice(f * first, f * (first + own)) for first, own, f in zip(start, n, factors, strict=True))
    return values[:, x, y, z]
