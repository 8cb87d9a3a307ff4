"""How much memory encoding and decoding take, and running them within a budget.

The estimates count the values of all feature maps that exist at the same time, at the level that needs most,
and allow for what allocators and convolution libraries take besides. They hold for what is allocated above
weights and input, the result included.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from medldm.errors import ConfigError
from medldm.networks.autoencoder import Autoencoder
from medldm.networks.autoencoder_config import AutoencoderConfig
from medldm.networks.kernels.dispatch import compute_dtype
from medldm.networks.quantiser import MAX_DISTANCES
from medldm.networks.streaming.encode_decode import stream_decode, stream_encode_moments
from medldm.networks.vqvae_config import VQVAEConfig

logger = logging.getLogger(__name__)

ALLOWANCE = 1.15
"""Resident memory over counted memory, besides `OVERHEAD`: gaps that an allocator leaves."""

OVERHEAD = 50e6
"""Bytes that the kernels and the allocator hold whatever the size; measured 40 to 60 MB on a CPU."""


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """Say how to run an encoder or a decoder.

    Args:
        n_bytes: estimate of what it takes.
        tile: planes of a tile; None to run whole.
        recompute: store one map of the finest level in place of two.
    """

    n_bytes: int
    tile: int | None = None
    recompute: bool = False


PLANS: tuple[tuple[int | None, bool], ...] = (
    (None, False),
    *((tile, False) for tile in (16, 8, 4)),
    *((tile, True) for tile in (16, 8, 4, 2, 1)),
)
"""Tile and recomputation of the plans that are tried, fastest first."""


@dataclass(frozen=True, kw_only=True)
class _Level:
    """Channels that enter and leave a level, its size, its voxels to one of the coarser level, its layers."""

    n_in: int
    n_out: int
    size: tuple[int, ...]
    growth: int
    n_blocks: int
    has_attention: bool

    @property
    def voxels(self) -> int:
        return math.prod(self.size)

    @property
    def plane(self) -> int:
        return self.voxels // max(self.size)


def estimate_bytes(
    config: AutoencoderConfig,
    size: Sequence[int],
    *,
    is_decoder: bool,
    dtype: torch.dtype = torch.float32,
    batch_size: int = 1,
    tile: int | None = None,
    recompute: bool = False,
) -> int:
    """Estimate the peak of encoding or decoding, in bytes above weights and input.

    Args:
        config: of the autoencoder.
        size: (X, Y, Z) of the volume to encode, or (x, y, z) of the latents to decode.
        is_decoder: whether it decodes.
        dtype: of the maps, that in which the network computes.
        batch_size: number of volumes.
        tile: planes of a tile of `stream_decode` or `stream_encode_moments`; None for running whole.
        recompute: as given to them.

    Examples:
        >>> from medldm import VAEConfig
        >>> config = VAEConfig(down_channels=[32, 64, 128], mid_attention=False)
        >>> estimate_bytes(config, (64, 64, 64), is_decoder=True, tile=4) < 6e9
        True
    """
    factors = config.downsampling or ()
    volume_size = [n * factor for n, factor in zip(size, factors, strict=True)] if is_decoder else size
    networks, halves = config.of_networks(), config.halves
    size_of_networks = [-(-n // half) for n, half in zip(volume_size, halves, strict=True)]
    levels = _levels(networks, size_of_networks, is_decoder=is_decoder)
    values = _count_values(networks, levels, tile=tile, recompute=recompute)
    if config.linear_path and tile is None:
        # The volume with its voxels as channels, for the networks and for the path, and their sum.
        values += 3 * config.in_channels * math.prod(volume_size)
    if is_decoder and isinstance(config, VQVAEConfig):
        values = max(values, min(math.prod(size) * config.n_codes, MAX_DISTANCES))
    values += (config.out_channels if is_decoder else config.in_channels) * math.prod(volume_size)
    return round(batch_size * values * dtype.itemsize + OVERHEAD)


def _levels(config: AutoencoderConfig, size: Sequence[int], *, is_decoder: bool) -> list[_Level]:
    """The levels in the order in which they run; `size` is that of the volume."""
    n_levels = len(config.down_channels)
    channels = (config.up_channels or ()) if is_decoder else config.down_channels
    order = range(n_levels)[::-1] if is_decoder else range(n_levels)
    if isinstance(config, VQVAEConfig) and config.is_strided:
        strides = [math.prod(row[0] for row in config.down_rows[: level + 1]) for level in range(n_levels)]
        sizes = [tuple(-(-n // stride) for n in size) for stride in strides]
    else:
        sizes = _sizes_of_levels(config, size)
    mid = config.decoder_mid_attention if is_decoder else config.mid_attention
    return [
        _Level(
            n_in=n_in,
            n_out=n_out,
            size=sizes[level],
            growth=1 if config.is_strided else math.prod((*config.strides, (1,))[level]),
            n_blocks=config.blocks_of_level(level),
            has_attention=bool(config.has_attention(level) or (mid and level == n_levels - 1)),
        )
        for level, n_in, n_out in zip(order, (channels[0], *channels), channels, strict=False)
    ]


def _sizes_of_levels(config: AutoencoderConfig, size: Sequence[int]) -> list[tuple[int, ...]]:
    """The sizes of the residual levels' maps, finest first."""
    sizes = [tuple(size)]
    for strides in config.strides:
        sizes.append(tuple(-(-n // stride) for n, stride in zip(sizes[-1], strides, strict=True)))
    return sizes


def _count_values(
    config: AutoencoderConfig, levels: list[_Level], *, tile: int | None, recompute: bool
) -> float:
    """Count the values of all maps that exist at once, at the level that has most."""
    if config.is_strided:
        if tile is None:
            return ALLOWANCE * max(4 * level.n_out * level.voxels for level in levels)
        # Nothing is stored: each convolution waits with a tile and its halo.
        return ALLOWANCE * sum(
            (2 * level.n_blocks + 1) * (tile + 3) * level.n_out * level.plane for level in levels
        )
    finest = max(levels, key=lambda level: level.voxels)
    return ALLOWANCE * max(
        _count_residual(level, tile=tile, recompute=recompute, is_finest=level is finest) for level in levels
    )


def _count_residual(level: _Level, *, tile: int | None, recompute: bool, is_finest: bool) -> float:
    """Count the values of a level's maps: input, inner maps and output of its first block, and tiles."""
    n_in, n_out = level.n_in, level.n_out
    attention = 8 * n_out * level.voxels if level.has_attention else 0
    if tile is None:
        # The level's input, and of one block the input, the inner map, its normalised form and the output.
        return max(attention, (n_in + 4 * n_out) * level.voxels)
    # A narrowing block follows an upsampling. At the finest level its input is computed from a map of fewer
    # voxels, at others it is stored.
    before = n_in / level.growth if n_out < n_in else n_in
    recompute = recompute and is_finest
    if n_out < n_in and not is_finest:
        kept = n_in + max(before, n_out)
    elif recompute:
        kept = n_in if n_in == n_out else before + n_out
    else:
        kept = before + n_out * (2 if n_out < n_in else 1)
    passing = (4 if recompute else 2) * min(tile + 2, max(level.size)) * max(n_in, n_out) * level.plane
    if level.growth not in (1, 2 ** len(level.size)):
        # Where not all axes are halved, thin tiles take more copies in their convolutions (up to 2.5 times).
        passing *= 3
    return max(attention, kept * level.voxels + passing)


def choose_plan(
    config: AutoencoderConfig, size: Sequence[int], *, max_memory_gb: float, **what: Any
) -> MemoryPlan:
    """Choose the fastest way to encode or decode whose estimate is within a budget; the leanest if none is.

    Args:
        config: of the autoencoder.
        size: of the latents to decode or the volume to encode.
        max_memory_gb: budget in 10^9 bytes, above weights and input.
        what: is_decoder, dtype and batch_size of `estimate_bytes`.

    Raises:
        ConfigError: if the budget is not positive.
    """
    if not max_memory_gb > 0:
        raise ConfigError(
            f"max_memory_gb is {max_memory_gb}: give a positive number of 10^9 bytes, such as 8"
        )
    plans = []
    for tile, recompute in PLANS:
        n_bytes = estimate_bytes(config, size, tile=tile, recompute=recompute, **what)
        plans.append(MemoryPlan(n_bytes=n_bytes, tile=tile, recompute=recompute))
        if n_bytes <= max_memory_gb * 1e9:
            return plans[-1]
    leanest = min(plans, key=lambda plan: plan.n_bytes)
    logger.warning(
        "size %s does not fit max_memory_gb = %g: running the leanest way, which takes about %.1f GB",
        tuple(size),
        max_memory_gb,
        leanest.n_bytes / 1e9,
    )
    return leanest


def decode_within(
    autoencoder: Autoencoder, latents: Tensor, max_memory_gb: float | None, *, out: Tensor | None = None
) -> Tensor:
    """Decode whole where the estimate is within the budget, tile by tile where it is not.

    Args:
        autoencoder: a VAE or a VQVAE; when it streams, gradients are not followed.
        latents: (B, latent_channels, x, y, z).
        max_memory_gb: budget in 10^9 bytes, above weights and latents; None for no limit.
        out: (B, out_channels, X, Y, Z) to write to, on any device; None for a new tensor.

    Returns:
        (B, out_channels, X, Y, Z), equal to rounding however it was computed.
    """
    plan = _plan(autoencoder, latents, max_memory_gb, is_decoder=True)
    if plan is not None and plan.tile is not None:
        return stream_decode(autoencoder, latents, tile=plan.tile, recompute=plan.recompute, out=out)
    volume = autoencoder.decode(latents)
    return volume if out is None else out.copy_(volume)


def encode_moments_within(
    autoencoder: Autoencoder, volume: Tensor, max_memory_gb: float | None
) -> tuple[Tensor, Tensor]:
    """Encode whole where the estimate is within the budget, tile by tile where it is not.

    Args:
        volume: (B, in_channels, X, Y, Z) on any device; the others as of `decode_within`.

    Returns:
        Mean and standard deviation, (B, latent_channels, x, y, z) each, on the autoencoder's device.
    """
    plan = _plan(autoencoder, volume, max_memory_gb, is_decoder=False)
    if plan is not None and plan.tile is not None:
        return stream_encode_moments(autoencoder, volume, tile=plan.tile, recompute=plan.recompute)
    return autoencoder.encode_moments(volume.to(next(autoencoder.parameters()).device))


def _plan(
    autoencoder: Autoencoder, x: Tensor, max_memory_gb: float | None, *, is_decoder: bool
) -> MemoryPlan | None:
    if max_memory_gb is None:
        return None
    return choose_plan(
        autoencoder.config,
        x.shape[2:],
        max_memory_gb=max_memory_gb,
        is_decoder=is_decoder,
        dtype=compute_dtype(next(autoencoder.parameters())),
        batch_size=len(x),
    )
