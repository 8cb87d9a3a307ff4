"""The volumes that a checkpoint was trained on, beside those of a training that starts from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from medldm.data.cohort import Cohort
from medldm.data.labels import LabelSchema
from medldm.errors import CheckpointError, ConfigError
from medldm.latent_diffusion.checkpoints import SCHEMA_KEY
from medldm.latent_diffusion.recorded_split import require_held_out, split_in
from medldm.latent_diffusion.volume_space import VolumeSpace
from medldm.training.warm_start.checkpoint import StartCheckpoint
from medldm.training.warm_start.matching import match_names

BACKGROUND = "background"


def space_in(checkpoint: StartCheckpoint) -> VolumeSpace | None:
    """Return the space in a checkpoint's card, None for one without."""
    described = checkpoint.card.get("space")
    try:
        return None if described is None else VolumeSpace.from_dict(described)
    except (ConfigError, TypeError) as error:
        raise CheckpointError(f"the card of {checkpoint.path} does not describe a space: {error}") from error


def schema_in(checkpoint: StartCheckpoint) -> LabelSchema | None:
    """Return the structures of a checkpoint of label maps, None for one of images."""
    described = checkpoint.card.get(SCHEMA_KEY)
    return None if described is None else LabelSchema.from_dict(described)


def require_same_kind(checkpoint: StartCheckpoint, *, makes_label_maps: bool) -> None:
    """Refuse a model of label maps for images, and the reverse.

    Raises:
        ConfigError: saying which is which.
    """
    is_of_maps = schema_in(checkpoint) is not None
    if is_of_maps != makes_label_maps:
        words = {True: "label maps", False: "images"}
        raise ConfigError(
            f"start_from is {checkpoint.path}, a model of {words[is_of_maps]}, but this training is of "
            f"{words[makes_label_maps]}: give a model of {words[makes_label_maps]}"
        )


def require_unseen(checkpoint: StartCheckpoint, cohort: Cohort | None) -> None:
    """Refuse a checkpoint that was trained on cases that are held out here.

    Raises:
        ConfigError: saying how its training split the cohort.
    """
    if cohort is not None:
        require_held_out(split_in(checkpoint.card), cohort, what="the model of start_from")


def names_of_channels(channels: Sequence[str], schema: LabelSchema | None) -> tuple[str, ...]:
    """Return the names of a network's channels: contrasts, or the background and the structures."""
    if schema is not None:
        return (BACKGROUND, *schema.names)
    return tuple(channels) or ("image",)


def match_channels(new: Sequence[str], old: Sequence[str], table: Mapping[str, str]) -> list[int | None]:
    """Return for each channel the old one that it is taken from; one of one channel is its only one."""
    if len(new) == len(old) == 1:
        return [0]
    return match_names(new, old, table)


def require_same_intensity(
    checkpoint: StartCheckpoint,
    kinds: Mapping[str, str],
    *,
    channels: Sequence[str],
    sources: Sequence[int | None],
) -> list[str]:
    """Refuse weights of another kind of image, unless the user allows it.

    Args:
        checkpoint: whose card says what it was trained on.
        kinds: channel to the kind of its intensity mapping.
        channels: names, in the order of `sources`.
        sources: place of the checkpoint's channel for each.

    Returns:
        What is different and was allowed, for the log.

    Raises:
        ConfigError: naming both kinds.
    """
    space = space_in(checkpoint)
    if space is None:
        return []
    former = [mapping.kind for mapping in space.intensities]
    differing = [
        f"{kinds[name]} of {name} here and {former[source]} in the checkpoint"
        for name, source in zip(channels, sources, strict=True)
        if source is not None and source < len(former) and kinds.get(name, former[source]) != former[source]
    ]
    if differing and not checkpoint.allow_other_intensity:
        raise ConfigError(
            f"start_from is {checkpoint.path}, trained on other intensities ({'; '.join(differing)}): "
            "weights of MR say nothing of Hounsfield units; give a checkpoint of the same kind of image, or "
            "set "
            "allow_other_intensity: true to take them all the same"
        )
    return [f"intensity: {each}, allowed" for each in differing]


def word_space(checkpoint: StartCheckpoint, *, spacing_mm: Sequence[float]) -> list[str]:
    """Say where the grid of the volumes differs: weights of convolutions are kept on any grid."""
    space = space_in(checkpoint)
    if space is None or all(abs(a - b) < 1e-6 for a, b in zip(space.spacing_mm, spacing_mm, strict=True)):
        return []
    return [
        f"spacing: {list(spacing_mm)} mm here and {list(space.spacing_mm)} mm in the checkpoint; the weights "
        "are kept, structures have another size in voxels"
    ]


def describe_kinds(intensity: Any, channels: Sequence[str]) -> dict[str, str]:
    """Return channel to kind of the mapping, from what `measure_space` is told."""
    is_one = isinstance(intensity, str) or ("kind" in intensity and "kind" not in channels)
    wanted = dict.fromkeys(channels, intensity) if is_one else dict(intensity)
    return {
        name: str(each["kind"] if isinstance(each, Mapping) and "kind" in each else each)
        for name, each in wanted.items()
    }
