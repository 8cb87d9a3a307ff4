"""Exact encoding and decoding of volumes beyond memory, tile by tile.

Every layer runs over tiles along the volume's longest axis with the halo its convolution needs, so that the
result is that of the whole volume. Group normalisation needs the moments of a whole map, which are gathered
while the map's tiles are computed. A residual block therefore stores two maps, its input and the output of
its first convolution, or one when `recompute` trades a second run of that convolution for memory. The
upsampled map of the finest level is not stored where the block after it has fewer channels, but computed for
each reading. A layer that has hooks or is wrapped is computed whole.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medldm.networks.autoencoder import Autoencoder
from medldm.networks.blocks import Downsample, LinearUpsample, Upsample, interpolate_linearly, pad_to_multiple
from medldm.networks.config_checks import check_positive
from medldm.networks.kernels.convolution import transposed_kernel
from medldm.networks.kernels.dispatch import may_fuse
from medldm.networks.kernels.residual import add_to_branch, run_residual
from medldm.networks.kernels.tiled_convolution import convolved, convolved_transposed, interpolated
from medldm.networks.kernels.tiled_maps import TiledMap, as_stored, from_stored, from_tensor, stored
from medldm.networks.linear_path import LinearPath
from medldm.networks.strided_encoder_decoder import ResidualUnit, StridedDecoder, StridedEncoder
from medldm.networks.vqvae_config import ACTIVATIONS

logger = logging.getLogger(__name__)


@torch.no_grad()
def stream_decode(
    autoencoder: Autoencoder,
    latents: Tensor,
    *,
    tile: int,
    recompute: bool = False,
    out: Tensor | None = None,
) -> Tensor:
    """Decode latents as `autoencoder.decode` does, to rounding, in less memory.

    Args:
        autoencoder: a VAE or a VQVAE; gradients are not followed.
        latents: (B, latent_channels, x, y, z).
        tile: planes of a tile; fewer take less memory and more time.
        recompute: at the finest level store one map in place of two, and run convolutions once more.
        out: (B, out_channels, X, Y, Z) to write to, on any device; None for a new tensor.

    Returns:
        (B, out_channels, X, Y, Z).

    Raises:
        ValueError: if a shape does not fit the autoencoder.
    """
    check_positive("stream_decode", tile=tile)
    autoencoder.check_latents(latents)
    x = autoencoder.decoder_input(latents)
    h = _run_decoder(autoencoder.decoder, _cut(x, tile), recompute=recompute)
    if autoencoder.linear_path is None:
        return stored(h.map(autoencoder.from_network_range), into=out).tensor
    volume = stored(_to_full_size(h, autoencoder.linear_path), into=out).tensor
    return _add_linear(volume, autoencoder.linear_path, x, axis=h.axis, tile=tile)


@torch.no_grad()
def stream_encode_moments(
    autoencoder: Autoencoder, volume: Tensor, *, tile: int, recompute: bool = False
) -> tuple[Tensor, Tensor]:
    """Encode a volume as `autoencoder.encode_moments` does, to rounding, in less memory.

    Args:
        volume: (B, in_channels, X, Y, Z) on any device; its tiles are moved to the autoencoder's. The others
            as of `stream_decode`.

    Returns:
        Mean and standard deviation, (B, latent_channels, x, y, z) each.

    Raises:
        ValueError: if a shape does not fit the autoencoder.
    """
    check_positive("stream_encode_moments", tile=tile)
    autoencoder.check_volume(volume)
    device = next(autoencoder.parameters()).device
    volume = pad_to_multiple(volume, autoencoder.downsampling)
    path = autoencoder.linear_path
    if path is None:
        cut = _cut(volume, tile, device=device).map(autoencoder.to_network_range)
    else:
        cut = _half_size(volume, path, tile, device=device)
    h = stored(_run_encoder(autoencoder.encoder, cut, recompute=recompute)).tensor
    if path is not None:
        h = torch.cat([_linear_latents(volume, path, axis=cut.axis, tile=tile, device=device), h], dim=1)
    return autoencoder.moments_of(h)


def _half_size(volume: Tensor, path: LinearPath, tile: int, *, device: torch.device) -> TiledMap:
    """Cut a volume into tiles of the map that the encoder beside a linear path is given."""
    sizes = [size // half for size, half in zip(volume.shape[2:], path.halves, strict=True)]
    axis = 2 + sizes.index(max(sizes))
    cut = from_tensor(volume, axis=axis, thickness=tile * path.halves[axis - 2], device=device)
    tiles = cut.map(path.to_half_size)
    return TiledMap(read=tiles.read, length=sizes[axis - 2], axis=axis, thickness=tile)


def _to_full_size(h: TiledMap, path: LinearPath) -> TiledMap:
    half = path.halves[h.axis - 2]
    tiles = h.map(path.to_full_size)
    return TiledMap(read=tiles.read, length=h.length * half, axis=h.axis, thickness=h.thickness * half)


def _linear_latents(
    volume: Tensor, path: LinearPath, *, axis: int, tile: int, device: torch.device
) -> Tensor:
    """Return what the linear path makes of a volume, tile by tile, each with the halo that it depends on."""
    factor, parts = path.factors[axis - 2], []
    for tiled in _tiles(volume.shape[axis] // factor, tile, halo=path.halo(axis)):
        part = volume.narrow(axis, tiled.first * factor, tiled.length * factor)
        parts.append(path.encode(part.to(device)).narrow(axis, tiled.inner, tiled.n))
    return torch.cat(parts, dim=axis)


def _add_linear(volume: Tensor, path: LinearPath, latents: Tensor, *, axis: int, tile: int) -> Tensor:
    """Add to a volume, tile by tile, what the linear path makes of latents."""
    factor = path.factors[axis - 2]
    for tiled in _tiles(latents.shape[axis], tile, halo=path.halo(axis)):
        linear = path.decode(latents.narrow(axis, tiled.first, tiled.length))
        linear = linear.narrow(axis, tiled.inner * factor, tiled.n * factor)
        volume.narrow(axis, tiled.start * factor, tiled.n * factor).add_(linear.to(volume))
    return volume


class _Tile(NamedTuple):
    """`n` planes from `start`, and what is read for them: `length` planes from `first`, `inner` before."""

    start: int
    n: int
    first: int
    length: int
    inner: int


def _tiles(size: int, tile: int, *, halo: int) -> Iterator[_Tile]:
    for start in range(0, size, tile):
        end, first = min(start + tile, size), max(start - halo, 0)
        yield _Tile(start, end - start, first, min(end + halo, size) - first, start - first)


def _cut(x: Tensor, tile: int, *, device: torch.device | None = None) -> TiledMap:
    sizes = x.shape[2:]
    return from_tensor(x, axis=2 + sizes.index(max(sizes)), thickness=tile, device=device)


def _may_tile(layer: nn.Module) -> bool:
    """Whether a layer may be computed tile by tile: no part of it has hooks or is wrapped."""
    return may_fuse(*layer.modules(), also=(nn.Sequential, nn.Identity, *ACTIVATIONS.values()))


def _run_whole(layer: nn.Module, h: TiledMap) -> TiledMap:
    """Compute a layer as a call of the network does, of a map that exists whole."""
    logger.warning(
        "%s has hooks or is wrapped: it is computed whole, in more memory than planned", type(layer).__name__
    )
    return from_stored(layer(as_stored(h).tensor), axis=h.axis, thickness=h.thickness)


def _run_decoder(decoder: Any, h: TiledMap, *, recompute: bool) -> TiledMap:
    if not may_fuse(decoder):
        return _run_whole(decoder, h)
    h = _convolved(h, decoder.conv_in)
    if isinstance(decoder, StridedDecoder):
        return _run_sequential(h, decoder.levels)
    levels = [decoder.middle, *decoder.levels]
    for level in levels:
        h = _run_level(h, level, recompute=recompute and level is levels[-1])
        # An upsampled map of the finest level is computed for each reading.
        h = h if level in levels[-2:] else as_stored(h)
    return _run_output(h, decoder)


def _run_encoder(encoder: Any, h: TiledMap, *, recompute: bool) -> TiledMap:
    if not may_fuse(encoder):
        return _run_whole(encoder, h)
    if isinstance(encoder, StridedEncoder):
        return _convolved(_run_sequential(h, encoder.levels), encoder.conv_out)
    h = _convolved(h, encoder.conv_in)
    levels = [*encoder.levels, encoder.middle]
    for level in levels:
        h = _run_level(h, level, recompute=recompute and level is levels[0])
    return _run_output(h, encoder)


def _run_output(h: TiledMap, network: Any) -> TiledMap:
    if not may_fuse(network.norm_out):
        return _convolved(_run_whole(network.norm_out, h), network.conv_out)
    whole = as_stored(h)
    return _convolved(whole.map(whole.moments.normaliser(network.norm_out, silu=False)), network.conv_out)


def _run_level(h: TiledMap, level: Any, *, recompute: bool) -> TiledMap:
    """Run a level's layers and its resampling; attention sees its map whole."""
    for layer in level.layers:
        if not (may_fuse(layer) and _may_tile(layer.residual)):
            h = _run_whole(layer, h)
            continue
        h = y = run_residual(h, layer.residual, recompute=recompute)
        if layer.attention is not None:
            h = from_stored(layer.attention(y.tensor), axis=h.axis, thickness=h.thickness)
    return h if level.resample is None else _resampled(h, level.resample)


