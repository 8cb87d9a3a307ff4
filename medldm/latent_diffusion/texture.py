"""Texture: the noise and fine grain that a decoder leaves out, drawn as what it is, a random field.

A decoder that was trained on absolute or squared errors gives what its latents say, and nothing of what they
cannot say: acquisition noise and fine grain. Of these only the statistics are known, and from them a field
can be drawn:

    textured = clip(y + e^(1/2) s(y) (h * w), -1, 1)

with the decoded volume y, white Gaussian noise w that follows from the volume's seed, a small filter h of
each channel, which holds the spectrum, and the scale s at each voxel, a table over what the decoder knows
there: the intensity, and the spread of the 3^3 voxels around. e is how strong the volume's texture is, for
scans of one cohort differ in noise, see `medldm.latent_diffusion.texture_levels`. **The field is noise, not
anatomy**: nothing in it was measured in a patient or follows from a condition.
`medldm.training.texture_fit` fits it.

Source: Galerne, Gousseau and Morel 2011, "Random Phase Textures: Theory and Synthesis", for textures that
are given by their spectrum alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from medldm.errors import ConfigError
from medldm.latent_diffusion.checkpoints import hash_weights
from medldm.latent_diffusion.texture_levels import DetailSum, TextureLevels

INTENSITY_NODES = torch.linspace(-1, 1, 10)
SPREAD_NODES = torch.tensor([0.003, 0.006, 0.012, 0.025, 0.05, 0.1, 0.2, 0.4])
"""Of the standard deviation of 3^3 voxels in network intensities; between nodes the table is interpolated,
over the logarithm of this one."""
TABLE_SHAPE = (len(INTENSITY_NODES), len(SPREAD_NODES))

_SLAB_VOXELS = 2**22
_DIGITS = 6


class TablePlace(NamedTuple):
    """Where voxels lie in the table of scales.

    Attributes:
        intensity: place among `INTENSITY_NODES`, 0 to 9, between nodes too.
        spread: place among `SPREAD_NODES`, 0 to 7.
    """

    intensity: Tensor
    spread: Tensor


class Texture:
    """Draw the texture of decoded volumes.

    Args:
        filters: (C, n, n, n): of each channel, the part of h at offsets 0, 1, ... n - 1 along each axis;
            h is the same at negative offsets.
        scales: (C, 10, 8), s at `INTENSITY_NODES` and `SPREAD_NODES`; 0 where volumes are constant.
        fitted_on: says on what it was fitted, for people; plain values.
        levels: how strong the texture of each volume is; None for the same strength in all, as models have
            that were trained before there were levels.

    Raises:
        ConfigError: for arrays that do not fit each other or are not finite.

    Examples:
        >>> texture = Texture(torch.ones(1, 1, 1, 1), torch.full((1, 10, 8), 0.1))  # white, sd 0.1
        >>> texture.draw(torch.zeros(1, 1, 32, 32, 32), [7]).std().round(decimals=2)
        tensor(0.1000)
    """

    def __init__(
        self,
        filters: Tensor,
        scales: Tensor,
        fitted_on: Mapping[str, Any] | None = None,
        *,
        levels: TextureLevels | None = None,
    ) -> None:
        filters, scales = filters.float().cpu(), scales.float().cpu()
        if (
            filters.ndim != 4
            or len(set(filters.shape[1:])) != 1
            or scales.shape
            != (
                len(filters),
                *TABLE_SHAPE,
            )
        ):
            raise ConfigError(
                f"a texture has filters {tuple(filters.shape)} and scales {tuple(scales.shape)}: "
                f"(C, n, n, n) and (C, {TABLE_SHAPE[0]}, {TABLE_SHAPE[1]}) are needed"
            )
        if not bool(filters.isfinite().all() and scales.isfinite().all() and (scales >= 0).all()):
            raise ConfigError("a texture's filters and scales must be finite, its scales 0 or more")
        if levels is not None and len(levels.offset) != len(filters):
            raise ConfigError(f"a texture of {len(filters)} channels has levels of {len(levels.offset)}")
        self.filters, self.scales, self.levels = filters, scales, levels
        self.fitted_on = dict(fitted_on or {})

    @property
    def n_channels(self) -> int:
        """Channels of the volumes."""
        return len(self.filters)

    @property
    def reach(self) -> int:
        """Largest offset of the filter, in voxels."""
        return self.filters.shape[-1] - 1

    @property
    def sha256(self) -> str:
        """Hash of filters, scales and levels, for what must name the texture that it was made with."""
        levels = {} if self.levels is None else {f"levels.{name}": v for name, v in vars(self.levels).items()}
        return hash_weights({"filters": self.filters, "scales": self.scales, **levels})

    def draw(self, volumes: Tensor, seeds: Sequence[int]) -> Tensor:
        """Add texture to decoded volumes.

        Args:
            volumes: (B, C, X, Y, Z) in [-1, 1] up to overshoot.
            seeds: one for each volume, see `medldm.seeds.texture_seed`. A volume's texture is the same alone
                or in a batch.

        Returns:
            (B, C, X, Y, Z) in [-1, 1].

        Raises:
            ConfigError: for volumes of other channels.
        """
        fields = [self.draw_field(volume, seed) for volume, seed in zip(volumes, seeds, strict=True)]
        return (volumes + torch.stack(fields).to(volumes)).clamp_(-1, 1)

    def draw_field(self, volume: Tensor, seed: int) -> Tensor:
        """Return the field e^(1/2) s(y) (h * w) of a volume (C, X, Y, Z), float32, before it is added."""
        if volume.ndim != 4 or len(volume) != self.n_channels:
            raise ConfigError(
                f"a texture of {self.n_channels} channels is drawn on a volume of shape "
                f"{tuple(volume.shape)}: (C, X, Y, Z) of these channels is needed"
            )
        generator = torch.Generator().manual_seed(seed)
        size = [n + 2 * self.reach for n in volume.shape[1:]]
        field = torch.stack(
            [
                self._draw_channel(channel, torch.randn(size, generator=generator), number)
                for number, channel in enumerate(volume)
            ]
        )
        if self.levels is None:
            return field
        return field * self.level_of(volume, seed).sqrt().to(field)[:, None, None, None]

    def level_of(self, volume: Tensor, seed: int) -> Tensor:
        """Return the level e (C,) of a volume (C, X, Y, Z); 1 without `levels`."""
        if self.levels is None:
            return torch.ones(self.n_channels)
        return self.levels.draw(self.measure_detail(volume), seed)

    def measure_detail(self, volume: Tensor) -> Tensor:
        """Return how much of the finest detail each channel of a volume (C, X, Y, Z) holds: p (C,)."""
        details = []
        for table, y in zip(self.scales, volume, strict=True):
            own = DetailSum()
            for start, stop in _slabs(y.shape):
                own.add(y[start : stop + 1], look_up(table.to(y.device), place_in_table(y, start, stop)))
            details.append(own.value())
        return torch.stack(details)

    def scale_of(self, volume: Tensor) -> Tensor:
        """Return s at each voxel of a volume (C, X, Y, Z)."""
        pairs = zip(self.scales, volume, strict=True)
        return torch.stack([look_up(table, place_in_table(y)) for table, y in pairs])

    def kernel(self, channel: int = 0) -> Tensor:
        """Return h (2 n - 1, 2 n - 1, 2 n - 1) of a channel, its middle at offset 0."""
        distances = torch.arange(-self.reach, self.reach + 1).abs()
        part = self.filters[channel]
        return part[distances][:, distances][:, :, distances]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for a checkpoint's card, numbers with 6 digits, as `fit_texture` gives them."""
        own = {
            "filters": _to_digits(self.filters),
            "scales": _to_digits(self.scales),
            "fitted_on": self.fitted_on,
        }
        return own if self.levels is None else {**own, "levels": self.levels.to_dict()}

    @classmethod
    def from_dict(cls, description: Mapping[str, Any]) -> Texture:
        """Rebuild a texture.

        Raises:
            ConfigError: for values that are no texture's.
        """
        try:
            filters, scales = torch.tensor(description["filters"]), torch.tensor(description["scales"])
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"this does not describe a texture ({error!r})") from error
        own = description.get("levels")
        levels = None if own is None else TextureLevels.from_dict(own)
        return cls(filters, scales, description.get("fitted_on"), levels=levels)

    def _draw_channel(self, y: Tensor, noise: Tensor, channel: int) -> Tensor:
        """Return the field (X, Y, Z) of one channel, a slab of planes after the other, for memory."""
        kernel = self.kernel(channel).to(y.device)
        field = torch.empty_like(y, dtype=torch.float32)
        for start, stop in _slabs(y.shape):
            own = noise[start : stop + 2 * self.reach].to(y.device)
            scale = look_up(self.scales[channel].to(y.device), place_in_table(y, start, stop))
            field[start:stop] = scale * filter_valid(own, kernel)
        return field


