"""The residual encoder and decoder that the autoencoders share, and its configuration.

Source: Rombach et al. 2022, "High-Resolution Image Synthesis with Latent Diffusion Models", Appendix G.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from medldm.configs import Config
from medldm.networks.attention import ResidualLayer, SpatialSelfAttention
from medldm.networks.blocks import (
    Downsample,
    Norm,
    ResidualBlock,
    TransposedUpsample,
    Upsample,
    conv,
    run_block,
)
from medldm.networks.config_checks import (
    check_channels,
    check_choice,
    check_norm_eps,
    check_positive,
    per_level,
)
from medldm.networks.kernels.fused_norm_conv import normalise_and_convolve


@dataclass(kw_only=True)
class AutoencoderConfig(Config):
    """Describe an encoder and a decoder of residual blocks.

    Args:
        down_channels: channels of the encoder's levels, finest first; each but the last halves the size.
        up_channels: channels of the decoder's levels, coarsest first; None for the encoder's reversed.
        latent_channels: channels of the latent grid.
        n_groups: groups of all normalisations; divides all channels.
        in_channels: of the volume.
        out_channels: of the reconstruction.
        n_res_blocks: residual blocks of a level; one number, or one for each of the encoder's levels.
        attention_levels: the encoder's levels with self-attention; None for none.
        mid_attention: whether a middle block (residual, self-attention, residual) stands at the coarsest
            level.
        decoder_mid_attention: the same in the decoder; None for as in the encoder.
        attention_projection: whether attention ends with a linear layer.
        upsampling: "nearest" (and a convolution) or "transposed" (convolution, kernel 2, stride 2).
        spatial_dims: 2 or 3.
        norm_eps: added to the variance in the normalisations.
        checkpointing: recompute activations in the backward pass; less memory, the same result.

    Raises:
        ValueError: if a value is outside its range or levels do not agree.
    """

    follows: ClassVar[tuple[str, ...]] = ("up_channels",)

    down_channels: tuple[int, ...] = (64, 128, 256, 512)
    up_channels: tuple[int, ...] | None = None
    latent_channels: int = 4
    n_groups: int = 32
    in_channels: int = 1
    out_channels: int = 1
    n_res_blocks: int | tuple[int, ...] = 2
    attention_levels: tuple[bool, ...] | None = None
    mid_attention: bool = True
    decoder_mid_attention: bool | None = None
    attention_projection: bool = True
    upsampling: str = "nearest"
    spatial_dims: int = 3
    norm_eps: float = 1e-6
    checkpointing: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        owner = type(self).__name__
        check_positive(owner, n_groups=self.n_groups)
        check_channels(owner, "down_channels", self.down_channels, self._divisor_of_channels)
        n_levels = len(self.down_channels)
        channels: Any = self.down_channels[::-1] if self.up_channels is None else self.up_channels
        levels = (False,) * n_levels if self.attention_levels is None else self.attention_levels
        mid = self.mid_attention if self.decoder_mid_attention is None else self.decoder_mid_attention
        blocks = per_level(owner, "n_res_blocks", self.n_res_blocks, n_levels)
        self.up_channels = channels
        self.attention_levels = per_level(owner, "attention_levels", levels, n_levels)
        self.decoder_mid_attention = mid
        self.n_res_blocks = blocks
        check_channels(owner, "up_channels", channels, self._divisor_of_channels)
        per_level(owner, "up_channels", channels, n_levels)
        check_positive(owner, **{f"n_res_blocks[{i}]": n for i, n in enumerate(blocks)})
        check_positive(
            owner,
            latent_channels=self.latent_channels,
            in_channels=self.in_channels,
            out_channels=self.out_channels,
        )
        check_norm_eps(owner, self.norm_eps)
        check_choice(owner, "spatial_dims", self.spatial_dims, (2, 3))
        check_choice(owner, "upsampling", self.upsampling, ("nearest", "transposed"))

    @property
    def _divisor_of_channels(self) -> int:
        return self.n_groups

    def blocks_of_level(self, level: int) -> int:
        """Residual blocks of a level; level 0 is the finest."""
        return per_level("", "n_res_blocks", self.n_res_blocks, len(self.down_channels))[level]

    @property
    def downsampling(self) -> int:
        """How many voxels of an axis become one latent voxel."""
        return 2 ** (len(self.down_channels) - 1)


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


class Encoder(nn.Module):
    """Bring a volume to the latent grid: (B, in, X, Y, Z) -> (B, latent, X/f, Y/f, Z/f).

    The last normalisation is followed by no activation, as in MONAI's AutoencoderKL.

    Args:
        config: of the trunk.
    """

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        channels, coarsest = config.down_channels, len(config.down_channels) - 1
        self.conv_in = conv(config.in_channels, channels[0], spatial_dims=config.spatial_dims)
        self.levels = nn.ModuleList()
        for i, (n_in, n_out) in enumerate(zip((channels[0], *channels), channels, strict=False)):
            layers = _make_layers(config, i, n_in=n_in, n_out=n_out)
            down = Downsample(n_out, spatial_dims=config.spatial_dims, asymmetric=True)
            self.levels.append(Level(layers, down if i < coarsest else None))
        self.middle = _make_middle(config, channels[-1], with_attention=config.mid_attention)
        self.norm_out = Norm(config.n_groups, channels[-1], eps=config.norm_eps)
        self.conv_out = conv(channels[-1], config.latent_channels, spatial_dims=config.spatial_dims)

    def forward(self, volume: Tensor) -> Tensor:
        """Encode a volume whose sizes are multiples of the downsampling."""
        h = self.conv_in(volume)
        for part in parts_of([*self.levels, self.middle]):
            h = run_block(part, h, checkpointing=self.config.checkpointing)
        return normalise_and_convolve(h, self.norm_out, self.conv_out, silu=False).contiguous()


class Decoder(nn.Module):
    """Bring a latent grid back to a volume: (B, latent, x, y, z) -> (B, out, x f, y f, z f).

    Args:
        config: of the trunk.
    """

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        channels, finest = config.up_channels or (), len(config.down_channels) - 1
        self.conv_in = conv(config.latent_channels, channels[0], spatial_dims=config.spatial_dims)
        self.middle = _make_middle(config, channels[0], with_attention=bool(config.decoder_mid_attention))
        up = Upsample if config.upsampling == "nearest" else TransposedUpsample
        self.levels = nn.ModuleList()
        for i, (n_in, n_out) in enumerate(zip((channels[0], *channels), channels, strict=False)):
            layers = _make_layers(config, finest - i, n_in=n_in, n_out=n_out)
            resample = up(n_out, spatial_dims=config.spatial_dims) if i < finest else None
            self.levels.append(Level(layers, resample))
        self.norm_out = Norm(config.n_groups, channels[-1], eps=config.norm_eps)
        self.conv_out = conv(channels[-1], config.out_channels, spatial_dims=config.spatial_dims)

    def forward(self, latents: Tensor) -> Tensor:
        """Decode a latent grid of any size."""
        h = self.conv_in(latents)
        for part in parts_of([self.middle, *self.levels]):
            h = run_block(part, h, checkpointing=self.config.checkpointing)
        return normalise_and_convolve(h, self.norm_out, self.conv_out, silu=False).contiguous()


def _make_layers(config: AutoencoderConfig, level: int, *, n_in: int, n_out: int) -> list[ResidualLayer]:
    """The layers of one of the encoder's levels, or of the decoder's level of the same resolution."""
    has_attention = (config.attention_levels or ())[level]
    return [
        ResidualLayer(
            _make_residual(config, n_in if i == 0 else n_out, n_out),
            _make_attention(config, n_out) if has_attention else None,
        )
        for i in range(config.blocks_of_level(level))
    ]


def _make_middle(config: AutoencoderConfig, channels: int, *, with_attention: bool) -> Level:
    """Residual block, self-attention and residual block at the coarsest level; nothing without attention."""
    if not with_attention:
        return Level([], None)
    first = ResidualLayer(_make_residual(config, channels, channels), _make_attention(config, channels))
    last = ResidualLayer(_make_residual(config, channels, channels))
    return Level([first, last], None)


def _make_residual(config: AutoencoderConfig, n_in: int, n_out: int) -> ResidualBlock:
    return ResidualBlock(
        n_in, n_out, n_groups=config.n_groups, norm_eps=config.norm_eps, spatial_dims=config.spatial_dims
    )


def _make_attention(config: AutoencoderConfig, channels: int) -> SpatialSelfAttention:
    return SpatialSelfAttention(
        channels,
        n_heads=1,
        n_groups=config.n_groups,
        norm_eps=config.norm_eps,
        has_projection=config.attention_projection,
    )
