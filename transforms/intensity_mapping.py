"""Map intensities to the network's [-1, 1] and back to the cohort's units."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from medldm.configs import Config
from medldm.errors import ConfigError
from medldm.transforms.errors import VolumeError
from medldm.transforms.order_statistics import OrderStatistics

MappingKind = Literal["ct_window", "mr_percentile", "identity_range"]
CT_WINDOW_HU = (-1000.0, 1000.0)


@dataclass(kw_only=True)
class IntensityMapping(Config):
    """A monotone mapping of intensities to [-1, 1], stored with the weights so that sampling can invert it.

    Kinds:
        ct_window: `lower` to `upper` HU; with `dense_upper`, `lower..upper` takes [-1, 1 - dense_share] and
            `upper..dense_upper` the rest, so that dense bone and metal are not cut off. Comes back as int16
            HU.
        mr_percentile: each case's own percentiles inside its foreground; `lower` and `upper` are the medians
            of these over the training cohort and serve for the way back only.
        identity_range: `lower` to `upper`, the same for all cases.

    Args:
        kind: one of the three.
        lower: intensity at -1, in HU or the cohort's units.
        upper: intensity at 1 (ct_window with dense_upper: at 1 - dense_share).
        dense_upper: HU at 1 for the piecewise CT mapping.
        dense_share: part of [-1, 1] given to `upper..dense_upper`.
        percentiles: of the foreground, mr_percentile only.
        foreground_only: False takes percentiles over all voxels, for images without background.

    Examples:
        >>> float(IntensityMapping(kind="ct_window").to_model(np.zeros(1))[0])
        0.0
    """

    kind: MappingKind
    lower: float | None = None
    upper: float | None = None
    dense_upper: float | None = None
    dense_share: float = 0.2
    percentiles: tuple[float, float] = (0.5, 99.5)
    foreground_only: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind == "ct_window" and self.lower is None and self.upper is None:
            self.lower, self.upper = CT_WINDOW_HU
        self._check_limits()
        if len(self.percentiles) != 2 or not 0 <= self.percentiles[0] < self.percentiles[1] <= 100:
            raise ConfigError(
                f"percentiles are {self.percentiles}; two increasing numbers in 0 to 100 are needed"
            )

    def _check_limits(self) -> None:
        if (self.lower is None) != (self.upper is None):
            raise ConfigError(f"lower is {self.lower} and upper is {self.upper}; give both or neither")
        if self.kind == "identity_range" and self.lower is None:
            raise ConfigError("identity_range needs lower and upper, the intensities that become -1 and 1")
        if self.lower is not None and self.upper is not None:
            if not (np.isfinite([self.lower, self.upper]).all() and self.lower < self.upper):
                raise ConfigError(f"lower {self.lower} and upper {self.upper} must be finite and increasing")
            if self.dense_upper is not None and not self.upper < self.dense_upper < np.inf:
                raise ConfigError(
                    f"dense_upper is {self.dense_upper}; a finite HU above upper {self.upper} is needed"
                )
        if self.dense_upper is not None and self.kind != "ct_window":
            raise ConfigError(f"dense_upper belongs to ct_window, not to {self.kind}")
        if not 0 < self.dense_share < 1:
            raise ConfigError(f"dense_share is {self.dense_share}; it must lie between 0 and 1")

    def case_limits(self, volume: torch.Tensor, *, mask: torch.Tensor | None = None) -> tuple[float, float]:
        """Return the intensities that become -1 and 1 for this case.

        Args:
            volume: any shape, in the cohort's units.
            mask: bool, same shape; the foreground. By default `foreground_mask` of the volume
                (all voxels with foreground_only=False).

        Raises:
            VolumeError: where the foreground has no contrast.
        """
        if self.kind != "mr_percentile":
            return self._fixed_limits()
        values = volume.detach().cpu().to(torch.float32).numpy()
        if mask is None:
            statistics = OrderStatistics(values)
            above = foreground_threshold(statistics) if self.foreground_only else None
        else:
            statistics, above = OrderStatistics(values[mask.cpu().numpy()]), None
        lower, upper = (statistics.percentile(percent, above=above) for percent in self.percentiles)
        if not lower < upper:
            raise VolumeError(
                f"percentiles {self.percentiles} of the foreground are both {lower:g}, there is no contrast; "
                "remove the case or widen the percentiles"
            )
        return lower, upper

    def to_model(
        self, volume: torch.Tensor | np.ndarray, *, limits: tuple[float, float] | None = None
    ) -> torch.Tensor | np.ndarray:
        """Map intensities to [-1, 1]; what exceeds the limits is clipped.

        Args:
            volume: any shape, in HU or the cohort's units.
            limits: `case_limits` found before; by default they are found here.

        Returns:
            float32 of the same shape, tensor or array as the input.
        """
        if isinstance(volume, np.ndarray):
            return np.asarray(self.to_model(torch.from_numpy(np.ascontiguousarray(volume)), limits=limits))
        values = volume.to(torch.float32)
        lower, upper = limits or self.case_limits(values)
        if self.dense_upper is None:
            return values.sub(lower).mul_(2.0 / (upper - lower)).sub_(1.0).clamp_(-1.0, 1.0)
        knot = 1.0 - self.dense_share
        soft = (values - lower) * ((knot + 1.0) / (upper - lower)) - 1.0
        dense = (values - upper) * (self.dense_share / (self.dense_upper - upper)) + knot
        return torch.where(values < upper, soft, dense).clamp_(-1.0, 1.0)

    def from_model(
        self, volume: torch.Tensor | np.ndarray, *, limits: tuple[float, float] | None = None
    ) -> torch.Tensor | np.ndarray:
        """Map [-1, 1] back; values outside are clamped first.

        Args:
            volume: any shape.
            limits: a case's own; by default the cohort's `lower` and `upper`.

        Returns:
            The same shape: int16 HU for ct_window, else float32 in the cohort's units.
        """
        if isinstance(volume, np.ndarray):
            return np.asarray(self.from_model(torch.from_numpy(np.ascontiguousarray(volume)), limits=limits))
        values = volume.to(torch.float32).clamp(-1.0, 1.0)
        lower, upper = limits or self._fixed_limits()
        knot = 1.0 if self.dense_upper is None else 1.0 - self.dense_share
        result = (values + 1.0) * ((upper - lower) / (knot + 1.0)) + lower
        if self.dense_upper is not None:
            dense = (values - knot) * ((self.dense_upper - upper) / self.dense_share) + upper
            result = torch.where(values < knot, result, dense)
        if self.kind != "ct_window":
            return result
        return result.round().clamp(-32768, 32767).to(torch.int16)

    def clipped_fractions(self, volume: torch.Tensor, *, limits: tuple[float, float]) -> tuple[float, float]:
        """Return the shares of voxels below and above what the mapping can hold."""
        top = limits[1] if self.dense_upper is None else self.dense_upper
        values = volume.detach().cpu().numpy()
        n_voxels = max(1, values.size)
        return np.count_nonzero(values < limits[0]) / n_voxels, np.count_nonzero(values > top) / n_voxels

    def _fixed_limits(self) -> tuple[float, float]:
        if self.lower is None or self.upper is None:
            raise ConfigError(
                "this mr_percentile mapping has no cohort limits, it cannot go back to the cohort's units; "
                "measure them with measure_intensity_mapping"
            )
        return self.lower, self.upper


def foreground_mask(volume: torch.Tensor) -> torch.Tensor:
    """Find the voxels that are not background: above t2 + 0.1 (t98 - t2).

    t2 and t98 are the 2nd and 98th percentile, so single bright voxels do not matter; a crop without
    background keeps all but its darkest voxels.

    Args:
        volume: any shape, any monotone intensity unit.

    Returns:
        bool, the same shape.

    Source: Smith, Fast robust automated brain extraction, Human Brain Mapping 17 (2002), section
        "Estimation".
    """
    return volume > foreground_threshold(OrderStatistics(volume.detach().cpu().to(torch.float32).numpy()))


def foreground_threshold(statistics: OrderStatistics) -> float:
    """Return the intensity above which a voxel is foreground; the minimum where all voxels are alike."""
    low, high = statistics.percentile(2.0), statistics.percentile(98.0)
    return low + 0.1 * (high - low) if high > low else statistics.percentile(0.0)
