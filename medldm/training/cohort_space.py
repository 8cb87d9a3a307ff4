"""The space to train in: the grid that is asked for, and the intensities measured on the training cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from medldm.data.case_checks import image_files
from medldm.data.cohort import Cohort
from medldm.errors import ConfigError
from medldm.latent_diffusion.volume_space import VolumeSpace
from medldm.transforms import measure_intensity_mapping


def measure_space(
    cohort: Cohort, *, spacing_mm: Sequence[float], size: Sequence[int], intensity: str | Mapping[str, str]
) -> VolumeSpace:
    """Return the space to train in; the intensity mappings are measured on the training cases.

    Args:
        cohort: its training cases are read for `mr_percentile` and `identity_range`.
        spacing_mm: of the networks' grid.
        size: voxels of the networks' grid.
        intensity: kind of the mapping, "mr_percentile", "ct_window" or "identity_range", for all channels; or
            channel to kind.

    Raises:
        ConfigError: for kinds that are not of the cohort's channels.
    """
    mappings: list[Any] = []
    for place, kind in enumerate(_kinds_of(intensity, cohort.channels)):
        of_channel = [{"image": image_files(case)[place]} for case in cohort.training]
        mappings.append(measure_intensity_mapping(of_channel, kind=kind))  # type: ignore[arg-type]
    named = dict(zip(cohort.channels, mappings, strict=True)) if cohort.channels else mappings[0]
    return VolumeSpace(
        spacing_mm=tuple(spacing_mm),  # type: ignore[arg-type]
        size=tuple(size),  # type: ignore[arg-type]
        intensity=named,
        channels=cohort.channels,
    )


def _kinds_of(kinds: str | Mapping[str, str], channels: Sequence[str]) -> list[str]:
    """Return the kind of each channel's mapping, in the order of the channels."""
    if isinstance(kinds, str):
        return [kinds] * max(1, len(channels))
    if set(kinds) != set(channels):
        raise ConfigError(
            f"intensity names {sorted(kinds)}, the cohort's channels are {list(channels)}: give a kind for "
            "each, or one for all"
        )
    return [kinds[name] for name in channels]