def _convolved(h: TiledMap, layer: Any) -> TiledMap:
    return convolved(h, layer) if may_fuse(layer) else _run_whole(layer, h)


def _resampled(x: TiledMap, resample: Any) -> TiledMap:
    if not _may_tile(resample):
        return _run_whole(resample, x)
    if isinstance(resample, Downsample):
        return convolved(x, resample.conv, end_padding=resample.end_padding)
    if isinstance(resample, Upsample):
        kernel = transposed_kernel(resample.conv.weight, resample.strides)
        return convolved_transposed(x, kernel, resample.conv.bias, stride=resample.strides, padding=1)
    if isinstance(resample, LinearUpsample):
        return convolved(interpolated(x, interpolate_linearly, resample.strides), resample.conv)
    return _run_sequential(x, [resample.conv])


def _run_sequential(h: TiledMap, layers: Iterable[nn.Module]) -> TiledMap:
    """Run layers of which none needs a whole map, so that nothing is stored."""
    for layer in layers:
        if isinstance(layer, nn.Sequential) and may_fuse(layer, also=(nn.Sequential,)):
            h = _run_sequential(h, layer)
        elif not _may_tile(layer):
            h = _run_whole(layer, h)
        elif isinstance(layer, ResidualUnit):
            body = [layer.conv1, layer.activation, layer.conv2]
            h = add_to_branch(h, partial(_run_sequential, layers=body), nn.Identity()).map(F.relu)
        elif isinstance(layer, nn.ConvTranspose2d | nn.ConvTranspose3d):
            h = convolved_transposed(
                h,
                layer.weight,
                layer.bias,
                stride=layer.stride,
                padding=int(layer.padding[0]),
                output_padding=layer.output_padding[0],
                dilation=layer.dilation[0],
            )
        elif isinstance(layer, nn.Conv2d | nn.Conv3d):
            h = convolved(h, layer)
        else:
            h = h.map(layer)
    return h
