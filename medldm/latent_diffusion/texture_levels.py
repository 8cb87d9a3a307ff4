"""How strong the texture of one volume is: scans differ in noise, and so do the volumes that a model makes.

The level e of a volume's channel multiplies the energy of its texture. It is 1 on average over a cohort, and

    log e = offset + slope (p - centre) + (R z)_c,    p = log mean (d_x d_y d_z y)^2                  Eq. (1)

p says how much of the finest diagonal detail the decoded volume y holds: d is the difference of neighbours,
the mean goes over voxels that get texture. A volume whose latents look noisy gets the grain that belongs to
it. p is kept within the range of the cases that were fitted on. What p does not explain is drawn, once for
each volume: z is normal, from the volume's seed, and R R^T the covariance of the channels' unexplained logs,
so that channels which are noisy together are drawn together.

Source: Donoho and Johnstone 1994, "Ideal spatial adaptation by wavelet shrinkage", for the finest wavelet
coefficients as the place where noise is measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from medldm.errors import ConfigError
from medldm.seeds import texture_level_seed

_SMALLEST = 1e-12


@dataclass(frozen=True, kw_only=True)
class TextureLevels:
    """The distribution of levels, Eq. (1).

    Args:
        offset: (C,) mean log level of a volume in the middle; a little below 0, so that e is 1 on average.
        slope: (C,) of the log level over p.
        centre: (C,) mean p of the cases.
        low: (C,) smallest p of the cases.
        high: (C,) largest.
        root: (C, C), R of Eq. (1).

    Raises:
        ConfigError: for numbers that do not fit each other or are not finite.
    """

    offset: Tensor
    slope: Tensor
    centre: Tensor
    low: Tensor
    high: Tensor
    root: Tensor

    def __post_init__(self) -> None:
        n = len(self.offset)
        fits = all(each.shape == (n,) for each in (self.offset, self.slope, self.centre, self.low, self.high))
        if not fits or self.root.shape != (n, n):
            raise ConfigError(f"levels of a texture need {n} numbers of each kind, and a root of {n} x {n}")
        if not all(bool(each.isfinite().all()) for each in vars(self).values()):
            raise ConfigError("the levels of a texture must be finite")

    @property
    def spread(self) -> Tensor:
        """Standard deviation (C,) of the log level that p does not explain."""
        return self.root.square().sum(1).sqrt()

    def draw(self, detail: Tensor, seed: int) -> Tensor:
        """Return the level (C,) of a volume.

        Args:
            detail: p (C,), see `DetailSum`; NaN where nothing is drawn.
            seed: of the volume's texture.
        """
        generator = torch.Generator().manual_seed(texture_level_seed(seed))
        rest = self.root @ torch.randn(len(self.root), generator=generator)
        place = torch.where(detail.isnan(), self.centre, detail).clamp(self.low, self.high) - self.centre
        return (self.offset + self.slope * place + rest).exp()

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers of 6 digits."""
        return {name: _to_digits(value) for name, value in vars(self).items()}

    @classmethod
    def from_dict(cls, description: Mapping[str, Any]) -> TextureLevels:
        """Rebuild the levels.

        Raises:
            ConfigError: for values that describe none.
        """
        try:
            return cls(**{name: torch.tensor(value) for name, value in description.items()})
        except (TypeError, ValueError) as error:
            raise ConfigError(f"this does not describe the levels of a texture ({error!r})") from error


class DetailSum:
    """Gather p of Eq. (1) of a channel, some planes after the other."""

    def __init__(self) -> None:
        self._total, self._count = torch.zeros(2, dtype=torch.float64)

    def add(self, y: Tensor, scale: Tensor) -> None:
        """Count planes.

        Args:
            y: (n + 1, Y, Z) decoded intensities: n planes and the one behind them.
            scale: (n, Y, Z) or more planes, s there; where it is 0, nothing is drawn and nothing counts.
        """
        # Plane by plane, so that the sum does not depend on how many come at a time.
        for before, after, own in zip(y[:-1], y[1:], scale, strict=False):
            mask = own[:-1, :-1] > 0
            detail = (after.float() - before.float()).diff(dim=0).diff(dim=1).square() * mask
            self._total += detail.sum().double().cpu()
            self._count += mask.sum().double().cpu()

    def value(self) -> Tensor:
        """Return p, a scalar; NaN where no voxel gets texture."""
        if self._count == 0:
            return torch.tensor(torch.nan)
        return (self._total / self._count).clamp(min=_SMALLEST).log().float()


def _to_digits(values: Tensor) -> Any:
    return [_to_digits(value) for value in values] if values.ndim else float(f"{values.item():.6g}")
