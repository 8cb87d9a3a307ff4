"""The configuration of the denoiser."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Literal

from medldm.errors import ConfigError
from medldm.networks.config_checks import MAX_BLOCKS, LevelsConfig, check_most, positive_per_level


@dataclass(kw_only=True)
class LatentUNetConfig(LevelsConfig):
    """Describe a denoising U-Net; the defaults are those of Rombach et al. 2022, Table 15.

    Args:
        in_channels: of the noisy latents, with the spatial conditions joined to them.
        out_channels: of the prediction.
        time_emb_dim: width of the sinusoidal time embedding (four times as wide after its layers); None for
            down_channels[0].
        n_heads: heads of all attention.
        n_head_channels: channels of each head, one number or one for each level, in place of `n_heads`. With
            cross-attention they need not divide the level's channels: attention is then a little narrower.
        cross_attention: whether attention looks at a context as well.
        context_dim: width of the context; None only without cross-attention.
        pooled_context: whether a summary of the context (B, context_dim) is added to the time embedding as
            well, so that it reaches every residual block (Podell et al. 2024, "SDXL", Section 2.1).
        position_frequencies: with k > 0, the network is told where each voxel lies, in 2 k channels for each
            axis; see `with_position`.
        attention_levels: levels with attention; None for all but the finest, for that one too if it is alone.
        augmentation_channels: numbers that say how a training sample was augmented (Karras et al. 2022,
            Appendix F); zeros, as at sampling, change nothing. 0 for a network that is told of none.
        appearance_channels: numbers that say what a sample looks like as a whole, see
            `medldm.latent_diffusion.appearance`; zeros stand for the mean case. 0 for a network that is told
            of none.
        input_statistics: whether the network is told level, spread and grain of its input, which its
            normalisations take away, see `StatisticsEmbedding`.
        input_gains: whether multiples of the input that depend on the embedding are added to the output, see
            `InputGains`.
        n_class_embeds: classes that are added to the time embedding; None for none.
        n_transformer_layers: transformer blocks at each place with cross-attention.
        dropout: share of the values that each residual block sets to 0 before its second convolution, in
            training alone.
        residual_resampling: change the size inside residual blocks in place of strided convolutions.
        padding: of sizes that the levels do not divide. "whole" pads once before the first level, to a
            multiple of `downsampling`; "levels" by one voxel where a level halves an odd size, in less time.
            Where nothing needs padding both are equal, to the bit.

    Examples:
        >>> LatentUNetConfig().time_emb_dim
        320
    """

    follows: ClassVar[tuple[str, ...]] = ("up_channels",)

    in_channels: int = 4
    out_channels: int = 4
    down_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    time_emb_dim: int | None = None
    n_heads: int = 8
    n_head_channels: int | tuple[int, ...] | None = None
    cross_attention: bool = True
    context_dim: int | None = 512
    pooled_context: bool = False
    position_frequencies: int = 0
    augmentation_channels: int = 0
    appearance_channels: int = 0
    input_statistics: bool = False
    input_gains: bool = False
    n_class_embeds: int | None = None
    n_transformer_layers: int = 1
    dropout: float = 0.0
    residual_resampling: bool = False
    padding: Literal["whole", "levels"] = "whole"

    def __post_init__(self) -> None:
        super().__post_init__()
        owner = type(self).__name__
        self.time_emb_dim = self.time_emb_dim or self.down_channels[0]
        if self.n_head_channels is not None:
            n_levels = len(self.down_channels)
            self.n_head_channels = positive_per_level(
                owner, "n_head_channels", self.n_head_channels, n_levels
            )
        self._check_numbers(owner)
        self._check_heads(owner)

    @property
    def downsampling(self) -> int:
        """How many voxels of an axis become one of the coarsest level; the same on all axes."""
        return 2 ** (len(self.down_channels) - 1)

    def _has_attention_by_default(self, level: int) -> bool:
        return level > 0 or len(self.down_channels) == 1

    def _check_numbers(self, owner: str) -> None:
        self.require("[1, inf)", "in_channels", "out_channels", "time_emb_dim", "n_heads")
        self.require("[1, inf)", "n_transformer_layers", "n_class_embeds")
        check_most(owner, MAX_BLOCKS, n_transformer_layers=self.n_transformer_layers)
        self.require("[0, inf)", "position_frequencies", "augmentation_channels", "appearance_channels")
        self.require("[0, 1)", "dropout")
        if self.cross_attention and self.context_dim is None:
            raise ConfigError(
                f"{owner}: cross_attention is True but context_dim is None: give the width of the context, "
                "or set cross_attention to False"
            )
        if self.pooled_context and not self.cross_attention:
            raise ConfigError(
                f"{owner}: pooled_context is True but cross_attention is False: there is no context to pool"
            )

    def _check_heads(self, owner: str) -> None:
        """Raise unless the heads divide the channels of every level with attention."""
        for level, channels in enumerate(self.down_channels):
            is_middle = level == len(self.down_channels) - 1 and self.mid_attention
            if not (self.has_attention(level) or is_middle):
                continue
            n_heads, head_channels = self.heads_of_level(level)
            has_own_width = self.cross_attention and self.n_head_channels is not None and n_heads > 0
            if n_heads * head_channels != channels and not has_own_width:
                is_told_number = self.n_head_channels is None
                heads = f"{n_heads} heads" if is_told_number else f"heads of {head_channels} channels"
                raise ConfigError(
                    f"{owner}: level {level} has {channels} channels, not divisible into {heads}: change "
                    "down_channels, n_heads or n_head_channels"
                )

    @property
    def up_channels(self) -> tuple[int, ...]:
        """Widths on the way up, coarsest first: each level's own with the next finer one's skip joined to it.

        The last one is the width of the output. They may be given, and must then be these.
        """
        coarsest_first = self.down_channels[::-1]
        return (*(sum(pair) for pair in pairwise(coarsest_first)), coarsest_first[-1])

    @property
    def position_channels(self) -> int:
        """Channels that say where a voxel lies."""
        return 2 * self.spatial_dims * self.position_frequencies

    def heads_of_level(self, level: int) -> tuple[int, int]:
        """Number of heads, and channels of each."""
        channels = self.down_channels[level]
        if isinstance(self.n_head_channels, tuple):
            return channels // self.n_head_channels[level], self.n_head_channels[level]
        return self.n_heads, channels // self.n_heads


@dataclass(kw_only=True)
class UNetConfig(LatentUNetConfig):
    """Describe a denoiser of volumes: a LatentUNetConfig with one channel and without cross-attention."""

    in_channels: int = 1
    out_channels: int = 1
    down_channels: tuple[int, ...] = (32, 64, 128, 256)
    cross_attention: bool = False
    context_dim: int | None = None
