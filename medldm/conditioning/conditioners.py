"""One module for each kind of condition, all of one interface, each with a learned null."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from medldm.conditioning.config import ConditioningConfig


class Conditioner(nn.Module):
    """Turn the values of one condition into tokens or spatial channels.

    `kind` says which: "tokens" (B, N, context_dim) go to cross-attention, "spatial" (B, C, x, y, z) join the
    denoiser's input on the latent grid. Encoding is done once for a sampling; the null is put in at every
    step.
    """

    kind: ClassVar[Literal["tokens", "spatial"]]
    null: nn.Parameter

    def encode(self, value: Tensor) -> Tensor:
        """Encode values that are present; shapes as the class says."""
        raise TypeError(f"{type(self).__name__} does not say how it encodes its values")

    def with_null(self, encoded: Tensor, absent: Tensor) -> Tensor:
        """Put the null in the place of the encodings (B, ...) of absent samples; `absent` is (B,) bool."""
        return torch.where(absent.view(-1, *[1] * (encoded.ndim - 1)), self.null.to(encoded.dtype), encoded)

    def expand_null(self, batch_size: int, latent_size: Sequence[int]) -> Tensor:
        """Return the null for a whole batch: tokens (B, 1, context_dim) or channels (B, C, x, y, z)."""
        grid = () if self.kind == "tokens" else latent_size
        return self.null.expand(batch_size, *self.null.shape[1 : 2 + (self.kind == "tokens")], *grid)


class ClassConditioner(Conditioner):
    """Give each class one learned token: (B,) int64 -> (B, 1, context_dim)."""

    kind = "tokens"

    def __init__(self, config: ConditioningConfig) -> None:
        super().__init__()
        self.n_classes = config.num_classes or 0
        self.embedding = nn.Embedding(self.n_classes, config.context_dim)
        self.null = nn.Parameter(torch.randn(1, 1, config.context_dim))

    def encode(self, value: Tensor) -> Tensor:
        """Look the tokens up."""
        return self.embedding(value.long().clamp(0, self.n_classes - 1)).unsqueeze(1)


class TextConditioner(Conditioner):
    """Project token embeddings of a text: (B, N, text_embed_dim) -> (B, N, context_dim)."""

    kind = "tokens"

    def __init__(self, config: ConditioningConfig) -> None:
        super().__init__()
        self.projection = nn.Linear(config.text_embed_dim, config.context_dim)
        self.null = nn.Parameter(torch.randn(1, 1, config.context_dim))

    def encode(self, value: Tensor) -> Tensor:
        """Project each token."""
        if value.ndim != 3 or value.shape[-1] != self.projection.in_features:
            raise ValueError(
                f"text embeddings have the shape {tuple(value.shape)}: (B, N, "
                f"{self.projection.in_features}) is needed"
            )
        return self.projection(value.to(self.projection.weight.dtype))


class LabelMapConditioner(Conditioner):
    """Bring a label map to the latent grid: (B, 1, X, Y, Z) integers 0..K -> (B, label_channels, x, y, z).

    Each voxel's structure is embedded at full resolution; strided convolutions whose kernel (3) overlaps its
    stride (2) then halve the grid, so that no voxel is skipped and thin structures survive. A size that is
    not a multiple is rounded up, as the autoencoder pads it.
    """

    kind = "spatial"

    def __init__(self, config: ConditioningConfig, downsampling: int) -> None:
        super().__init__()
        width = config.label_embed_dim
        self.n_values = len(config.structures) + 1
        self.embedding = nn.Embedding(self.n_values, width)
        n_halvings = downsampling.bit_length() - 1
        widths = [width * 2**level for level in range(n_halvings + 1)]
        self.halvings = nn.ModuleList(
            nn.Conv3d(widths[level], widths[level + 1], kernel_size=3, stride=2, padding=1)
            for level in range(n_halvings)
        )
        self.projection = nn.Conv3d(widths[-1], config.label_channels, kernel_size=3, padding=1)
        self.null = nn.Parameter(torch.randn(1, config.label_channels, 1, 1, 1))

    def encode(self, value: Tensor) -> Tensor:
        """Embed each voxel and convolve down to the latent grid."""
        hidden = self.embedding(value[:, 0].long()).movedim(-1, 1)
        for halving in self.halvings:
            hidden = nn.functional.silu(halving(hidden))
        return self.projection(hidden)
