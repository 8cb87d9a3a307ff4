"""Exact encoding and decoding of volumes beyond memory, slab by slab.

Every layer runs over slabs along the volume's longest axis with the halo its convolution needs, so that the
result is that of the whole volume. Group normalisation needs the moments of a whole map, which are gathered
while the map's slabs are computed. A residual block therefore stores two maps, its input and the output of
its first convolution, or one when `recompute` trades a second run of that convolution for memory. An
upsampled map is not stored where the block after it has fewer channels, but computed for each reading.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medldm.networks.blocks import (
    Downsample,
    NormActivation,
    Upsample,
    pad_to_multiple,
)
from medldm.networks.levers import transposed_kernel
from medldm.networks.network_checks import check_positive, check_shape
from medldm.networks.posterior import DiagonalGaussian
from medldm.networks.slabs import (
    Moments,
    SlabMap,
    StoredMap,
    convolved,
    convolved_transposed,
    from_tensor,
    measure,
    stored,
)
from medldm.networks.strided_trunk import ResidualUnit, StridedDecoder, StridedEncoder
from medldm.networks.trunk import Level
from medldm.networks.vae import VAE
from medldm.networks.vqvae import VQVAE


@torch.no_grad()
def stream_decode(
    autoencoder: VAE | VQVAE,
    latents: Tensor,
    *,
    slab: int,
    recompute: bool = False,
    out: Tensor | None = None,
) -> Tensor:
    """Decode latents as `autoencoder.decode` does, to rounding, in less memory.

    Args:
        autoencoder: a VAE or a VQVAE; gradients are not followed.
        latents: (B, latent_channels, x, y, z).
        slab: planes of a slab; fewer take less memory and more time.
        recompute: at the finest level store one map in place of two, and run convolutions once more.
        out: (B, out_channels, X, Y, Z) to write to, on any device; None for a new tensor.

    Returns:
        (B, out_channels, X, Y, Z).

    Raises:
        ValueError: if a shape does not fit the autoencoder.
    """
    config = autoencoder.config
    check_positive("stream_decode", slab=slab)
    check_shape(
        "stream_decode: latents have",
        latents,
        channels=config.latent_channels,
        spatial_dims=config.spatial_dims,
    )
    if isinstance(autoencoder, VAE):
        latents = autoencoder.from_latents(latents)
    else:
        latents = autoencoder.quantise(latents).latents
    return stored(
        _run_decoder(autoencoder.decoder, _cut(latents, slab), recompute=recompute), into=out
    ).tensor


@torch.no_grad()
def stream_encode_moments(
    autoencoder: VAE | VQVAE, volume: Tensor, *, slab: int, recompute: bool = False
) -> tuple[Tensor, Tensor]:
    """Encode a volume as `autoencoder.encode_moments` does, to rounding, in less memory.

    Args:
        autoencoder: a VAE or a VQVAE; gradients are not followed.
        volume: (B, in_channels, X, Y, Z) on any device; its slabs are moved to the autoencoder's.
        slab: planes of a slab; fewer take less memory and more time.
        recompute: at the finest level store one map in place of two, and run convolutions once more.

    Returns:
        Mean and standard deviation, (B, latent_channels, x, y, z) each.

    Raises:
        ValueError: if a shape does not fit the autoencoder.
    """
    config = autoencoder.config
    check_positive("stream_encode_moments", slab=slab)
    check_shape(
        "stream_encode_moments: volume has",
        volume,
        channels=config.in_channels,
        spatial_dims=config.spatial_dims,
    )
    device = next(autoencoder.parameters()).device
    cut = _cut(pad_to_multiple(volume, autoencoder.downsampling), slab, device=device)
    h = stored(_run_encoder(autoencoder.encoder, cut, recompute=recompute)).tensor
    if isinstance(autoencoder, VQVAE):
        return h, torch.zeros_like(h)
    posterior = DiagonalGaussian(*autoencoder.to_moments(h).chunk(2, dim=1))
    return posterior.mean, posterior.std


def _cut(x: Tensor, slab: int, *, device: torch.device | None = None) -> SlabMap:
    sizes = x.shape[2:]
    return from_tensor(x, axis=2 + sizes.index(max(sizes)), thickness=slab, device=device)


def _run_decoder(decoder: Any, h: SlabMap, *, recompute: bool) -> SlabMap:
    if isinstance(decoder, StridedDecoder):
        return _run_strided(decoder.levels, convolved(h, decoder.conv_in))
    h = convolved(h, decoder.conv_in)
    levels = [decoder.middle, *decoder.levels]
    for level in levels:
        h = _run_level(h, level, recompute=recompute and level is levels[-1])
    return _run_output(h, decoder)


def _run_encoder(encoder: Any, h: SlabMap, *, recompute: bool) -> SlabMap:
    if isinstance(encoder, StridedEncoder):
        return convolved(_run_strided(encoder.levels, h), encoder.conv_out)
    h = convolved(h, encoder.conv_in)
    levels = [*encoder.levels, encoder.middle]
    for level in levels:
        h = _run_level(h, level, recompute=recompute and level is levels[0])
    return _run_output(h, encoder)


def _run_output(h: SlabMap, trunk: Any) -> SlabMap:
    h = _as_stored(h)
    return convolved(_normalised(h, trunk.norm_out, h.moments), trunk.conv_out)


def _run_level(h: SlabMap, level: nn.Module, *, recompute: bool) -> SlabMap:
    """Run a level's layers and its resampling; attention sees its map whole."""
    if not isinstance(level, Level):
        return h
    layers: Iterable[Any] = level.layers
    for layer in layers:
        h = y = _run_residual(h, layer.residual, recompute=recompute)
        if layer.attention is not None:
            whole = layer.attention(y.tensor)
            h = stored(from_tensor(whole, axis=h.axis, thickness=h.thickness), into=whole)
    return h if level.resample is None else _resampled(h, level.resample)