def place_in_table(y: Tensor, start: int = 0, stop: int | None = None) -> TablePlace:
    """Return where the planes start to stop of a decoded channel (X, Y, Z) lie in the table of scales."""
    stop = len(y) if stop is None else stop
    before, after = min(1, start), min(1, len(y) - stop)
    planes = y[start - before : stop + after].float()
    padding = (1, 1, 1, 1, 1 - before, 1 - after)
    padded = F.pad(planes[None, None], padding, mode="replicate")
    mean, square = F.avg_pool3d(padded, 3, 1)[0, 0], F.avg_pool3d(padded**2, 3, 1)[0, 0]
    spread = (square - mean**2).clamp_(min=0).sqrt_()
    nodes = SPREAD_NODES.to(spread).log()
    logs = spread.clamp(min=float(SPREAD_NODES[0]), max=float(SPREAD_NODES[-1])).log()
    right = torch.searchsorted(nodes, logs).clamp_(1, len(nodes) - 1)
    share = (logs - nodes[right - 1]) / (nodes[right] - nodes[right - 1])
    intensity = (y[start:stop].float().clamp(-1, 1) + 1) * ((len(INTENSITY_NODES) - 1) / 2)
    return TablePlace(intensity, right - 1 + share.clamp_(0, 1))


def look_up(table: Tensor, place: TablePlace) -> Tensor:
    """Interpolate a table (10, 8) linearly at places."""
    i = place.intensity.long().clamp_(0, TABLE_SHAPE[0] - 2)
    j = place.spread.long().clamp_(0, TABLE_SHAPE[1] - 2)
    u, v = place.intensity - i, place.spread - j
    table = table.to(u)
    low = table[i, j] * (1 - v) + table[i, j + 1] * v
    high = table[i + 1, j] * (1 - v) + table[i + 1, j + 1] * v
    return low * (1 - u) + high * u


def filter_valid(noise: Tensor, kernel: Tensor) -> Tensor:
    """Convolve (X, Y, Z) with a symmetric kernel where all of the kernel lies inside, by FFT."""
    size = noise.shape
    product = torch.fft.rfftn(noise) * torch.fft.rfftn(kernel, s=size)
    x, y, z = (n - 1 for n in kernel.shape)
    return torch.fft.irfftn(product, s=size)[x:, y:, z:]


def _slabs(size: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield the planes of each slab; they follow from the size alone, as rounding does from them."""
    thickness = max(1, _SLAB_VOXELS // (size[1] * size[2]))
    for start in range(0, size[0], thickness):
        yield start, min(start + thickness, size[0])


def _to_digits(values: Tensor) -> Any:
    """Return nested lists of numbers of 6 digits, which float32 keeps."""
    if values.ndim == 0:
        return float(f"{values.item():.{_DIGITS}g}")
    return [_to_digits(value) for value in values]
