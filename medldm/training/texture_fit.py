"""Fit a texture to pairs of real and decoded volumes; see `medldm.latent_diffusion.texture`.

Scale. s_r^2 at each place of the table is the mean square of r = x - y there, over the voxels that are not
flat in the real volume (3^3 equal voxels, as padding and clipped air have). Where most are flat, it is 0. The
scale s is s_r, but at most twice its median over the voxels that have one: what a decoder loses at the skin
and at bone in CT are edges, and noise of their strength looks like salt. In MR the bound is seldom reached.

Spectrum. The texture t = s (h * w) does not depend on y, so it adds the autocovariance

    C_t(d) = <s(u) s(u + d)> C_g(d),    C_g the autocovariance of h * w                              Eq. (1)

and C_g is that of the residual, brought to the scale s, over that of s. Its spectrum, of the window below, is
multiplied by

    (P_x - P_y) / P_r, between 0 and 2                                                               Eq. (2)

the power that decoded volumes lack over that of the residual: they are equal for a decoder of squared errors,
and differ where contrast is too low as well. Without the bound of s, volumes with texture then have the
spectrum of real ones. C_g is averaged over the signs of d along each axis; h is the zero-phase filter whose
transfer is the root of its spectrum.

Levels. How much stronger or weaker the residual of one case is: `medldm.training.texture_level_fit`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from medldm.errors import ConfigError
from medldm.latent_diffusion.texture import TABLE_SHAPE, Texture, look_up, place_in_table
from medldm.latent_diffusion.texture_levels import TextureLevels
from medldm.training.texture_level_fit import energies_of, fit_levels, stack

LAGS = 8
"""Largest lag of the autocovariance, in voxels: the spectrum is resolved to 1 / 18 of the sampling rate."""
REACH = 4
"""Largest offset of the filter."""
LIMIT = 2.0
"""Largest scale, in medians."""
_LARGEST_GAIN = 2.0
_FLAT = 1e-4
_PRIOR_VOXELS = 20.0

Pair = tuple[Tensor, Tensor]


def fit_texture(
    pairs: Sequence[Pair],
    *,
    reach: int = REACH,
    limit: float | None = LIMIT,
    fitted_on: Mapping[str, Any] | None = None,
    sampled: Sequence[Tensor] | None = None,
    has_levels: bool = True,
) -> Texture:
    """Fit a texture, so that decoded volumes with it have the power spectrum of real ones, but for edges.

    Args:
        pairs: real and decoded volumes (C, X, Y, Z) in [-1, 1]. The decoded ones may be reconstructions, or
            decodings of latents that went through noise and denoiser, so that what the denoiser loses is
            made up for too; held-out cases, for those that a decoder was trained on it knows too well.
        reach: largest offset of the filter, in voxels.
        limit: largest scale, in medians of the scale; None for no limit, so that noise makes up for lost
            edges, too.
        fitted_on: says on what, for the card.
        sampled: of each pair a volume as the sampler makes it, where the grain of a volume is told from it
            later; the decoded ones if None.
        has_levels: False draws texture of one strength in all volumes. So do fewer than 3 pairs.

    Raises:
        ConfigError: for no pairs, or volumes that do not fit each other.
    """
    _check_pairs(pairs)
    channels = range(len(pairs[0][0]))
    parts = [_fit_channel([(x[c], y[c]) for x, y in pairs], reach, limit) for c in channels]
    filters, scales, of_residual = (torch.stack(each) for each in zip(*parts, strict=True))
    fitted = Texture(filters, scales, {"n_volumes": len(pairs), **(fitted_on or {})})
    if has_levels:
        fitted.levels = _fit_levels(
            fitted, of_residual, pairs, [y for _, y in pairs] if sampled is None else sampled
        )
    return Texture.from_dict(fitted.to_dict())  # rounded as it is in a card


def _fit_channel(pairs: Sequence[Pair], reach: int, limit: float | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return of a channel the part of h at offsets that are not negative, and the tables s and s_r."""
    of_residual = _fit_scales(pairs)
    table = of_residual if limit is None else _bound_scales(of_residual, pairs, limit)
    missing, lost, noise, scale = torch.zeros(4, *(LAGS + 1,) * 3, dtype=torch.float64)
    for real, decoded in pairs:
        s, own = _bring_to_scale(real, decoded, table, of_residual)
        x, y = (each.double() - decoded.double().mean() for each in (real, decoded))
        missing += autocovariance(x) - autocovariance(y)
        lost += autocovariance(x - y)
        noise += autocovariance(own)
        scale += autocovariance(s)
    known = scale > 1e-3 * scale[0, 0, 0]
    covariance = torch.where(known, noise / torch.where(known, scale, 1.0), 0.0)
    of_noise, of_missing, of_lost = (_spectrum(each) for each in (covariance, missing, lost))
    gain = of_missing / of_lost.clamp(min=1e-9 * float(of_lost.max()) + 1e-30)
    return _filter_of(of_noise.clamp(min=0) * gain.clamp(0, _LARGEST_GAIN), reach), table, of_residual


def _bring_to_scale(
    real: Tensor, decoded: Tensor, table: Tensor, of_residual: Tensor
) -> tuple[Tensor, Tensor]:
    """Return s and the residual times s / s_r of a channel (X, Y, Z), float64."""
    place = place_in_table(decoded.float())
    s_r, s = (look_up(each, place).double() for each in (of_residual, table))
    x, y = real.double(), decoded.double()
    return s, (x - y) * torch.where(s_r > 0, s / s_r, 0.0)


