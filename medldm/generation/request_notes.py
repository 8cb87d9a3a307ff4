"""Say, before anything is drawn, what a request leaves out or meets by repetition.

Eight volumes of one label map show one anatomy eight times, and a volume without a label map is not what a
model of label maps is for: neither may happen in silence.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medldm.errors import ConfigError
from medldm.latent_diffusion.volume_space import VolumeSpace

Geometry = tuple[tuple[float, ...], tuple[int, ...]]
"""Spacing in mm and voxels of a volume along X, Y, Z."""

MORE_ANATOMIES = (
    "for other anatomies give more label maps (label_dir), draw new ones with a model of the bundle "
    "labelmap_ldm (labels: synthetic, or --labelmap-checkpoint), take those of the training cases (labels: "
    "training; the volumes then show the anatomy of people the model was trained on), or ask for fewer"
)


@dataclass(frozen=True, kw_only=True)
class RequestNote:
    """One remark on all requests together.

    Args:
        text: without names of files and values.
        is_warning: whether the output is less than it looks.
    """

    text: str
    is_warning: bool


def note_turns(
    used: Sequence[Hashable], *, n_given: int, noun: str, plural: str = "", advice: str = ""
) -> list[RequestNote]:
    """Say how often things that are used in turn are used.

    Args:
        used: for each volume, what it is made from.
        n_given: how many different ones there are to choose from.
        noun: what they are.
        plural: where it is not the noun with an s.
        advice: what to do about repetition.

    Examples:
        >>> note_turns("aabbc", n_given=3, noun="label map")[0].text
        '5 volumes of 3 label maps: 2 are used 2 times, 1 is used once'
    """
    counts = Counter(used)
    if not counts:
        return []
    several = plural or f"{noun}s"
    if max(counts.values()) == 1:
        left = n_given - len(counts)
        text = f"{len(counts)} of {n_given} {several} are used, one for each volume asked for"
        return [RequestNote(text=text, is_warning=False)] if left > 0 else []
    uses = Counter(counts.values())
    parts = [
        f"{n_of_them} {'is' if n_of_them == 1 else 'are'} used {'once' if times == 1 else f'{times} times'}"
        for times, n_of_them in sorted(uses.items(), reverse=True)
    ]
    shares = f"each is used {next(iter(uses))} times" if len(uses) == 1 else ", ".join(parts)
    what = f"{len(used)} volumes of {len(counts)} {noun if len(counts) == 1 else several}: {shares}"
    return [RequestNote(text=f"{what}; {advice}" if advice else what, is_warning=True)]


def note_missing(requests: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[RequestNote]:
    """Say which conditions of a model are not given and left at their null; label maps apart.

    Args:
        requests: as `GenerationDataset` gives them.
        names: the model's conditions.
    """
    missing = {
        name: sum(name not in request["conditions"] for request in requests)
        for name in names
        if name != "label_map"
    }
    parts = [
        name if count == len(requests) else f"{name} (for {count} of {len(requests)} volumes)"
        for name, count in missing.items()
        if count
    ]
    if not parts:
        return []
    text = f"not given, and left at what the model learned for an unknown value: {', '.join(parts)}"
    return [RequestNote(text=f"{text}; give them in conditions", is_warning=True)]


SPACING_TOLERANCE = 1.5
"""How many times finer or coarser than in training a label map may be without a remark."""
EXTENT_TOLERANCE = 1.1
"""How many times larger than the field of view of the training."""


def note_geometry(geometries: Sequence[Geometry], space: VolumeSpace) -> list[RequestNote]:
    """Say which label maps lie outside of what a model was trained on: it extrapolates there.

    Args:
        geometries: spacing and voxels of each label map, RAS+.
        space: of the model.
    """
    n_far = sum(
        any(
            max(own / edge, edge / own) > SPACING_TOLERANCE
            for own, edge in zip(spacing, space.spacing_mm, strict=True)
        )
        for spacing, _ in geometries
    )
    n_large = sum(
        any(
            edge * n > EXTENT_TOLERANCE * extent
            for edge, n, extent in zip(spacing, size, space.field_of_view_mm, strict=True)
        )
        for spacing, size in geometries
    )
    remarks = (
        (n_large, f"reach beyond the field of view of the training, {_join(space.field_of_view_mm)} mm"),
        (n_far, f"have another spacing than the training, {_join(space.spacing_mm)} mm, and are resampled"),
    )
    return [
        RequestNote(
            text=f"{count} of {len(geometries)} label maps {what}: the model was not trained there",
            is_warning=True,
        )
        for count, what in remarks
        if count
    ]


def _join(lengths: Sequence[float]) -> str:
    return " x ".join(f"{length:g}" for length in lengths)


def require_label_maps(
    requests: Sequence[Mapping[str, Any]], names: Sequence[str], *, unconditional: bool
) -> list[RequestNote]:
    """Refuse volumes without a label map from a model of label maps, and label maps for a model without.

    Args:
        requests: as `GenerationDataset` gives them.
        names: the model's conditions.
        unconditional: whether volumes without label maps are wanted.

    Returns:
        A remark where volumes come without label maps, as asked.

    Raises:
        ConfigError: naming both ways out.
    """
    n_given = sum("label" in request for request in requests)
    if "label_map" not in names:
        if n_given:
            raise ConfigError(
                f"{n_given} label maps are given and the model was trained without: leave out label_dir, or "
                "use a model of label maps"
            )
        return []
    if unconditional and n_given:
        raise ConfigError("unconditional is true and label maps are given: leave out one of them")
    if n_given == len(requests):
        return []
    if not unconditional:
        raise ConfigError(
            f"the model was trained on label maps, and {len(requests) - n_given} of {len(requests)} volumes "
            "have none: give a folder of them (label_dir, --label-dir), or ask for volumes without labels "
            "(unconditional: true, --unconditional)"
        )
    text = f"{len(requests)} volumes without label maps, as asked: the output is an unlabelled cohort"
    return [RequestNote(text=text, is_warning=False)]
