"""Resample loaded volumes to a wanted spacing, array and dictionary forms."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import InvertibleTransform
from monai.utils import TraceKeys

from medldm.errors import ConfigError
from medldm.transforms import resampling
from medldm.transforms.keyed import DEFAULT_LABEL_KEYS, KeyedTransform
from medldm.transforms.label_resampling import resample_labels
from medldm.transforms.raw_volume import MAX_SPACING_MM, MIN_SPACING_MM, spacing_of
from medldm.transforms.resampling import Alignment, AxisGrid, Grids, Interpolation


class ResampleToSpacing(InvertibleTransform):
    """Resample a volume to a spacing; the field of view and its centre stay.

    Images are interpolated linearly or by cubic B-splines and smoothed where an axis becomes coarser; label
    maps by each structure's linear share. Where the spacing is None or already met, the volume passes
    untouched. The inverse resamples back to the grid before.

    Args:
        spacing_mm: one number or (x, y, z) in mm; None passes everything.
        interpolation: "linear" or "bspline", images only.
        anti_aliasing: smooth images where an axis becomes coarser.
        is_label: the volume is a label map.
        align: "centre" or "first_voxel" (MONAI's Spacing grid), see `spacing_grids`.
        tolerance: relative difference of spacing below which an axis is left alone.

    Examples:
        >>> volume = MetaTensor(torch.zeros(1, 4, 4, 4), affine=torch.diag(torch.tensor([2.0, 2, 2, 1])))
        >>> tuple(ResampleToSpacing(1.0)(volume).shape)
        (1, 8, 8, 8)
    """

    def __init__(
        self,
        spacing_mm: float | Sequence[float] | None,
        *,
        interpolation: Interpolation = "linear",
        anti_aliasing: bool = True,
        is_label: bool = False,
        align: Alignment = "centre",
        tolerance: float = 1e-4,
    ) -> None:
        super().__init__()
        self.spacing_mm = check_spacing(spacing_mm)
        if interpolation not in resampling.INTERPOLATIONS:
            raise ConfigError(
                f"interpolation is {interpolation!r}; choose one of {resampling.INTERPOLATIONS}"
            )
        if align not in resampling.ALIGNMENTS:
            raise ConfigError(f"align is {align!r}; choose one of {resampling.ALIGNMENTS}")
        self.interpolation = interpolation
        self.anti_aliasing = anti_aliasing
        self.is_label = is_label
        self.align = align
        self.tolerance = tolerance

    def __call__(self, volume: MetaTensor) -> MetaTensor:
        """Resample (C, X, Y, Z) float32 to the spacing; the affine follows."""
        affine = volume.affine.cpu().numpy().astype(np.float64)
        present = spacing_of(affine)
        wanted = present if self.spacing_mm is None else np.asarray(self.spacing_mm)
        target = np.where(np.abs(wanted / present - 1.0) < self.tolerance, present, wanted)
        grids = resampling.spacing_grids(tuple(volume.shape[1:]), present, target=target, align=self.align)
        shape = tuple(volume.shape[1:])
        result = self._resampled(volume, grids, affine=resampling.grid_affine(affine, grids))
        start, step = [grid.start for grid in grids], [grid.step for grid in grids]
        info = {"start": start, "step": step, "shape": list(shape), "affine_before": affine.tolist()}
        self.push_transform(result, extra_info=info)
        return result

    def inverse(self, volume: MetaTensor) -> MetaTensor:
        """Resample back to the grid before; a volume whose grid was left alone stays as it is."""
        info = self.pop_transform(volume)[TraceKeys.EXTRA_INFO]
        parts = zip(info["shape"], volume.shape[1:], info["start"], info["step"], strict=True)
        grids = tuple(
            AxisGrid(n_in=int(n_in), n_out=int(n_out), start=float(start), step=float(step)).inverted()
            for n_in, n_out, start, step in parts
        )
        return self._resampled(volume, grids, affine=np.asarray(info["affine_before"], dtype=np.float64))

    def _resampled(self, volume: MetaTensor, grids: Grids, *, affine: np.ndarray) -> MetaTensor:
        if all(grid.is_identity for grid in grids):
            # Another MetaTensor on the same voxels, so that only the result's record of transforms changes.
            return MetaTensor(volume.as_tensor()).copy_meta_from(volume)
        channels = [self._resampled_channel(channel, grids) for channel in volume.as_tensor().cpu().numpy()]
        voxels = channels[0][None] if len(channels) == 1 else np.stack(channels)
        result = MetaTensor(torch.from_numpy(voxels))
        result.copy_meta_from(volume)
        result.affine = torch.from_numpy(affine)
        return result

    def _resampled_channel(self, channel: np.ndarray, grids: Grids) -> np.ndarray:
        if self.is_label:
            return resample_labels(channel, grids)
        return resampling.resample_image(
            channel, grids, interpolation=self.interpolation, anti_aliasing=self.anti_aliasing
        )


class ResampleToSpacingd(KeyedTransform):
    """Dictionary form of ResampleToSpacing; keys among `label_keys` are resampled as label maps."""

    def __init__(
        self,
        keys: Hashable | Sequence[Hashable],
        spacing_mm: float | Sequence[float] | None,
        *,
        label_keys: Sequence[Hashable] = DEFAULT_LABEL_KEYS,
        interpolation: Interpolation = "linear",
        anti_aliasing: bool = True,
        align: Alignment = "centre",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(
            keys,
            of_image=ResampleToSpacing(
                spacing_mm, interpolation=interpolation, anti_aliasing=anti_aliasing, align=align
            ),
            of_label=ResampleToSpacing(spacing_mm, is_label=True, align=align),
            label_keys=label_keys,
            allow_missing_keys=allow_missing_keys,
        )


def check_spacing(spacing_mm: float | Sequence[float] | None) -> tuple[float, float, float] | None:
    """Turn one number or three into (x, y, z) mm.

    Raises:
        ConfigError: for another count or a value outside 0.01 to 50 mm.
    """
    if spacing_mm is None:
        return None
    values = np.asarray(spacing_mm, dtype=np.float64).reshape(-1)
    values = np.repeat(values, 3) if values.size == 1 else values
    if values.size != 3 or not ((values >= MIN_SPACING_MM) & (values <= MAX_SPACING_MM)).all():
        raise ConfigError(
            f"spacing is {spacing_mm} mm; one number or three are needed, each "
            f"{MIN_SPACING_MM} to {MAX_SPACING_MM:g} mm"
        )
    return float(values[0]), float(values[1]), float(values[2])
