"""Conditions that lie in space: label map and image, brought to the latent grid."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from medldm.conditioning.conditioner import Conditioner, EncodedConditions
from medldm.networks.downsampling import strides_of


class DownsamplingEncoder(nn.Module):
    """Bring a feature map (B, width, X, Y, Z) down to the latent grid by learned strided convolutions.

    Their kernel (3) overlaps their stride (2), so that no voxel is skipped and thin structures survive. A
    size that is not a multiple is rounded up, as the autoencoder pads it.

    Args:
        width: channels of the input; doubled with each halving.
        out_channels: channels on the latent grid.
        downsampling: how much smaller the latent grid is on each axis, powers of 2; the axes of large factors
            are halved first, as in the autoencoder.
    """

    def __init__(self, width: int, *, out_channels: int, downsampling: Sequence[int]) -> None:
        super().__init__()
        strides: Any = strides_of(downsampling)
        widths = [width * 2**level for level in range(len(strides) + 1)]
        self.halvings = nn.ModuleList(
            nn.Conv3d(narrow, wide, kernel_size=3, stride=stride, padding=1)
            for (narrow, wide), stride in zip(pairwise(widths), strides, strict=True)
        )
        self.projection = nn.Conv3d(widths[-1], out_channels, kernel_size=3, padding=1)

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Return the channels on the latent grid, and the features they were projected from."""
        for halving in self.halvings:
            hidden = nn.functional.silu(halving(hidden))
        return self.projection(hidden), hidden

    @property
    def width(self) -> int:
        """Channels of the features on the latent grid."""
        return self.projection.in_channels


class LabelMapConditioner(Conditioner):
    """Bring a label map to the latent grid: (B, 1, X, Y, Z) integers 0..K -> (B, channels, x, y, z).

    Each voxel's structure, of K = `n_structures`, is embedded in `embed_dim` channels at full resolution.
    With E the table of embeddings, U that of unknown structures, l(v) the structure of voxel v and N the
    structures that the map does not cover,

        h(v) = E[l(v) if l(v) is not in N, else 0] + sum of U[k] over k in N                        Eq. (1)

    so that what is drawn of an unknown structure has no effect, and its absence does not mean background.

    Args:
        n_structures: K.
        embed_dim: channels at full resolution.
        channels: on the latent grid.
        downsampling: see `DownsamplingEncoder`.
        may_be_unknown: whether maps may leave structures uncovered; without, there is no U.
    """

    def __init__(
        self,
        n_structures: int,
        *,
        embed_dim: int,
        channels: int,
        downsampling: Sequence[int],
        may_be_unknown: bool = False,
    ) -> None:
        super().__init__(n_channels=channels)
        self.embedding = nn.Embedding(n_structures + 1, embed_dim)
        self.encoder = DownsamplingEncoder(embed_dim, out_channels=channels, downsampling=downsampling)
        self.unknown = nn.Parameter(torch.randn(n_structures, embed_dim)) if may_be_unknown else None

    def encode(self, value: Tensor, unknown: Tensor | None = None) -> EncodedConditions:
        """Embed each voxel, Eq. (1), and convolve down to the latent grid."""
        labels = value[:, 0].long()
        if self.unknown is None:
            if unknown is not None and unknown.any():
                raise ValueError("a structure is unknown, which this model's training never said of any")
            embedded = self.embedding(labels)
        else:
            n_structures = len(self.unknown)
            if unknown is None:
                unknown = torch.zeros(len(labels), n_structures, dtype=torch.bool, device=labels.device)
            embedded = self.embedding(hide_structures(labels, unknown))
            embedded = embedded + (unknown.to(self.unknown.dtype) @ self.unknown)[:, None, None, None]
        spatial, _ = self.encoder(embedded.movedim(-1, 1))
        return EncodedConditions(spatial=spatial)


def hide_structures(labels: Tensor, unknown: Tensor) -> Tensor:
    """Return maps with the voxels of unknown structures set to background.

    Args:
        labels: (B, ...) int64, 0..K.
        unknown: (B, K) bool.
    """
    of_index = nn.functional.pad(unknown, (1, 0))
    is_hidden = of_index.gather(1, labels.flatten(1)).view_as(labels)
    return labels.masked_fill(is_hidden, 0)


class ImageConditioner(Conditioner):
    """Bring an aligned image to the latent grid: (B, 1, X, Y, Z) in [-1, 1] -> (B, channels, x, y, z).

    The image is another contrast or modality of the same subject: MR for CT, T1 for FLAIR. With
    g = `token_grid` > 0, the features are also averaged to g^3 tokens (B, g^3, context_dim).
    """

    def __init__(
        self, *, channels: int, downsampling: Sequence[int], token_grid: int, context_dim: int
    ) -> None:
        super().__init__(n_tokens=token_grid**3, context_dim=context_dim, n_channels=channels)
        self.conv_in = nn.Conv3d(1, channels, kernel_size=3, padding=1)
        self.encoder = DownsamplingEncoder(channels, out_channels=channels, downsampling=downsampling)
        self.pool = nn.AdaptiveAvgPool3d(token_grid) if token_grid else None
        self.to_tokens = nn.Linear(self.encoder.width, context_dim) if token_grid else None

    def encode(self, value: Tensor, unknown: Tensor | None = None) -> EncodedConditions:
        """Convolve down to the latent grid."""
        spatial, features = self.encoder(nn.functional.silu(self.conv_in(value)))
        if self.pool is None or self.to_tokens is None:
            return EncodedConditions(spatial=spatial)
        return EncodedConditions(self.to_tokens(self.pool(features).flatten(2).mT), spatial)
