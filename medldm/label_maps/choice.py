"""Which label maps to condition on: given ones, those of a cohort, or new ones from a model of label maps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medldm.data.cohort import read_cohort
from medldm.errors import ConfigError
from medldm.generation.requests import list_label_maps
from medldm.label_maps.generation import generate_paired_label_maps
from medldm.latent_diffusion.model import LatentDiffusionModel
from medldm.sampling.config import SamplingConfig

SYNTHETIC = "synthetic"
DRAWN_FOLDER = "drawn_labels"


def choose_label_maps(
    model: LatentDiffusionModel,
    *,
    label_dir: str | None,
    dataset_dir: str,
    validation_fraction: float,
    split_seed: int,
    labels: str | None = None,
    drawing: Mapping[str, Any] | None = None,
) -> list[str] | None:
    """Return the label maps to condition on.

    Args:
        model: that makes the images.
        label_dir: a folder of label maps.
        dataset_dir: the cohort whose validation cases give the maps where no folder is given.
        validation_fraction: of that cohort.
        split_seed: of that cohort.
        labels: "synthetic" draws new maps instead.
        drawing: for "synthetic", the arguments of `draw_for_images`.

    Returns:
        Files, or None for a model without that condition.

    Raises:
        ConfigError: if `labels` is none of the choices, or both it and a folder are given.
    """
    if labels not in (None, SYNTHETIC):
        raise ConfigError(f"labels is {labels!r}: choose {SYNTHETIC!r}, or give a folder as label_dir")
    if "label_map" not in model.conditioning_config.conditioning_type:
        return None
    if labels == SYNTHETIC:
        if label_dir is not None:
            raise ConfigError("labels is 'synthetic', and label_dir is given: give one of them")
        return draw_for_images(model, **(drawing or {}))
    if label_dir is not None:
        return list_label_maps(label_dir)
    channels = None if model.space is None else model.space.channels or None
    cohort = read_cohort(
        dataset_dir,
        validation_fraction=validation_fraction,
        seed=split_seed,
        require_labels=False,
        channels=channels,
        drop_incomplete=True,
    )
    return [case["label"] for case in cohort.validation if "label" in case]


def draw_for_images(
    model: LatentDiffusionModel,
    *,
    checkpoint: str | Path | None,
    output_dir: str | Path,
    num_samples: int | None,
    seed: int = 0,
    **options: Any,
) -> list[str]:
    """Draw a new label map for each image to come.

    Args:
        model: that makes the images; its structures must be those of the maps.
        checkpoint: of the second stage of labelmap_ldm.
        output_dir: of the images; the maps come to "drawn_labels" in it.
        num_samples: images to come.
        seed: of the images; the maps' is derived from it.
        options: first_index, conditions, overwrite and device of `generate_label_maps`.

    Returns:
        Files in the order in which `GenerationDataset` takes them.

    Raises:
        ConfigError: if no checkpoint is given, or no number of samples.
        CheckpointError: if the checkpoint is not of a model of label maps with these structures.
    """
    if checkpoint is None or not num_samples:
        raise ConfigError("labels 'synthetic' needs labelmap_checkpoint and num_samples: give both")
    return generate_paired_label_maps(
        checkpoint,
        Path(output_dir) / DRAWN_FOLDER,
        structures=model.conditioning_config.structures,
        num_samples=num_samples,
        sampling=SamplingConfig(seed=seed),
        **options,
    )
