"""The configuration that the autoencoders share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from medldm.configs import Config
from medldm.networks.config_checks import (
    check_channels,
    check_choice,
    check_norm_eps,
    check_positive,
    per_level,
)


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
    def is_strided(self) -> bool:
        """Whether encoder and decoder are strided convolutions, in place of residual blocks."""
        return False

    @property
    def downsampling(self) -> int:
        """How many voxels of an axis become one latent voxel."""
        return 2 ** (len(self.down_channels) - 1)
