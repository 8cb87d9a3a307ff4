"""The denoisers: LatentUNet with cross-attention, and UNet, the same in pixel space without it.

Source: Ho et al. 2020, Appendix B; Rombach et al. 2022, Section 3.3 and Figure 3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from medldm.errors import ConfigError
from medldm.networks.attention import Context
from medldm.networks.blocks import crop_to, pad_to_multiple, run_block
from medldm.networks.config_checks import check_shape
from medldm.networks.embeddings import (
    AugmentationEmbedding,
    InputGains,
    StatisticsEmbedding,
    TimeEmbedding,
    with_position,
)
from medldm.networks.kernels.fused_norm_conv import normalise_and_convolve
from medldm.networks.layers import Norm, conv, zero_init
from medldm.networks.unet_config import LatentUNetConfig, UNetConfig
from medldm.networks.unet_levels import LevelMaker


class LatentUNet(nn.Module):
    """Predict noise (or x_0, or v) from noisy latents, the time and conditions.

    Args:
        config: of the network, or a mapping of its fields; None for the defaults. A copy is kept.
        **options: fields to set.

    Examples:
        >>> import torch
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
        self.augmentation_embedding: AugmentationEmbedding | None = None
        if config.augmentation_channels:
            self.augmentation_embedding = AugmentationEmbedding(
                config.augmentation_channels, self.time_embedding.dim, self.time_embedding.out_dim
            )
        self.appearance_embedding: AugmentationEmbedding | None = None
        if config.appearance_channels:
            self.appearance_embedding = AugmentationEmbedding(
                config.appearance_channels, self.time_embedding.dim, self.time_embedding.out_dim
            )
        self.statistics_embedding: StatisticsEmbedding | None = None
        if config.input_statistics:
            widths = (self.time_embedding.dim, self.time_embedding.out_dim)
            self.statistics_embedding = StatisticsEmbedding(config.out_channels, *widths, spatial_dims=dims)
        self.input_gains: InputGains | None = None
        if config.input_gains:
            self.input_gains = InputGains(config.out_channels, self.time_embedding.out_dim)
        in_channels = config.in_channels + config.position_channels
        self.conv_in = conv(in_channels, channels[0], spatial_dims=dims)
        maker = LevelMaker(config, self.time_embedding.out_dim)
        self.down, self.middle, self.up = maker.down_levels(), maker.middle(), maker.up_levels()
        self._dropout_seeds = maker.dropout_seeds
        self.norm_out = Norm(config.n_groups, channels[0], eps=config.norm_eps)
        self.conv_out = zero_init(conv(channels[0], config.out_channels, spatial_dims=dims))

    def forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Context | None = None,
        class_labels: Tensor | None = None,
        pooled: Tensor | None = None,
        augmentation: Tensor | None = None,
        appearance: Tensor | None = None,
        dropout_seeds: Sequence[int] | None = None,
    ) -> Tensor:
        """Predict.

        Args:
            x: (B, in_channels, X, Y, Z); sizes that are no multiple of the downsampling are padded inside,
                see `padding` of the configuration.
            timesteps: (B,) network times, whole or not, 0 to about 1000.
            context: (B, tokens, context_dim), needed if and only if the network has cross-attention; a
                StaticContext where many calls share it and the weights are fixed.
            class_labels: (B,) int64, needed if and only if the network has class embeddings.
            pooled: (B, context_dim) summary of the context, needed if and only if the network pools it.
            augmentation: (B, augmentation_channels) how samples were augmented; None for samples as they are.
            appearance: (B, appearance_channels) what samples look like as a whole; None for the mean case.
            dropout_seeds: one for each sample, from which its dropout follows in a training; None draws them
                from torch's generator.

        Returns:
            (B, out_channels, X, Y, Z).

        Raises:
            ValueError: if an input that the network needs is missing, or one that it has no use for is given.
        """
        self._check_inputs(x, timesteps, context=context, class_labels=class_labels, pooled=pooled)
        self._check_told(x, augmentation=augmentation, appearance=appearance)
        if self.training and self.config.dropout > 0:
            self._dropout_seeds.set(dropout_seeds, batch_size=len(x))
        embedding = self.time_embedding(timesteps, dtype=x.dtype)
        if self.class_embedding is not None:
            embedding = embedding + self.class_embedding(class_labels).to(embedding.dtype)
        if self.pooled_projection is not None:
            embedding = embedding + self.pooled_projection(pooled)
        if self.augmentation_embedding is not None and augmentation is not None:
            embedding = embedding + self.augmentation_embedding(augmentation.to(embedding.dtype))
        if self.appearance_embedding is not None and appearance is not None:
            embedding = embedding + self.appearance_embedding(appearance.to(embedding.dtype))
        if self.statistics_embedding is not None:
            embedding = embedding + self.statistics_embedding(x)
        placed = with_position(x, self.config.position_frequencies)
        if self.config.padding == "whole":
            placed = pad_to_multiple(placed, self.config.downsampling)
        h = self.conv_in(placed)
        skips = [h]
        for down in self.down:
            skips += down(skips[-1], embedding, context)
        h = skips[-1]
        for layer in self.middle:
            h = run_block(layer, h, embedding, context, checkpointing=self.config.checkpointing)
        for up in self.up:
            h = up(h, skips, embedding, context)
        h = normalise_and_convolve(h, self.norm_out, self.conv_out, silu=True)
        h = crop_to(h, x.shape[2:])
        return h.contiguous() if self.input_gains is None else h + self.input_gains(x, embedding)

    def blocks(self) -> list[nn.Module]:
        """Return the blocks in the order in which they run: residual layers and changes of resolution."""

        def of(levels: nn.ModuleList) -> list[nn.Module]:
            parts = [part for level in levels for part in level.children()]
            return [
                block for part in parts for block in (part if isinstance(part, nn.ModuleList) else [part])
            ]

        return [*of(self.down), *self.middle, *of(self.up)]

    def _check_inputs(self, x: Tensor, timesteps: Tensor, **optional: Any) -> None:
        config = self.config
        check_shape("LatentUNet: x has", x, channels=config.in_channels, spatial_dims=config.spatial_dims)
        if timesteps.shape != x.shape[:1]:
            raise ValueError(
                f"timesteps have shape {tuple(timesteps.shape)}: give one for each of {len(x)} samples"
            )
        for name, has, what, condition in (
            ("context", config.cross_attention, "cross-attention", "cross_attention is True"),
            ("class_labels", self.class_embedding is not None, "class embeddings", "n_class_embeds is set"),
            ("pooled", self.pooled_projection is not None, "pooled context", "pooled_context is True"),
        ):
            is_given = optional[name] is not None
            if is_given != has:
                raise ValueError(
                    f"LatentUNet: {'' if is_given else 'no '}{name} was given but the network "
                    f"{'has' if has else 'has no'} {what}: pass it if and only if {condition}"
                )
        context = optional["context"]
        if context is not None and (len(context) != len(x) or context.shape[-1] != config.context_dim):
            needed = f"({len(x)}, tokens, {config.context_dim})"
            raise ValueError(f"context has shape {tuple(context.shape)}: {needed} is needed")

    def _check_told(self, x: Tensor, **told: Tensor | None) -> None:
        """Check how samples were augmented and what they look like."""
        for name, value in told.items():
            n_channels = getattr(self.config, f"{name}_channels")
            if value is not None and value.shape != (len(x), n_channels):
                raise ValueError(
                    f"{name} has shape {tuple(value.shape)}: ({len(x)}, {n_channels}) is needed"
                    + ("" if n_channels else f"; leave it out, or set {name}_channels of the network")
                )


class UNet(LatentUNet):
    """Denoise volumes themselves, for comparison with diffusion in a latent space.

    Examples:
        >>> import torch
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
