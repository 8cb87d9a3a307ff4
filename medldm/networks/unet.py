"""The denoisers: LatentUNet with cross-attention, and UNet, the same in pixel space without it.

Source: Ho et al. 2020, Appendix B; Rombach et al. 2022, Section 3.3 and Figure 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from medldm.errors import ConfigError
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
from medldm.networks.config_checks import check_shape
from medldm.networks.kernels.fused_norm_conv import normalise_and_convolve
from medldm.networks.layers import Norm, conv, zero_init
from medldm.networks.position import with_position
from medldm.networks.time_embedding import TimeEmbedding
from medldm.networks.unet_config import LatentUNetConfig, UNetConfig

__all__ = ["LatentUNet", "LatentUNetConfig", "UNet", "UNetConfig"]


class DownLevel(nn.Module):
    """The layers of one resolution on the way down; every feature map is kept for the way up."""

    def __init__(
        self, layers: list[ResidualLayer], resample: nn.Module | None, *, checkpointing: bool
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.resample = resample
        self.checkpointing = checkpointing

    def forward(self, x: Tensor, embedding: Tensor, context: Context | None) -> list[Tensor]:
        """Return the feature maps after each layer; the last one goes to the next level."""
        skips = []
        for layer in self.layers:
            x = run_block(layer, x, embedding, context, checkpointing=self.checkpointing)
            skips.append(x)
        if self.resample is not None:
            skips.append(run_resample(self.resample, x, embedding, checkpointing=self.checkpointing))
        return skips


class UpLevel(nn.Module):
    """The layers of one resolution on the way up; each is told a feature map of the way down."""

    def __init__(
        self, layers: list[ResidualLayer], resample: nn.Module | None, *, checkpointing: bool
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.resample = resample
        self.checkpointing = checkpointing

    def forward(self, x: Tensor, skips: list[Tensor], embedding: Tensor, context: Context | None) -> Tensor:
        """Take one feature map from the end of `skips` for each layer, then resample."""
        for layer in self.layers:
            x = torch.cat([x, skips.pop()], dim=1)
            x = run_block(layer, x, embedding, context, checkpointing=self.checkpointing)
        if self.resample is not None:
            x = run_resample(self.resample, x, embedding, checkpointing=self.checkpointing)
        return x


class LatentUNet(nn.Module):
    """Predict noise (or x_0, or v) from noisy latents, the time and conditions.

    Args:
        config: of the network, or a mapping of its fields; None for the defaults. A copy is kept.
        **options: fields to set.

    Examples:
        >>> config = LatentUNetConfig(down_channels=[16, 32], n_groups=4, n_heads=2, context_dim=8)
        >>> unet = LatentUNet(config)
        >>> x_t, context = torch.randn(2, 4, 5, 6, 7), torch.randn(2, 3, 8)
        >>> unet(x_t, torch.tensor([0, 999]), context=context).shape
        torch.Size([2, 4, 5, 6, 7])
    """

    def __init__(self, config: LatentUNetConfig | Mapping[str, Any] | None = None, **options: Any) -> None:
        super().__init__()
        self.config = config = LatentUNetConfig.coerce(config, **options)
        channels, dims = config.down_channels, config.spatial_dims
        self.time_embedding = TimeEmbedding(config.time_emb_dim or channels[0])
        self.class_embedding: nn.Embedding | None = None
        if config.n_class_embeds is not None:
            self.class_embedding = nn.Embedding(config.n_class_embeds, self.time_embedding.out_dim)
        self.pooled_projection: nn.Linear | None = None
        if config.pooled_context:
            self.pooled_projection = nn.Linear(config.context_dim or 0, self.time_embedding.out_dim)
            zero_init(self.pooled_projection)
        in_channels = config.in_channels + config.position_channels
        self.conv_in = conv(in_channels, channels[0], spatial_dims=dims)
        maker = _LayerMaker(config, self.time_embedding.out_dim)
        self.down, self.middle, self.up = maker.down_levels(), maker.middle(), maker.up_levels()
        self.norm_out = Norm(config.n_groups, channels[0], eps=config.norm_eps)
        self.conv_out = zero_init(conv(channels[0], config.out_channels, spatial_dims=dims))

    def forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Context | None = None,
        class_labels: Tensor | None = None,
        pooled: Tensor | None = None,
    ) -> Tensor:
        """Predict.

        Args:
            x: (B, in_channels, X, Y, Z); sizes that are no multiple of the downsampling are padded inside.
            timesteps: (B,) network times, whole or not, 0 to about 1000.
            context: (B, tokens, context_dim), needed if and only if the network has cross-attention; a
                StaticContext where many calls share it and the weights are fixed.
            class_labels: (B,) int64, needed if and only if the network has class embeddings.
            pooled: (B, context_dim) summary of the context, needed if and only if the network pools it.

        Returns:
            (B, out_channels, X, Y, Z).

        Raises:
            ValueError: if an input that the network needs is missing, or one that it has no use for is given.
        """
        self._check_inputs(x, timesteps, context, class_labels)
        self._check_pooled(x, pooled)
        embedding = self.time_embedding(timesteps, dtype=x.dtype)
        if self.class_embedding is not None:
            embedding = embedding + self.class_embedding(class_labels).to(embedding.dtype)
        if self.pooled_projection is not None:
            embedding = embedding + self.pooled_projection(pooled)
        placed = with_position(x, self.config.position_frequencies)
        h = self.conv_in(pad_to_multiple(placed, self.config.downsampling))
        skips = [h]
        for down in self.down:
            skips += down(skips[-1], embedding, context)
        h = skips[-1]
        for layer in self.middle:
            h = run_block(layer, h, embedding, context, checkpointing=self.config.checkpointing)
        for up in self.up:
            h = up(h, skips, embedding, context)
        h = normalise_and_convolve(h, self.norm_out, self.conv_out, silu=True)
        return crop_to(h, x.shape[2:]).contiguous()

    def blocks(self) -> list[nn.Module]:
        """Return the blocks in the order in which they run: residual layers and changes of resolution."""

        def of(levels: nn.ModuleList) -> list[nn.Module]:
            parts = [part for level in levels for part in level.children()]
            return [
                block for part in parts for block in (part if isinstance(part, nn.ModuleList) else [part])
            ]

        return [*of(self.down), *self.middle, *of(self.up)]

    def _check_inputs(
        self, x: Tensor, timesteps: Tensor, context: Context | None, class_labels: Tensor | None
    ) -> None:
        config = self.config
        check_shape("LatentUNet: x has", x, channels=config.in_channels, spatial_dims=config.spatial_dims)
        if timesteps.shape != x.shape[:1]:
            raise ValueError(
                f"timesteps have shape {tuple(timesteps.shape)}: give one for each of {len(x)} samples"
            )
        if (context is not None) != config.cross_attention:
            given, does = ("no context", "has") if context is None else ("a context", "has no")
            raise ValueError(
                f"LatentUNet: {given} was given but the network {does} cross-attention: pass context "
                "(B, tokens, context_dim) if and only if cross_attention is True"
            )
        if context is not None and (len(context) != len(x) or context.shape[-1] != config.context_dim):
            needed = f"({len(x)}, tokens, {config.context_dim})"
            raise ValueError(f"context has shape {tuple(context.shape)}: {needed} is needed")
        if (class_labels is not None) != (self.class_embedding is not None):
            given, does = ("no class_labels", "has") if class_labels is None else ("class_labels", "has no")
            raise ValueError(
                f"LatentUNet: {given} given but the network {does} class embeddings: pass class_labels (B,) "
                "if and only if n_class_embeds is set"
            )

    def _check_pooled(self, x: Tensor, pooled: Tensor | None) -> None:
        if (pooled is not None) != (self.pooled_projection is not None):
            given, does = ("no pooled", "pools") if pooled is None else ("pooled", "does not pool")
            raise ValueError(
                f"LatentUNet: {given} given but the network {does} its context: pass pooled "
                f"({len(x)}, context_dim) if and only if pooled_context is True"
            )


class UNet(LatentUNet):
    """Denoise volumes themselves, for comparison with diffusion in a latent space.

    Args:
        config: of the network, or a mapping of its fields; without cross-attention.
        **options: fields to set.

    Examples:
        >>> unet = UNet(UNetConfig(down_channels=[8, 16], n_groups=4, n_heads=2))
        >>> unet(torch.randn(1, 1, 8, 8, 8), torch.tensor([3])).shape
        torch.Size([1, 1, 8, 8, 8])

    Raises:
        ValueError: if the configuration asks for cross-attention.
    """

    def __init__(self, config: LatentUNetConfig | Mapping[str, Any] | None = None, **options: Any) -> None:
        if not isinstance(config, LatentUNetConfig):
            config = UNetConfig.coerce(config)
        config = config.copy(**options)
        if config.cross_attention:
            raise ConfigError("UNet: cross_attention is True: the pixel-space UNet has none; use LatentUNet")
        super().__init__(config)


def run_resample(block: nn.Module, x: Tensor, embedding: Tensor, *, checkpointing: bool) -> Tensor:
    """Run a change of resolution, which is told the time if it is a residual block."""
    inputs = (x, embedding) if isinstance(block, ResidualBlock) else (x,)
    return run_block(block, *inputs, checkpointing=checkpointing)


class _LayerMaker:
    """Make the levels of the U, level 0 the finest; the way up joins what the way down has recorded."""

    def __init__(self, config: LatentUNetConfig, embedding_dim: int) -> None:
        self.config = config
        self.embedding_dim = embedding_dim
        self.skip_widths: list[int] = []

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
        config = self.config
        return ResidualBlock(
            n_in,
            n_out,
            n_groups=config.n_groups,
            norm_eps=config.norm_eps,
            spatial_dims=config.spatial_dims,
            embedding_dim=self.embedding_dim,
            resample=resample,
        )

    def resample(self, channels: int, direction: Direction) -> nn.Module:
        """Halve or double the size."""
        if self.config.residual_resampling:
            return self.residual(channels, channels, direction)
        if direction == "down":
            return Downsample(channels, spatial_dims=self.config.spatial_dims, asymmetric=False)
        return Upsample(channels, spatial_dims=self.config.spatial_dims)

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
            n_groups=config.n_groups,
            norm_eps=config.norm_eps,
            spatial_dims=config.spatial_dims,
            has_projection=config.attention_projection,
        )
