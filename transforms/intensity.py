"""Normalise images to [-1, 1] by an IntensityMapping, and measure that mapping on a cohort."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import InvertibleTransform
from monai.utils import TraceKeys

from medldm.errors import ConfigError
from medldm.transforms.intensity_mapping import IntensityMapping, MappingKind
from medldm.transforms.keyed import KeyedTransform
from medldm.transforms.load import LoadVolume

logger = logging.getLogger(__name__)


OneOrMore = IntensityMapping | Mapping[str, Any] | Sequence[IntensityMapping | Mapping[str, Any]]


class NormaliseIntensity(InvertibleTransform):
    """Map an image to [-1, 1]; the case's limits and clipped shares go into its meta, and the inverse uses
    them.

    Args:
        mapping: an IntensityMapping or its dictionary form, for all channels together; or a list with one for
            each channel.
        report_above: share of clipped voxels from which a case is logged.

    Examples:
        >>> mapping = IntensityMapping(kind="identity_range", lower=0.0, upper=2.0)
        >>> NormaliseIntensity(mapping)(MetaTensor(torch.full((1, 2, 2, 2), 2.0))).max().item()
        1.0
    """

    def __init__(self, mapping: OneOrMore, *, report_above: float = 0.01) -> None:
        super().__init__()
        several = [mapping] if isinstance(mapping, IntensityMapping | Mapping) else mapping
        self.mappings = tuple(
            each if isinstance(each, IntensityMapping) else IntensityMapping.from_dict(each)
            for each in several
        )
        self.report_above = report_above
        self._reported: set[str] = set()

    def __call__(self, volume: MetaTensor) -> MetaTensor:
        """Map (C, X, Y, Z) to float32 in [-1, 1].

        Raises:
            ConfigError: for another number of channels than of mappings.
        """
        parts = self._split(volume.as_tensor().to(torch.float32))
        limits = [mapping.case_limits(part) for mapping, part in zip(self.mappings, parts, strict=True)]
        every = list(zip(self.mappings, parts, limits, strict=True))
        clipped = [mapping.clipped_fractions(part, limits=own) for mapping, part, own in every]
        result = MetaTensor(_join([mapping.to_model(part, limits=own) for mapping, part, own in every]))
        result.copy_meta_from(volume)
        is_one = len(every) == 1
        result.meta["intensity_limits"] = limits[0] if is_one else limits
        result.meta["clipped_fractions"] = clipped[0] if is_one else clipped
        for place, shares in enumerate(clipped):
            self._report(volume, place, *shares)
        self.push_transform(result, extra_info={"limits": [list(own) for own in limits]})
        return result

    def inverse(self, volume: MetaTensor) -> MetaTensor:
        """Map back to the case's own intensities, float32 (int16 for CT alone)."""
        limits = self.pop_transform(volume)[TraceKeys.EXTRA_INFO]["limits"]
        parts = self._split(volume.as_tensor())
        values = [
            mapping.from_model(part, limits=(float(own[0]), float(own[1])))
            for mapping, part, own in zip(self.mappings, parts, limits, strict=True)
        ]
        return MetaTensor(_join(values)).copy_meta_from(volume)

    def _split(self, voxels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return what each mapping maps: all channels together, or each channel (1, X, Y, Z)."""
        if len(self.mappings) == 1:
            return (voxels,)
        if len(voxels) != len(self.mappings):
            raise ConfigError(
                f"the volume has {len(voxels)} channels and there are {len(self.mappings)} intensity "
                "mappings; one for each channel is needed"
            )
        return voxels.split(1)

    def _report(self, volume: MetaTensor, place: int, below: float, above: float) -> None:
        """Log each file once, not once an epoch; dark background below an MR window is no loss."""
        lost = above if self.mappings[place].kind == "mr_percentile" else below + above
        files = volume.meta.get("channel_files") or [volume.meta.get("filename_or_obj", "volume")]
        name = str(files[min(place, len(files) - 1)]).replace("\\", "/").rsplit("/", 1)[-1]
        if lost >= self.report_above and name not in self._reported:
            self._reported.add(name)
            message = "%s: %.2f %% of voxels below and %.2f %% above the intensity window are clipped"
            logger.info(message, name, 100 * below, 100 * above)


def _join(parts: Sequence[Any]) -> torch.Tensor:
    """Join mapped channels; where their types differ, as CT's and MR's do, all become float32."""
    if len(parts) == 1:
        return torch.as_tensor(parts[0])
    is_one_type = len({part.dtype for part in parts}) == 1
    return torch.cat([part if is_one_type else part.to(torch.float32) for part in parts])


class NormaliseIntensityd(KeyedTransform):
    """Dictionary form of NormaliseIntensity; give it image keys only."""

    def __init__(
        self,
        keys: Hashable | Sequence[Hashable],
        mapping: OneOrMore,
        *,
        report_above: float = 0.01,
        allow_missing_keys: bool = False,
    ) -> None:
        of_image = NormaliseIntensity(mapping, report_above=report_above)
        super().__init__(keys, of_image=of_image, allow_missing_keys=allow_missing_keys)


def measure_intensity_mapping(
    cases: Iterable[Mapping[str, Any] | torch.Tensor],
    *,
    kind: MappingKind = "mr_percentile",
    image_key: str = "image",
    percentiles: tuple[float, float] = (0.5, 99.5),
    load: Callable[[Any], torch.Tensor] | None = None,
) -> IntensityMapping:
    """Find a cohort's intensity mapping.

    For mr_percentile the limits are the medians over cases of each case's foreground percentiles, in the
    cohort's units; synthetic volumes come back in them. ct_window is fixed and reads nothing; identity_range
    takes the smallest and largest voxel of the cohort.

    Args:
        cases: MONAI dictionaries with a path or a tensor under `image_key`, or tensors; of one channel.
        kind: of the mapping.
        image_key: entry that holds the image.
        percentiles: of the foreground, mr_percentile only.
        load: from path to tensor; by default LoadVolume().

    Raises:
        ConfigError: for an empty cohort or a case without contrast.
    """
    if kind == "ct_window":
        return IntensityMapping(kind="ct_window")
    load = load or LoadVolume()
    per_case = IntensityMapping(kind="mr_percentile", percentiles=percentiles)
    limits = []
    for case in cases:
        image = case if isinstance(case, torch.Tensor) else case[image_key]
        volume = (image if isinstance(image, torch.Tensor) else load(image)).to(torch.float32)
        is_range = kind == "identity_range"
        limits.append(
            (float(volume.min()), float(volume.max())) if is_range else per_case.case_limits(volume)
        )
    if not limits:
        raise ConfigError("no cases were given; the intensity mapping is measured over the training cohort")
    table = np.asarray(limits, dtype=np.float64)
    if kind == "mr_percentile":
        logger.info(
            "intensities of %d cases: each case's voxels beyond its foreground percentiles %s are clipped",
            len(limits),
            percentiles,
        )
    lower, upper = (
        (table[:, 0].min(), table[:, 1].max()) if kind == "identity_range" else np.median(table, axis=0)
    )
    return IntensityMapping(kind=kind, lower=float(lower), upper=float(upper), percentiles=percentiles)
