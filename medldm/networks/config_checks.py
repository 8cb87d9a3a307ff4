"""Checks that the configurations of all networks share; each raises a ValueError that says what to do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from medldm.errors import ConfigError


def check_positive(owner: str, **values: int) -> None:
    """Raise unless every value is a whole number of at least 1."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigError(f"{owner}: {name} is {value!r}: a whole number of at least 1 is needed")


def check_choice(owner: str, name: str, value: object, allowed: Sequence[object]) -> None:
    """Raise unless `value` is one of `allowed`."""
    if value not in allowed:
        raise ConfigError(f"{owner}: {name} is {value!r}: choose from {list(allowed)}")


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


def check_norm_eps(owner: str, norm_eps: float) -> None:
    """Raise unless the number added to a variance is positive."""
    if not norm_eps > 0:
        raise ConfigError(f"{owner}: norm_eps is {norm_eps}: a positive number is needed, such as 1e-6")


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


def check_shape(what: str, x: Tensor, *, channels: int, spatial_dims: int) -> None:
    """Raise unless `x` is (B, channels, X, Y[, Z]).

    Args:
        what: beginning of the message, such as "VAE: volume has".
        x: any tensor.
        channels: needed on the second axis.
        spatial_dims: axes needed after it.
    """
    if x.ndim != spatial_dims + 2 or x.shape[1] != channels:
        axes = ", ".join("XYZ"[:spatial_dims])
        raise ValueError(f"{what} shape {tuple(x.shape)}: (B, {channels}, {axes}) is needed")
