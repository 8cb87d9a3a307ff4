"""What the configurations of all networks share; each check raises a ValueError that says what to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from medldm.configs import Config
from medldm.errors import ConfigError

MAX_LEVELS = 16
"""Each level but the last halves the size: no volume has 2^16 voxels along an axis."""
MAX_BLOCKS = 1024
"""Of one level, far beyond what anyone trains; a number above it is a slip or an attack."""


@dataclass(kw_only=True)
class LevelsConfig(Config):
    """Describe levels of residual blocks; the base of the autoencoders' and the denoiser's configurations.

    Args:
        down_channels: channels of the levels, finest first; each but the last halves the size.
        n_res_blocks: residual blocks of a level on the way down; one number, or one for each level.
        attention_levels: the levels with attention; None for those that the subclass says.
        mid_attention: whether there is attention in the middle, at the coarsest level.
        attention_projection: whether self-attention ends with a linear layer.
        n_groups: groups of all normalisations; divides all channels.
        norm_eps: added to the variance in the normalisations.
        spatial_dims: 2 or 3.
        checkpointing: recompute activations in the backward pass; less memory, the same result.

    Raises:
        ValueError: if a value is outside its range or levels do not agree.
    """

    down_channels: tuple[int, ...]
    n_res_blocks: int | tuple[int, ...] = 2
    attention_levels: tuple[bool, ...] | None = None
    mid_attention: bool = True
    attention_projection: bool = True
    n_groups: int = 32
    norm_eps: float = 1e-6
    spatial_dims: Literal[2, 3] = 3
    checkpointing: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        owner = type(self).__name__
        check_positive(owner, n_groups=self.n_groups)
        check_levels(owner, down_channels=self.down_channels, n_res_blocks=self.n_res_blocks)
        check_channels(owner, "down_channels", self.down_channels, self._divisor_of_channels)
        n_levels = len(self.down_channels)
        if self.attention_levels is None:
            self.attention_levels = tuple(map(self._has_attention_by_default, range(n_levels)))
        self.attention_levels = per_level(owner, "attention_levels", self.attention_levels, n_levels)
        self.n_res_blocks = positive_per_level(owner, "n_res_blocks", self.n_res_blocks, n_levels)
        check_most(owner, MAX_BLOCKS, **{f"n_res_blocks[{i}]": n for i, n in enumerate(self.n_res_blocks)})
        self.require("(0, inf)", "norm_eps")

    @property
    def _divisor_of_channels(self) -> int:
        return self.n_groups

    def _has_attention_by_default(self, level: int) -> bool:
        return False

    @property
    def block_options(self) -> dict[str, Any]:
        """What all residual blocks are made with."""
        return {"n_groups": self.n_groups, "norm_eps": self.norm_eps, "spatial_dims": self.spatial_dims}

    def has_attention(self, level: int) -> bool:
        """Whether a level has attention; level 0 is the finest."""
        return bool((self.attention_levels or ())[level])

    def blocks_of_level(self, level: int) -> int:
        """Residual blocks of a level on the way down; level 0 is the finest."""
        return per_level("", "n_res_blocks", self.n_res_blocks, len(self.down_channels))[level]


def check_positive(owner: str, **values: int) -> None:
    """Raise unless every value is a whole number of at least 1."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigError(f"{owner}: {name} is {value!r}: a whole number of at least 1 is needed")


def check_levels(owner: str, **values: Any) -> None:
    """Raise for a sequence of more values than a network can have levels, before all other checks."""
    for name, value in values.items():
        if isinstance(value, tuple) and len(value) > MAX_LEVELS:
            raise ConfigError(f"{owner}: {name} has {len(value)} levels: at most {MAX_LEVELS} are allowed")


def check_most(owner: str, most: int, **values: int | None) -> None:
    """Raise for a number above `most`."""
    for name, value in values.items():
        if value is not None and value > most:
            raise ConfigError(f"{owner}: {name} is {value}: at most {most} is allowed")


def check_channels(owner: str, name: str, channels: Any, n_groups: int) -> None:
    """Raise unless `channels` is a non-empty sequence of positive multiples of `n_groups`."""
    if not isinstance(channels, tuple) or not channels:
        raise ConfigError(f"{owner}: {name} is {channels!r}: give the channels of each level, finest first")
    check_positive(owner, **{f"{name}[{i}]": value for i, value in enumerate(channels)})
    wrong = [value for value in channels if value % n_groups]
    if wrong:
        raise ConfigError(
            f"{owner}: {name} has {wrong}, no multiples of n_groups = {n_groups}: "
            "change the channels or take a smaller n_groups"
        )


def per_level(owner: str, name: str, value: Any, n_levels: int) -> tuple[Any, ...]:
    """Repeat a single value for each level, or check that a sequence has one value for each.

    Raises:
        ValueError: if a sequence has another length than the network has levels.
    """
    values = value if isinstance(value, tuple) else (value,) * n_levels
    if len(values) != n_levels:
        raise ConfigError(
            f"{owner}: {name} has {len(values)} values for {n_levels} levels: give one for each"
        )
    return values


def positive_per_level(owner: str, name: str, value: Any, n_levels: int) -> tuple[int, ...]:
    """Return whole numbers of at least 1 as `per_level` does.

    Raises:
        ValueError: if there are not as many as levels, or one is not positive.
    """
    values = per_level(owner, name, value, n_levels)
    check_positive(owner, **{f"{name}[{i}]": each for i, each in enumerate(values)})
    return values


def check_shape(what: str, x: Tensor, *, channels: int, spatial_dims: int) -> None:
    """Raise unless `x` is (B, channels, X, Y[, Z]); `what` begins the message: "VAE: volume has"."""
    if x.ndim != spatial_dims + 2 or x.shape[1] != channels:
        axes = ", ".join("XYZ"[:spatial_dims])
        raise ValueError(f"{what} shape {tuple(x.shape)}: (B, {channels}, {axes}) is needed")
