"""Exact encoding and decoding of volumes beyond memory, tile by tile.

Every layer runs over tiles along the volume's longest axis with the halo its convolution needs, so that the
result is that of the whole volume. Group normalisation needs the moments of a whole map, which are gathered
while the map's tiles are computed. A residual block therefore stores two maps, its input and the output of
its first convolution, or one when `recompute` trades a second run of that convolution for memory. The
upsampled map of the finest level is not stored where the block after it has fewer channels, but computed for
each reading.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medldm.networks.autoencoder import Autoencoder
from medldm.networks.blocks import (
    Downsample,
    Upsample,
    pad_to_multiple,
)
from medldm.networks.config_checks import check_positive, check_shape
from medldm.networks.encoder_decoder import Level
from medldm.networks.kernels.dispatch import transposed_kernel
from medldm.networks.kernels.tiled_maps import (
    TiledMap,
    convolved,
    convolved_transposed,
    from_tensor,
    held,
    stored,
)
from medldm.networks.kernels.tiled_residual import add_to_branch, as_stored, run_residual
from medldm.networks.strided_encoder_decoder import ResidualUnit, StridedDecoder, StridedEncoder


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
    config = autoencoder.config
    check_positive("stream_decode", tile=tile)
    check_shape(
        "stream_decode: latents have",
        latents,
        channels=config.latent_channels,
        spatial_dims=config.spatial_dims,
    )
    cut = _cut(autoencoder.decoder_input(latents), tile)
    return stored(_run_decoder(autoencoder.decoder, cut, recompute=recompute), into=out).tensor


@torch.no_grad()
def stream_encode_moments(
    autoencoder: Autoencoder, volume: Tensor, *, tile: int, recompute: bool = False
) -> tuple[Tensor, Tensor]:
    """Encode a volume as `autoencoder.encode_moments` does, to rounding, in less memory.

    Args:
        autoencoder: a VAE or a VQVAE; gradients are not followed.
        volume: (B, in_channels, X, Y, Z) on any device; its tiles are moved to the autoencoder's.
        tile: planes of a tile; fewer take less memory and more time.
        recompute: at the finest level store one map in place of two, and run convolutions once more.

    Returns:
        Mean and standard deviation, (B, latent_channels, x, y, z) each.

    Raises:
        ValueError: if a shape does not fit the autoencoder.
    """
    config = autoencoder.config
    check_positive("stream_encode_moments", tile=tile)
    check_shape(
        "stream_encode_moments: volume has",
        volume,
        channels=config.in_channels,
        spatial_dims=config.spatial_dims,
    )
    device = next(autoencoder.parameters()).device
    cut = _cut(pad_to_multiple(volume, autoencoder.downsampling), tile, device=device)
    h = stored(_run_encoder(autoencoder.encoder, cut, recompute=recompute)).tensor
    return autoencoder.moments_of(h)


def _cut(x: Tensor, tile: int, *, device: torch.device | None = None) -> TiledMap:
    sizes = x.shape[2:]
    return from_tensor(x, axis=2 + sizes.index(max(sizes)), thickness=tile, device=device)


def _run_decoder(decoder: Any, h: TiledMap, *, recompute: bool) -> TiledMap:
    if isinstance(decoder, StridedDecoder):
        return _run_strided(decoder.levels, convolved(h, decoder.conv_in))
    h = convolved(h, decoder.conv_in)
    levels = [decoder.middle, *decoder.levels]
    for level in levels:
        h = _run_level(h, level, recompute=recompute and level is levels[-1])
        # An upsampled map of the finest level is computed for each reading.
        h = h if level in levels[-2:] else as_stored(h)
    return _run_output(h, decoder)


def _run_encoder(encoder: Any, h: TiledMap, *, recompute: bool) -> TiledMap:
    if isinstance(encoder, StridedEncoder):
        return convolved(_run_strided(encoder.levels, h), encoder.conv_out)
    h = convolved(h, encoder.conv_in)
    levels = [*encoder.levels, encoder.middle]
    for level in levels:
        h = _run_level(h, level, recompute=recompute and level is levels[0])
    return _run_output(h, encoder)


def _run_output(h: TiledMap, trunk: Any) -> TiledMap:
    whole = as_stored(h)
    return convolved(whole.map(whole.moments.normaliser(trunk.norm_out, silu=False)), trunk.conv_out)


def _run_level(h: TiledMap, level: nn.Module, *, recompute: bool) -> TiledMap:
    """Run a level's layers and its resampling; attention sees its map whole."""
    if not isinstance(level, Level):
        return h
    layers: Iterable[Any] = level.layers
    for layer in layers:
        h = y = run_residual(h, layer.residual, recompute=recompute)
        if layer.attention is not None:
            h = held(layer.attention(y.tensor), axis=h.axis, thickness=h.thickness)
    return h if level.resample is None else _resampled(h, level.resample)


def _resampled(x: TiledMap, resample: Any) -> TiledMap:
    if isinstance(resample, Downsample):
        return convolved(x, resample.conv, end_padding=resample.end_padding is not None)
    if isinstance(resample, Upsample):
        weight, bias = resample.conv.weight, resample.conv.bias
        if weight.ndim == 5:
            kernel = transposed_kernel(weight)
        else:
            # A kernel that is 1 at its middle repeats the third axis and mixes nothing.
            kernel = transposed_kernel(F.pad(weight[..., None], (1, 1)))[..., 1]
        return convolved_transposed(x, kernel, bias, stride=2, padding=1)
    return _run_sequential(x, [resample.conv])


def _run_strided(levels: Iterable[Any], h: TiledMap) -> TiledMap:
    """Nothing in this trunk needs a whole map, so that nothing is stored."""
    for level in levels:
        h = _run_sequential(h, level)
    return h


def _run_sequential(h: TiledMap, layers: Iterable[nn.Module]) -> TiledMap:
    for layer in layers:
        if isinstance(layer, ResidualUnit):
            body = [layer.conv1, layer.activation, layer.conv2]
            h = add_to_branch(h, partial(_run_sequential, layers=body), nn.Identity()).map(F.relu)
        elif isinstance(layer, nn.ConvTranspose2d | nn.ConvTranspose3d):
            h = convolved_transposed(
                h,
                layer.weight,
                layer.bias,
                stride=layer.stride[0],
                padding=int(layer.padding[0]),
                output_padding=layer.output_padding[0],
                dilation=layer.dilation[0],
            )
        elif isinstance(layer, nn.Conv2d | nn.Conv3d):
            h = convolved(h, layer)
        else:
            h = h.map(layer)
    return h
