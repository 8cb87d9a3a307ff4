"""Noise on the latents of the first stage, so that its decoder forgives what a denoiser gets wrong.

    z' = z + s sd e,    s uniform in [0, latent_noise] for each sample, e standard normal

with sd the standard deviation of each channel of the latents, as running means over the training know it: in
these units the denoiser of the second stage works, whose errors the noise stands for.

Source: Yang et al. 2025, "Latent Denoising Makes Good Visual Tokenizers", Section 4.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medldm.runtime.batch_shard import BatchShard

_LONGEST_MEMORY = 0.99


class LatentNoise(nn.Module):
    """Draw how much noise each sample's latents get, and follow how far latents spread.

    Args:
        n_channels: of the latents.
        largest: s at most; 0 draws nothing and follows nothing.
    """

    moments: Tensor
    n_batches: Tensor

    def __init__(self, n_channels: int, *, largest: float) -> None:
        super().__init__()
        self.largest = largest
        self.register_buffer("moments", torch.zeros(2, n_channels, dtype=torch.float64))
        self.register_buffer("n_batches", torch.zeros((), dtype=torch.int64))

    @property
    def spread(self) -> Tensor:
        """Standard deviation (C,) of the latents so far, float64; 0 before the first batch."""
        mean, square = self.moments
        return (square - mean**2).clamp(min=0).sqrt()

    def draw(self, shard: BatchShard) -> Tensor | None:
        """Return the deviation (B, C) of the noise on the own rows of a batch; None where there is none."""
        if self.largest == 0:
            return None
        return self.largest * shard.own(torch.rand(shard.total))[:, None] * self.spread[None].float()

    @torch.no_grad()
    def follow(self, latents: Tensor, shard: BatchShard) -> None:
        """Take the latents (B, C, x, y, z) of the own rows of a batch into the running means."""
        if self.largest == 0:
            return
        values = latents.detach().double().movedim(1, 0).flatten(1)
        own = torch.stack([values.mean(dim=1), values.square().mean(dim=1)]).cpu()
        moments = shard.sum(own * (shard.weight / shard.n_shards))
        n = int(self.n_batches)
        self.moments.lerp_(moments, 1 - min(_LONGEST_MEMORY, n / (n + 1)))
        self.n_batches += 1