def _run_residual(x: SlabMap, block: Any, *, recompute: bool) -> StoredMap:
    """y = shortcut(x) + conv2(silu(norm2(h))), h = conv1(silu(norm1(x))).

    Three readings of x: for its moments, for h and for the shortcut. The first one stores x, or shortcut(x)
    where that is narrower. The second one stores h, and y takes its place; with `recompute` it gathers only
    the moments of h, the third one computes h again and y takes the place of x.
    """
    is_narrowing = block.conv1.out_channels < block.conv1.in_channels

    def first_half(x: SlabMap) -> SlabMap:
        return convolved(_normalised(x, block.norm1, of_x), block.conv1)

    def second_half(h: SlabMap, of_h: Moments) -> SlabMap:
        return convolved(_normalised(h, block.norm2, of_h), block.conv2)

    place = None
    if not is_narrowing:
        x = _as_stored(x)
        of_x, shortcut = x.moments, x.map(block.shortcut)
        place = x.tensor if isinstance(block.shortcut, nn.Identity) else None
    elif recompute:
        of_x = measure(x)
    else:
        of_x = Moments()
        shortcut = stored(x.map(of_x.see).map(block.shortcut))
    if recompute:
        of_h = measure(first_half(x))
        y = _add_to_branch(x, lambda x: second_half(first_half(x), of_h), block.shortcut)
        return stored(y, into=place)
    h = stored(first_half(x))
    branch = second_half(h, h.moments)
    return stored(branch.then(lambda: map(Tensor.add_, branch.read(), shortcut.read())), into=h.tensor)


def _as_stored(x: SlabMap) -> StoredMap:
    return x if isinstance(x, StoredMap) else stored(x)


def _normalised(x: SlabMap, norm: nn.GroupNorm, moments: Moments) -> SlabMap:
    """Normalise a map by the moments of the whole, and activate where the layer does."""
    return x.map(moments.normaliser(norm, silu=isinstance(norm, NormActivation)))


def _add_to_branch(
    x: SlabMap, branch: Callable[[SlabMap], SlabMap], shortcut: Callable[[Tensor], Tensor]
) -> SlabMap:
    """branch(x) + shortcut(x), of which x is read once; its slabs wait for the branch, which lags behind."""

    def read() -> Iterator[Tensor]:
        waiting: deque[Tensor] = deque()

        def keep(slab: Tensor) -> Tensor:
            waiting.append(slab)
            return slab

        return map(lambda y: y.add_(shortcut(waiting.popleft())), branch(x.map(keep)).read())

    return x.then(read)


def _resampled(x: SlabMap, resample: Any) -> SlabMap:
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


def _run_strided(levels: Iterable[Any], h: SlabMap) -> SlabMap:
    """Nothing in this trunk needs a whole map, so that nothing is stored."""
    for level in levels:
        h = _run_sequential(h, level)
    return h


def _run_sequential(h: SlabMap, layers: Iterable[nn.Module]) -> SlabMap:
    for layer in layers:
        if isinstance(layer, ResidualUnit):
            body = [layer.conv1, layer.activation, layer.conv2]
            h = _add_to_branch(h, partial(_run_sequential, layers=body), nn.Identity()).map(F.relu)
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
