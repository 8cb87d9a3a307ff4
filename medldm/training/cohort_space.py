"""The space to train in: the grid that is asked for, and the intensities measured on the training cases."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from medldm.data.case_checks import image_files
from medldm.data.cohort import Cohort
from medldm.errors import ConfigError
from medldm.latent_diffusion.volume_space import VolumeSpace
from medldm.transforms import IntensityMapping, LoadVolume, measure_intensity_mapping
from medldm.transforms.body_mask import find_outside_value

logger = logging.getLogger(__name__)

Intensity = str | Mapping[str, Any]
"""Kind of a mapping, or its arguments: {"kind": "ct_window", "dense_upper": 3000}."""

N_LOOKED_AT = 10
"""Training cases in which the value outside of the body is looked for."""

_KIND = "kind"


def measure_space(
    cohort: Cohort,
    *,
    spacing_mm: Sequence[float],
    size: Sequence[int],
    intensity: Intensity | Mapping[str, Intensity],
    outside_value: float | str | None = None,
    intensity_note: str | None = None,
) -> VolumeSpace:
    """Return the space to train in; the intensity mappings are measured on the training cases.

    Args:
        cohort: its training cases are read for `mr_percentile` and `identity_range`.
        spacing_mm: of the networks' grid.
        size: voxels of the networks' grid.
        intensity: kind of the mapping, "mr_percentile", "ct_window" or "identity_range", for all channels; or
            "kind" with further fields of `IntensityMapping`; or channel to either.
        outside_value: see `VolumeSpace`; "auto" looks whether the training cases have one.
        intensity_note: see `VolumeSpace`.

    Raises:
        ConfigError: for kinds that are not of the cohort's channels, or fields that a mapping does not have.
    """
    mappings: list[Any] = []
    for place, wanted in enumerate(_per_channel(intensity, cohort.channels)):
        of_channel = [{"image": image_files(case)[place]} for case in cohort.training]
        mappings.append(measure_mapping(of_channel, wanted))
    named = dict(zip(cohort.channels, mappings, strict=True)) if cohort.channels else mappings[0]
    if outside_value == "auto":
        is_ct = len(mappings) == 1 and mappings[0].kind == "ct_window"
        outside_value = measure_outside_value(cohort) if is_ct else None
    return VolumeSpace(
        spacing_mm=tuple(spacing_mm),  # type: ignore[arg-type]
        size=tuple(size),  # type: ignore[arg-type]
        intensity=named,
        channels=cohort.channels,
        outside_value=outside_value,  # type: ignore[arg-type]
        intensity_note=intensity_note or "",
    )


def measure_mapping(cases: Sequence[Mapping[str, Any]], intensity: Intensity) -> IntensityMapping:
    """Return the mapping of one channel.

    Args:
        cases: with "image".
        intensity: its kind, or "kind" with further fields of `IntensityMapping`, which are taken as they are.
    """
    if isinstance(intensity, str):
        return measure_intensity_mapping(cases, kind=intensity)  # type: ignore[arg-type]
    given = dict(intensity)
    if given[_KIND] == "ct_window" or "lower" in given:
        return IntensityMapping.from_dict(given)
    percentiles: Any = tuple(given.get("percentiles", IntensityMapping.percentiles))
    measured = measure_intensity_mapping(cases, kind=given[_KIND], percentiles=percentiles)
    return IntensityMapping.from_dict({**measured.to_dict(), **given})


def measure_outside_value(cohort: Cohort) -> float | None:
    """Return the value that all training cases have outside of the body, None where one of them has none.

    Up to `N_LOOKED_AT` cases are read, spread over the list.
    """
    step = max(1, len(cohort.training) // N_LOOKED_AT)
    cases = cohort.training[::step][:N_LOOKED_AT]
    found = {find_outside_value(LoadVolume()(image_files(case)[0])[0].numpy()) for case in cases}
    value = found.pop() if len(found) == 1 else None
    what = "no single value" if value is None else f"{value:g} everywhere"
    logger.info("outside of the body %d training cases that were looked at have %s", len(cases), what)
    return value


def _per_channel(intensity: Any, channels: Sequence[str]) -> list[Intensity]:
    """Return what is wanted of each channel, in the order of the channels."""
    if isinstance(intensity, str) or (_KIND in intensity and _KIND not in channels):
        return [intensity] * max(1, len(channels))
    if set(intensity) != set(channels):
        raise ConfigError(
            f"intensity names {sorted(intensity)}, the cohort's channels are {list(channels)}: give a kind "
            "for each, or one for all; further fields of a mapping stand beside its kind"
        )
    return [intensity[name] for name in channels]
