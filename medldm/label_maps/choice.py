"""Which label maps to condition on: given ones, those of a cohort, or new ones from a model of label maps."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medldm.configs import read_switch
from medldm.data.cohort import Cohort, count_unlabelled
from medldm.data.partly_labelled import STRUCTURES_IN_MAP
from medldm.errors import ConfigError
from medldm.files import require_writable
from medldm.generation.listed_maps import ListedMap
from medldm.generation.requests import list_label_maps
from medldm.label_maps.generation import generate_paired_label_maps
from medldm.latent_diffusion.model import LatentDiffusionModel
from medldm.latent_diffusion.recorded_split import read_as_trained
from medldm.sampling.config import SamplingConfig

logger = logging.getLogger(__name__)

SYNTHETIC, TRAINING = "synthetic", "training"
DRAWN_FOLDER = "drawn_labels"


def choose_label_maps(
    model: LatentDiffusionModel,
    *,
    label_dir: str | None,
    dataset_dir: str,
    validation_fraction: float,
    split_seed: int,
    test_fraction: float = 0.0,
    checkpoint: str | Path | None = None,
    labels: str | None = None,
    unconditional: bool = False,
    drawing: Mapping[str, Any] | None = None,
) -> Sequence[str | ListedMap] | None:
    """Return the label maps to condition on.

    Args:
        model: that makes the images.
        label_dir: a folder of label maps.
        dataset_dir: the cohort whose test cases give the maps where no folder is given; its validation cases
            where it has no test case with a label map.
        validation_fraction: of that cohort, where the model does not say how its training split it.
        split_seed: the same.
        test_fraction: the same.
        checkpoint: of the model, whose split is taken.
        labels: "synthetic" draws new maps instead; "training" takes those of the cohort's training cases.
        unconditional: take none, for volumes without labels.
        drawing: for "synthetic", the arguments of `draw_for_images`.

    Returns:
        Files, with the structures that they cover where the cohort says it; None for a model without that
        condition.

    Raises:
        ConfigError: if `labels` is none of the choices, more than one choice is made, the model has no such
            condition, or the cohort's cases have no label maps.
    """
    _check_choice(labels, label_dir=label_dir, unconditional=unconditional, drawing=drawing or {})
    if "label_map" not in model.conditioning_config.conditioning_type:
        if labels or label_dir:
            raise ConfigError(
                f"{'labels' if labels else 'label_dir'} is set, but the model was trained without label "
                "maps: leave it out"
            )
        return None
    if read_switch(unconditional, name="unconditional"):
        return None
    if labels == SYNTHETIC:
        return draw_for_images(model, **(drawing or {}))
    if label_dir is not None:
        return list_label_maps(label_dir)
    cohort = read_as_trained(
        dataset_dir,
        checkpoint=checkpoint,
        validation_fraction=validation_fraction,
        test_fraction=test_fraction,
        seed=split_seed,
        require_labels=False,
        channels=None if model.space is None else model.space.channels or None,
        drop_incomplete=True,
    )
    return _maps_of_cohort(cohort, is_training=labels == TRAINING)


def _check_choice(
    labels: str | None, *, label_dir: str | None, unconditional: bool, drawing: Mapping[str, Any]
) -> None:
    """Refuse an unknown choice, two at a time, and what belongs to a choice that was not made."""
    if labels not in (None, SYNTHETIC, TRAINING):
        raise ConfigError(
            f"labels is {labels!r}: choose {SYNTHETIC!r} or {TRAINING!r}, or give a folder as label_dir"
        )
    is_unconditional = read_switch(unconditional, name="unconditional")
    chosen = {"labels": labels, "label_dir": label_dir, "unconditional": is_unconditional or None}
    given = [f"{name} is {value!r}" for name, value in chosen.items() if value is not None]
    if len(given) > 1:
        raise ConfigError(f"{' and '.join(given)}: these exclude each other, give one of them")
    drawn = {"checkpoint": "labelmap_checkpoint", "conditions": "labelmap_conditions"}
    unused = [name for key, name in drawn.items() if drawing.get(key) is not None]
    if unused and labels != SYNTHETIC:
        raise ConfigError(f"{' and '.join(unused)}: no maps are drawn, set labels to {SYNTHETIC!r}")


def _maps_of_cohort(cohort: Cohort, *, is_training: bool) -> list[str | ListedMap]:
    """Return the label maps of the held-out or the training cases, and say which have none."""
    name = (
        "training"
        if is_training
        else "test"
        if count_unlabelled(cohort.test) < len(cohort.test)
        else "validation"
    )
    cases = cohort.splits[name]
    structures = {} if cohort.schema is None else dict(cohort.schema.structures)
    files: list[str | ListedMap] = [
        ListedMap.of_case(case, structures) if STRUCTURES_IN_MAP in case else case["label"]
        for case in cases
        if "label" in case
    ]
    if not files:
        raise ConfigError(
            f"the cohort has {len(cases)} {name} cases, none with a label map: give label_dir, set labels to "
            f"{SYNTHETIC!r} or {TRAINING!r}, raise validation_fraction as in training, or set unconditional"
        )
    if len(files) < len(cases):
        logger.warning("%d of %d %s cases have no label map", len(cases) - len(files), len(cases), name)
    if is_training:
        logger.warning(
            "the volumes are made from %d label maps of training cases: they show the anatomy of people the "
            "model was trained on",
            len(files),
        )
    return files


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
    require_writable(output_dir, parts=(DRAWN_FOLDER,))
    return generate_paired_label_maps(
        checkpoint,
        Path(output_dir) / DRAWN_FOLDER,
        structures=model.conditioning_config.structures,
        may_lack=model.conditioning_config.partly_labelled,
        num_samples=num_samples,
        sampling=SamplingConfig(seed=seed),
        **options,
    )
