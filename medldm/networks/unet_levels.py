"""The levels of a denoising U-Net: how they run, and how they are made."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medldm.networks.attention import Context, ResidualLayer, SpatialSelfAttention, SpatialTransformer
from medldm.networks.blocks import (
    Direction,
    Downsample,
    ResidualBlock,
    Upsample,
    crop_to,
    pad_to_multiple,
    run_block,
)
from medldm.networks.dropout import DropoutSeeds, SeededDropout
from medldm.networks.unet_config import LatentUNetConfig


class _Level(nn.Module):
    def __init__(
        self, layers: list[ResidualLayer], resample: nn.Module | None, *, checkpointing: bool
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.resample = resample
        self.checkpointing = checkpointing


class DownLevel(_Level):
    """The layers of one resolution on the way down; every feature map is kept for the way up."""

    def forward(self, x: Tensor, embedding: Tensor, context: Context | None) -> list[Tensor]:
        """Return the feature maps after each layer; the last one goes to the next level."""
        skips = []
        for layer in self.layers:
            x = run_block(layer, x, embedding, context, checkpointing=self.checkpointing)
            skips.append(x)
        if self.resample is not None:
            x = pad_to_multiple(x, 2)
            skips.append(run_block(self.resample, x, embedding, checkpointing=self.checkpointing))
        return skips


class UpLevel(_Level):
    """The layers of one resolution on the way up; each is told a feature map of the way down."""

    def forward(self, x: Tensor, skips: list[Tensor], embedding: Tensor, context: Context | None) -> Tensor:
        """Take one feature map from the end of `skips` for each layer, then resample."""
        for layer in self.layers:
            x = torch.cat([x, skips.pop()], dim=1)
            x = run_block(layer, x, embedding, context, checkpointing=self.checkpointing)
        if self.resample is not None:
            x = run_block(self.resample, x, embedding, checkpointing=self.checkpointing)
            x = crop_to(x, skips[-1].shape[2:])
        return x


class LevelMaker:
    """Make the levels of the U, level 0 the finest; the way up joins what the way down has recorded."""

    def __init__(self, config: LatentUNetConfig, embedding_dim: int) -> None:
        self.config = config
        self.embedding_dim = embedding_dim
        self.skip_widths: list[int] = []
        self.dropout_seeds = DropoutSeeds()
        self._n_dropouts = 0

    def down_levels(self) -> nn.ModuleList:
        """Levels from fine to coarse."""
        channels = self.config.down_channels
        levels = nn.ModuleList()
        width = channels[0]
        self.skip_widths = [width]
        for i, n_out in enumerate(channels):
            layers = []
            for _ in range(self.config.blocks_of_level(i)):
                layers.append(self.layer(width, i))
                width = n_out
                self.skip_widths.append(width)
            resample = None
            if i < len(channels) - 1:
                resample = self.resample(width, "down")
                self.skip_widths.append(width)
            levels.append(DownLevel(layers, resample, checkpointing=self.config.checkpointing))
        return levels

    def middle(self) -> nn.ModuleList:
        """Residual block, attention, residual block."""
        width = self.config.down_channels[-1]
        attention = self.attention(len(self.config.down_channels) - 1) if self.config.mid_attention else None
        return nn.ModuleList(
            [
                ResidualLayer(self.residual(width, width), attention),
                ResidualLayer(self.residual(width, width)),
            ]
        )

    def up_levels(self) -> nn.ModuleList:
        """Levels from coarse to fine, each with one layer more, for the map that the level began with."""
        channels = self.config.down_channels
        levels = nn.ModuleList()
        width = channels[-1]
        for i in reversed(range(len(channels))):
            layers = []
            for _ in range(self.config.blocks_of_level(i) + 1):
                layers.append(self.layer(width + self.skip_widths.pop(), i))
                width = channels[i]
            resample = self.resample(width, "up") if i > 0 else None
            levels.append(UpLevel(layers, resample, checkpointing=self.config.checkpointing))
        return levels

    def layer(self, n_in: int, level: int) -> ResidualLayer:
        """A residual block to the level's channels, and attention where the level has it."""
        attention = self.attention(level) if self.config.has_attention(level) else None
        return ResidualLayer(self.residual(n_in, self.config.down_channels[level]), attention)

    def residual(self, n_in: int, n_out: int, resample: Direction | None = None) -> ResidualBlock:
        """A residual block that is told the time."""
        options = self.config.block_options
        return ResidualBlock(
            n_in,
            n_out,
            **options,
            embedding_dim=self.embedding_dim,
            resample=resample,
            dropout=self.dropout(),
        )

    def dropout(self) -> SeededDropout | None:
        """The dropout of the next residual block, if the network has any."""
        if self.config.dropout == 0:
            return None
        self._n_dropouts += 1
        return SeededDropout(self.config.dropout, number=self._n_dropouts, seeds=self.dropout_seeds)

    def resample(self, channels: int, direction: Direction) -> nn.Module:
        """Halve or double the size."""
        if self.config.residual_resampling:
            return self.residual(channels, channels, direction)
        strides = (2,) * self.config.spatial_dims
        if direction == "down":
            return Downsample(channels, strides=strides, asymmetric=False)
        return Upsample(channels, strides=strides)

    def attention(self, level: int) -> nn.Module:
        """Self-attention, with cross-attention if the network has it."""
        config, channels = self.config, self.config.down_channels[level]
        n_heads, head_channels = config.heads_of_level(level)
        if not config.cross_attention:
            return SpatialSelfAttention(
                channels,
                n_heads=n_heads,
                n_groups=config.n_groups,
                norm_eps=config.norm_eps,
                has_projection=config.attention_projection,
            )
        return SpatialTransformer(
            channels,
            n_heads=n_heads,
            head_channels=head_channels,
            context_dim=config.context_dim or 0,
            n_layers=config.n_transformer_layers,
            **config.block_options,
            has_projection=config.attention_projection,
        )
