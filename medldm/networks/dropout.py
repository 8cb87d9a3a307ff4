"""Dropout whose masks follow from a seed for each sample.

How a batch is split among processes, a kill between two batches and a block that is computed again for its
gradient then change nothing. PyTorch's own takes the next numbers of the process's generator.

Source: Srivastava et al. 2014, "Dropout: A Simple Way to Prevent Neural Networks from Overfitting".
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medldm.seeds import dropout_seed


class DropoutSeeds:
    """The seeds of the samples that a network computes now; its dropout layers share them."""

    def __init__(self) -> None:
        self._values: tuple[int, ...] = ()

    def set(self, values: Sequence[int] | None, *, batch_size: int) -> None:
        """Take over a seed for each sample; None draws them from torch's generator."""
        if values is None:
            values = torch.randint(2**62, (batch_size,)).tolist()
        if len(values) != batch_size:
            raise ValueError(f"{len(values)} dropout seeds are given: one for each of {batch_size} samples")
        self._values = tuple(values)

    def of_layer(self, number: int) -> list[int]:
        """Return the seeds of the masks of one layer."""
        return [dropout_seed(value, number) for value in self._values]


class SeededDropout(nn.Module):
    """Set a share of the values of (B, C, X, Y, Z) to 0 in a training, and scale the others.

    Args:
        share: in [0, 1).
        number: of the layer in its network.
        seeds: of the network.
    """

    def __init__(self, share: float, *, number: int, seeds: DropoutSeeds) -> None:
        super().__init__()
        self.share = share
        self.number = number
        self.seeds = seeds

    def forward(self, x: Tensor) -> Tensor:
        """Return x / (1 - share) with a share of its values set to 0; x itself outside of a training."""
        if not self.training:
            return x
        masks = []
        for seed in self.seeds.of_layer(self.number):
            generator = torch.Generator(x.device).manual_seed(seed)
            drawn = torch.rand(x.shape[1:], generator=generator, device=x.device)
            masks.append((drawn >= self.share).to(x.dtype) / (1 - self.share))
        return x * torch.stack(masks)
