"""The configuration of the vector-quantised autoencoder."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from medldm.errors import ConfigError
from medldm.networks.autoencoder_config import AutoencoderConfig
from medldm.networks.config_checks import per_level, positive_per_level

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "none": nn.Identity,
    "relu": nn.ReLU,
    "leakyrelu": nn.LeakyReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}


@dataclass(kw_only=True)
class VQVAEConfig(AutoencoderConfig):
    """Describe a VQ-VAE: the fields of its encoder and decoder, and those of its codebook.

    Args:
        n_codes: size of the codebook.
        commitment_weight: beta of the commitment loss.
        codebook_learning: "ema" (moving averages) or "gradient".
        decay: of the moving averages.
        restart_after: training steps without use after which a code is replaced by a vector of the batch;
            None for never.
        codebook_init: "data" takes the codes from the first training batch, "normal" from N(0, 1).
        trunk: "residual", encoder and decoder of the VAE, or "strided", convolutions and ReLU units without
            normalisation.
        res_channels: "strided" only: channels inside the residual units, one number or one for each level;
            None for the channels of the level.
        down_parameters: "strided" only: (stride, kernel, dilation, padding) for each level, finest first, or
            one for all; None for (2, 4, 1, 1), so that every level halves the size.
        up_parameters: "strided" only: (stride, kernel, dilation, padding, output padding) for each level,
            coarsest first, or one for all; None for (2, 4, 1, 1, 0).
        activation: "strided" only.
        output_activation: "strided" only; "none", "tanh", "sigmoid", ...

    Examples:
        >>> VQVAEConfig(down_channels=[32, 64, 128], n_codes=256).downsampling
        (4, 4, 4)

    Raises:
        ValueError: if a value is outside its range or levels do not agree.
    """

    n_codes: int = 1024
    commitment_weight: float = 0.25
    codebook_learning: Literal["ema", "gradient"] = "ema"
    decay: float = 0.99
    restart_after: int | None = 100
    codebook_init: Literal["data", "normal"] = "data"
    trunk: Literal["residual", "strided"] = "residual"
    res_channels: int | tuple[int, ...] | None = None
    down_parameters: tuple[int | tuple[int, ...], ...] | None = None
    up_parameters: tuple[int | tuple[int, ...], ...] | None = None
    activation: str = "relu"
    output_activation: str = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        owner = type(self).__name__
        self.require("[1, inf)", "n_codes", "restart_after")
        for name in ("activation", "output_activation"):
            if getattr(self, name) not in ACTIVATIONS:
                raise ConfigError(
                    f"{owner}: {name} is {getattr(self, name)!r}: choose from {list(ACTIVATIONS)}"
                )
        self.require("[0, 1)", "decay")
        self.require("[0, inf)", "commitment_weight")
        if self.is_strided:
            self._check_strided(owner)

    def _check_strided(self, owner: str) -> None:
        """Fill in the strides of each level; check that the decoder restores the size."""
        if self.up_channels != self.down_channels[::-1]:
            raise ConfigError(
                f"{owner}: up_channels are {self.up_channels}: the strided decoder has the encoder's "
                f"channels {self.down_channels} in reverse; leave up_channels out"
            )
        n_levels = len(self.down_channels)
        widths = self.down_channels if self.res_channels is None else self.res_channels
        widths = positive_per_level(owner, "res_channels", widths, n_levels)
        down: Any = self.down_parameters or (2, 4, 1, 1)
        up: Any = self.up_parameters or (2, 4, 1, 1, 0)
        down, up = (rows if isinstance(rows[0], tuple) else (rows,) * n_levels for rows in (down, up))
        for name, rows, length in (("down_parameters", down, 4), ("up_parameters", up, 5)):
            per_level(owner, name, rows, n_levels)
            if any(len(row) != length for row in rows):
                raise ConfigError(f"{owner}: {name} is {rows}: give {length} whole numbers for each level")
        for name, value in (("res_channels", widths), ("down_parameters", down), ("up_parameters", up)):
            setattr(self, name, value)
        self._set_factors(owner)
        self._check_sizes(owner)

    def _set_factors(self, owner: str) -> None:
        """Let the strides say the downsampling, which is the same on all axes."""
        factors = (math.prod(stride for stride, *_ in self.down_rows),) * self.spatial_dims
        if self.downsampling not in (None, factors):
            raise ConfigError(
                f"{owner}: downsampling is {self.downsampling}, but the rows of down_parameters of a strided "
                f"trunk give {factors}: leave downsampling out, or take trunk: residual, which can shrink "
                "each axis by its own factor"
            )
        self.downsampling = factors

    def _check_sizes(self, owner: str) -> None:
        """Raise unless sizes that are multiples of the downsampling come back as they were."""
        for multiple in (4, 5):
            size = wanted = multiple * (self.downsampling or ())[0]
            for stride, kernel, dilation, padding in self.down_rows:
                size = (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
            for stride, kernel, dilation, padding, extra in self.up_rows:
                size = (size - 1) * stride - 2 * padding + dilation * (kernel - 1) + extra + 1
            if size != wanted:
                raise ConfigError(
                    f"{owner}: down_parameters {self.down_rows} and up_parameters {self.up_rows} turn "
                    f"{wanted} voxels into {size}: choose paddings that restore the size, as (2, 4, 1, 1) "
                    "and (2, 4, 1, 1, 0) do"
                )

    @property
    def is_strided(self) -> bool:
        """Whether encoder and decoder are strided convolutions, in place of residual blocks."""
        return self.trunk == "strided"

    @property
    def _divisor_of_channels(self) -> int:
        return 1 if self.is_strided else self.n_groups

    @property
    def down_rows(self) -> tuple[tuple[int, int, int, int], ...]:
        """(stride, kernel, dilation, padding) of each level of a strided encoder, finest first."""
        rows: Any = self.down_parameters or ((2, 4, 1, 1),) * len(self.down_channels)
        return rows

    @property
    def up_rows(self) -> tuple[tuple[int, int, int, int, int], ...]:
        """(stride, kernel, dilation, padding, output padding) of each level, coarsest first."""
        rows: Any = self.up_parameters or ((2, 4, 1, 1, 0),) * len(self.down_channels)
        return rows

    @property
    def hidden_channels(self) -> tuple[int, ...]:
        """Channels inside the residual units of each level, if strided."""
        return per_level("", "res_channels", self.res_channels, len(self.down_channels))
