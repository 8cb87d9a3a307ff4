"""The configuration that the autoencoders of the first stage share."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar

from medldm.errors import ConfigError
from medldm.networks import config_checks as checks
from medldm.networks.downsampling import check_factors, strides_of

ConfigType = TypeVar("ConfigType", bound="AutoencoderConfig")

MAX_BLOCK_VALUES = 2**14
"""Of a block of a linear path, whose transform has the square of so many numbers: 1 GiB."""


@dataclass(kw_only=True)
class AutoencoderConfig(checks.LevelsConfig):
    """Describe an encoder and a decoder of residual blocks; the levels are the encoder's.

    Args:
        up_channels: channels of the decoder's levels, coarsest first; None for the encoder's reversed.
        latent_channels: channels of the latent grid.
        in_channels: of the volume.
        out_channels: of the reconstruction.
        attention_levels: the encoder's levels with self-attention; None for none.
        mid_attention: whether a middle block (residual, self-attention, residual) stands at the coarsest
            level.
        decoder_mid_attention: the same in the decoder; None for as in the encoder.
        upsampling: "nearest" or "trilinear" (and a convolution), or "transposed" (convolution, kernel 2,
            stride 2).
        downsampling: how many voxels of each axis become one latent, powers of two, such as (4, 4, 2); None
            for what the levels give, on all axes alike. The largest must be that; the finest levels halve
            the axes of larger factors alone, see `medldm.networks.downsampling`.
        linear_path: whether the networks learn what the principal components of the cohort's blocks leave, as
            `medldm.networks.linear_path` has it, and of which blocks: "blocked", which True means too, or
            "lapped", which reach over their borders. The networks then work on maps of half the size, and the
            levels compress twice as much: 2 levels give 4 on each axis.
        value_range: what encoder and decoder take for -1 and 1 of a volume; (0, 1) for networks that were
            trained on volumes from 0 to 1 elsewhere. Volumes and reconstructions have -1 to 1 all the same.

    Raises:
        ConfigError: if a value is outside its range or levels do not agree.
    """

    follows: ClassVar[tuple[str, ...]] = ("up_channels", "downsampling")

    down_channels: tuple[int, ...] = (64, 128, 256, 512)
    up_channels: tuple[int, ...] | None = None
    latent_channels: int = 4
    in_channels: int = 1
    out_channels: int = 1
    decoder_mid_attention: bool | None = None
    upsampling: Literal["nearest", "trilinear", "transposed"] = "nearest"
    downsampling: tuple[int, ...] | None = None
    linear_path: bool | Literal["blocked", "lapped"] = False
    value_range: tuple[float, float] = (-1.0, 1.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        owner = type(self).__name__
        channels: Any = self.down_channels[::-1] if self.up_channels is None else self.up_channels
        checks.check_channels(owner, "up_channels", channels, self._divisor_of_channels)
        self.up_channels = checks.per_level(owner, "up_channels", channels, len(self.down_channels))
        if self.decoder_mid_attention is None:
            self.decoder_mid_attention = self.mid_attention
        self.require("[1, inf)", "latent_channels", "in_channels", "out_channels")
        self._check_value_range(owner)
        if self.linear_path:
            self._check_linear_path(owner)
        if not self.is_strided:
            self._check_downsampling(owner)
        if self.linear_path:
            self._check_components(owner)

    def _check_value_range(self, owner: str) -> None:
        """Raise unless the range has two increasing ends, and is the usual one beside a linear path."""
        self.require("(-inf, inf)", "value_range")
        if len(self.value_range) != 2 or not self.value_range[0] < self.value_range[1]:
            raise ConfigError(
                f"{owner}: value_range is {self.value_range}: two increasing numbers are needed, what the "
                "networks take for -1 and 1 of a volume"
            )
        if self.linear_path and self.has_own_range:
            raise ConfigError(
                f"{owner}: value_range is {self.value_range}: with linear_path it is (-1, 1); leave it out"
            )

    def _check_linear_path(self, owner: str) -> None:
        if self.is_strided:
            raise ConfigError(
                f"{owner}: a strided trunk has no linear_path: take trunk: residual, or turn it off"
            )
        if self.in_channels != self.out_channels:
            raise ConfigError(
                f"{owner}: linear_path needs as many in_channels ({self.in_channels}) as out_channels "
                f"({self.out_channels}): turn it off where they differ"
            )

    def _check_components(self, owner: str) -> None:
        n_values = self.in_channels * math.prod(self.downsampling or ())
        checks.check_most(owner, MAX_BLOCK_VALUES, in_channels_times_downsampling=n_values)
        if self.latent_channels > n_values:
            raise ConfigError(
                f"{owner}: latent_channels is {self.latent_channels}, but a block of {self.downsampling} "
                f"voxels has {n_values} values: with linear_path take at most as many"
            )

    def _check_downsampling(self, owner: str) -> None:
        largest = 2 ** (len(self.down_channels) - (0 if self.linear_path else 1))
        if self.downsampling is None:
            self.downsampling = (largest,) * self.spatial_dims
        check_factors(owner, self.downsampling, spatial_dims=self.spatial_dims, largest=largest)

    @property
    def strides(self) -> tuple[tuple[int, ...], ...]:
        """Strides per axis between the levels of residual blocks, finest first."""
        halved = zip(self.downsampling or (), self.halves, strict=True)
        return strides_of([factor // half for factor, half in halved])

    @property
    def halves(self) -> tuple[int, ...]:
        """Voxels of each axis that one voxel of the finest level stands for: 2 or 1 with a linear path."""
        return tuple(min(2, factor) if self.linear_path else 1 for factor in self.downsampling or ())

    def of_networks(self: ConfigType) -> ConfigType:
        """Return the configuration of encoder and decoder: with a linear path, that of the maps they see."""
        if not self.linear_path:
            return self
        n_channels = self.in_channels * math.prod(self.halves)
        factors = zip(self.downsampling or (), self.halves, strict=True)
        return self.copy(
            linear_path=False,
            downsampling=tuple(factor // half for factor, half in factors),
            in_channels=n_channels,
            out_channels=n_channels,
        )

    @property
    def has_own_range(self) -> bool:
        """Whether encoder and decoder work on another range of values than [-1, 1]."""
        return self.value_range != (-1.0, 1.0)

    @property
    def is_lapped(self) -> bool:
        """Whether there is a linear path of blocks that reach over their borders."""
        return self.linear_path == "lapped"

    @property
    def is_strided(self) -> bool:
        """Whether encoder and decoder are strided convolutions, in place of residual blocks."""
        return False
