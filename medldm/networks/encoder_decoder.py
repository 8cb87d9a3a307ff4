"""The encoder and decoder of residual blocks.

Source: Rombach et al. 2022, "High-Resolution Image Synthesis with Latent Diffusion Models", Appendix G.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import Tensor, nn

from medldm.networks.attention import ResidualLayer, SpatialSelfAttention
from medldm.networks.autoencoder_config import AutoencoderConfig
from medldm.networks.blocks import (
    Downsample,
    LinearUpsample,
    ResidualBlock,
    TransposedUpsample,
    Upsample,
    run_block,
)
from medldm.networks.kernels.dispatch import fusable
from medldm.networks.kernels.fused_norm_conv import normalise_and_convolve
from medldm.networks.layers import Norm, conv

UPSAMPLINGS: dict[str, type[nn.Module]] = {
    "nearest": Upsample,
    "trilinear": LinearUpsample,
    "transposed": TransposedUpsample,
}


@fusable
class Level(nn.Module):
    """The layers of one resolution and the change to the next; `parts_of` hands them out to be run."""

    def __init__(self, layers: list[ResidualLayer], resample: nn.Module | None) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.resample = resample


def parts_of(levels: Iterable[nn.Module]) -> Iterator[nn.Module]:
    """Yield the layers of the levels and the changes of resolution between them.

    Who runs these one by one holds one map at a time; who called a level would hold its input to its end.
    """
    for level in levels:
        if isinstance(level, Level):
            yield from level.layers
            if level.resample is not None:
                yield level.resample


@fusable
class Encoder(nn.Module):
    """Bring a volume to the latent grid: (B, in, X, Y, Z) -> (B, latent, X/f, Y/f, Z/f).

    The last normalisation is followed by no activation, as in MONAI's AutoencoderKL.
    """

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        channels, coarsest = config.down_channels, len(config.down_channels) - 1
        self.conv_in = conv(config.in_channels, channels[0], spatial_dims=config.spatial_dims)
        self.levels = nn.ModuleList()
        for i, (n_in, n_out) in enumerate(zip((channels[0], *channels), channels, strict=False)):
            layers = _make_layers(config, i, n_in=n_in, n_out=n_out)
            strides = config.strides[i] if i < coarsest else None
            down = None if strides is None else Downsample(n_out, strides=strides, asymmetric=True)
            self.levels.append(Level(layers, down))
        self.middle = _make_middle(config, channels[-1], with_attention=config.mid_attention)
        self.norm_out = Norm(config.n_groups, channels[-1], eps=config.norm_eps)
        self.conv_out = conv(channels[-1], config.latent_channels, spatial_dims=config.spatial_dims)

    def forward(self, volume: Tensor) -> Tensor:
        """Encode a volume whose sizes are multiples of the downsampling."""
        h = self.conv_in(volume)
        for part in parts_of([*self.levels, self.middle]):
            h = run_block(part, h, checkpointing=self.config.checkpointing)
        return normalise_and_convolve(h, self.norm_out, self.conv_out, silu=False).contiguous()


@fusable
class Decoder(nn.Module):
    """Bring a latent grid back to a volume: (B, latent, x, y, z) -> (B, out, x f, y f, z f)."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        channels, finest = config.up_channels or (), len(config.down_channels) - 1
        self.conv_in = conv(config.latent_channels, channels[0], spatial_dims=config.spatial_dims)
        self.middle = _make_middle(config, channels[0], with_attention=bool(config.decoder_mid_attention))
        up = UPSAMPLINGS[config.upsampling]
        self.levels = nn.ModuleList()
        for i, (n_in, n_out) in enumerate(zip((channels[0], *channels), channels, strict=False)):
            layers = _make_layers(config, finest - i, n_in=n_in, n_out=n_out)
            resample = up(n_out, strides=config.strides[finest - 1 - i]) if i < finest else None
            self.levels.append(Level(layers, resample))
        self.norm_out = Norm(config.n_groups, channels[-1], eps=config.norm_eps)
        self.conv_out = conv(channels[-1], config.out_channels, spatial_dims=config.spatial_dims)

    @property
    def last_layer(self) -> Tensor:
        """Weights of the layer that makes the volume."""
        return self.conv_out.weight

    def forward(self, latents: Tensor) -> Tensor:
        """Decode a latent grid of any size."""
        h = self.conv_in(latents)
        for part in parts_of([self.middle, *self.levels]):
            h = run_block(part, h, checkpointing=self.config.checkpointing)
        return normalise_and_convolve(h, self.norm_out, self.conv_out, silu=False).contiguous()


def _make_layers(config: AutoencoderConfig, level: int, *, n_in: int, n_out: int) -> list[ResidualLayer]:
    """The layers of one of the encoder's levels, or of the decoder's level of the same resolution."""
    has_attention = config.has_attention(level)
    return [
        ResidualLayer(
            ResidualBlock(n_in if i == 0 else n_out, n_out, **config.block_options),
            _make_attention(config, n_out) if has_attention else None,
        )
        for i in range(config.blocks_of_level(level))
    ]


def _make_middle(config: AutoencoderConfig, channels: int, *, with_attention: bool) -> Level:
    """Residual block, self-attention and residual block at the coarsest level; nothing without attention."""
    if not with_attention:
        return Level([], None)
    first, last = (ResidualBlock(channels, channels, **config.block_options) for _ in range(2))
    return Level([ResidualLayer(first, _make_attention(config, channels)), ResidualLayer(last)], None)


def _make_attention(config: AutoencoderConfig, channels: int) -> SpatialSelfAttention:
    return SpatialSelfAttention(
        channels,
        n_heads=1,
        n_groups=config.n_groups,
        norm_eps=config.norm_eps,
        has_projection=config.attention_projection,
    )