def _fit_levels(
    texture: Texture, of_residual: Tensor, pairs: Sequence[Pair], sampled: Sequence[Tensor]
) -> TextureLevels | None:
    """Return how strong the residuals of the cases are; None for too few."""
    rows = []
    for real, decoded in pairs:
        channels = []
        for x, y, table, own in zip(real, decoded, texture.scales, of_residual, strict=True):
            s, residual = _bring_to_scale(x, y, table, own)
            counts = ~is_flat(x.float())
            channels.append(energies_of(residual.square() * counts, s.square() * counts))
        rows.append(channels)
    residual, predicted, errors = (
        stack([[channel[place] for channel in row] for row in rows]) for place in range(3)
    )
    detail = torch.stack([texture.measure_detail(y) for y in sampled])
    return fit_levels(residual, predicted, errors, detail)


def _bound_scales(table: Tensor, pairs: Sequence[Pair], limit: float) -> Tensor:
    """Bound the scales by `limit` times their median over the voxels that have one."""
    scales = torch.cat([look_up(table, place_in_table(y.float())).flatten() for _, y in pairs])
    drawn = scales[scales > 0]
    return table.clamp(max=limit * float(drawn.median())) if len(drawn) else table


def _fit_scales(pairs: Sequence[Pair]) -> Tensor:
    """Return s (10, 8); places without voxels get the mean of their spread."""
    n_places = TABLE_SHAPE[0] * TABLE_SHAPE[1]
    squares, counts, flats = torch.zeros(3, n_places, dtype=torch.float64)
    for real, decoded in pairs:
        place = place_in_table(decoded.float())
        number = (place.intensity.round() * TABLE_SHAPE[1] + place.spread.round()).long().flatten()
        flat = is_flat(real.float()).flatten().double()
        square = ((real - decoded).double().flatten() ** 2) * (1 - flat)
        for total, values in ((squares, square), (counts, torch.ones_like(flat)), (flats, flat)):
            total += torch.bincount(number, values, minlength=n_places)
    squares, counts, flats = (each.view(TABLE_SHAPE) for each in (squares, counts, flats))
    of_spread = squares.sum(0) / counts.sum(0).clamp(min=1)
    scales = ((squares + _PRIOR_VOXELS * of_spread) / (counts + _PRIOR_VOXELS)).sqrt()
    return torch.where(flats > 0.5 * counts, 0.0, scales)


def is_flat(x: Tensor) -> Tensor:
    """Return which voxels of (X, Y, Z) have 3^3 equal voxels around them, as bool."""
    padded = F.pad(x[None, None], (1,) * 6, mode="replicate")
    highest, lowest = F.max_pool3d(padded, 3, 1), -F.max_pool3d(-padded, 3, 1)
    return (highest - lowest)[0, 0] < _FLAT


def autocovariance(x: Tensor) -> Tensor:
    """Return sums of x(u) x(u + d) over u for lags 0 to `LAGS` of each axis, averaged over their signs.

    Args:
        x: (X, Y, Z) float64.

    Returns:
        (LAGS + 1, LAGS + 1, LAGS + 1); 0 for lags longer than the volume.
    """
    size = [n + LAGS for n in x.shape]
    power = torch.fft.rfftn(x, s=size).abs() ** 2
    sums = torch.fft.irfftn(power, s=size)
    for axis in range(3):
        lags = torch.arange(LAGS + 1)
        sums = (sums.index_select(axis, lags) + sums.index_select(axis, -lags % size[axis])) / 2
    return sums


def _spectrum(covariance: Tensor) -> Tensor:
    """Return the spectrum of a windowed autocovariance at lags 0 to `LAGS`, on a grid of twice as many."""
    lags = torch.arange(LAGS + 1)
    window = torch.cos(torch.pi / 2 * lags / (LAGS + 1)) ** 2
    covariance = covariance * window[:, None, None] * window[:, None] * window
    for axis in range(3):
        # Lags 0 to L, none at L + 1, and -L to -1.
        back = covariance.index_select(axis, lags[1:].flip(0))
        covariance = torch.cat([covariance, torch.zeros_like(back.narrow(axis, 0, 1)), back], dim=axis)
    return torch.fft.fftn(covariance).real


def _filter_of(spectrum: Tensor, reach: int) -> Tensor:
    """Return sqrt(S) as a filter at offsets 0 to `reach`, with all of the power."""
    whole = torch.fft.ifftn(spectrum.sqrt()).real
    part = whole[: reach + 1, : reach + 1, : reach + 1]
    offsets = torch.arange(-reach, reach + 1).abs()
    kept = part[offsets][:, offsets][:, :, offsets].square().sum()
    return part * (spectrum.mean() / kept.clamp(min=1e-30)).sqrt()


def _check_pairs(pairs: Sequence[Pair]) -> None:
    if not pairs:
        raise ConfigError(
            "a texture is fitted on no volumes: give at least one real one with its decoded one"
        )
    n_channels = {len(x) for x, _ in pairs}
    for x, y in pairs:
        if x.ndim != 4 or x.shape != y.shape or len(n_channels) != 1:
            raise ConfigError(
                f"a real volume of shape {tuple(x.shape)} and its decoded one of {tuple(y.shape)} are given: "
                "both must be (C, X, Y, Z), of the same channels in all pairs"
            )
