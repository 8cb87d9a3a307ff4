"""Write an nnU-Net data set, as version 2 of nnU-Net reads it.

Source: documentation/dataset_format.md and manual_data_splits.md of nnU-Net 2.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import numpy as np

from medldm.data.export.cases import ExportCase, ExportSet
from medldm.data.export.files import place_image, place_label
from medldm.data.export.options import ExportOptions
from medldm.data.export.structures import consecutive_values, has_consecutive_values
from medldm.data.labels import LabelSchema
from medldm.data.preparation.files import write_json
from medldm.errors import ConfigError

logger = logging.getLogger(__name__)

SUFFIX = ".nii.gz"
N_FOLDS = 5
_FOLDER = re.compile(r"Dataset\d{3}_.+")
_RESERVED = ("background", "ignore")
_ORTHOGONAL = 1e-6


def check_nnunet(cases: ExportSet, output: Path, _: ExportOptions) -> None:
    """Refuse what nnU-Net cannot hold, before anything is written.

    Raises:
        ConfigError: without label maps, for synthetic cases without one, for a name that nnU-Net reserves.
    """
    schema = require_labels(cases, "nnU-Net")
    if taken := [name for name in schema.names if name.lower() in _RESERVED]:
        raise ConfigError(
            f"a structure is named {taken[0]!r}, which means something else in nnU-Net: rename it"
        )
    if not _FOLDER.fullmatch(output.name):
        logger.info(
            "nnU-Net looks for folders such as Dataset042_Hippocampus in nnUNet_raw; rename %s", output.name
        )


def require_labels(cases: ExportSet, layout: str) -> LabelSchema:
    """Return the structures of cases to train on.

    Raises:
        ConfigError: without any, or for synthetic cases without label map: as images of a test set, where
            unlabelled cases belong, they would pass for real ones.
    """
    if cases.schema is None or all(case.label is None for case in cases.cases):
        raise ConfigError(
            f"no case has a label map, and {layout} is a layout to train on them; add label maps"
        )
    if bare := [case for case in cases.synthetic if case.label is None]:
        raise ConfigError(
            f"{len(bare)} synthetic cases have no label map, such as {bare[0].id}: {layout} would list them "
            "as test images, among real ones; export them with --format slicer, bids or dicom"
        )
    return cases.schema


def write_nnunet(cases: ExportSet, folder: Path, options: ExportOptions) -> list[str]:
    """Write imagesTr, labelsTr, imagesTs, labelsTs, dataset.json and splits_final.json.

    Returns:
        What is worth saying.
    """
    schema = require_labels(cases, "nnU-Net")
    is_plain = has_consecutive_values(schema)
    mapping = None if is_plain else consecutive_values(schema)
    labelled = [case for case in cases.cases if case.label is not None]
    for case in cases.cases:
        images = folder / f"images{case.part}"
        for number, image in enumerate(case.images):
            place_image(image, images / f"{case.id}_{number:04d}{SUFFIX}", link=options.link)
        if case.label is not None:
            place_label(
                case.label,
                folder / f"labels{case.part}" / f"{case.id}{SUFFIX}",
                link=options.link,
                affine=case.affine,
                mapping=mapping,
            )
    content = _describe(cases, schema, options, n_training=sum(c.part == "Tr" for c in labelled))
    write_json(folder / "dataset.json", content)
    split = {
        "train": [case.id for case in labelled if is_for_training(case, cases)],
        "val": [case.id for case in labelled if case.split == "validation"],
    }
    write_json(folder / "splits_final.json", [split] * N_FOLDS)
    notes = [
        f"splits_final.json: {len(split['train'])} cases to train on, {len(split['val'])} real ones to "
        "validate on, the same in each fold; copy it into the data set's folder of nnUNet_preprocessed",
        *leak_notes(cases),
    ]
    if not split["val"]:
        notes.append("no real case is held out for validation: train with the fold all")
    if not is_plain:
        notes.append(
            "label values became 1 to K, as nnU-Net asks; export.json holds the values of the cohort"
        )
    if n_test := sum(case.split == "test" for case in labelled):
        notes.append(f"{n_test} real cases are held out as a test set, in imagesTs and labelsTs")
    if n_bare := len(cases.cases) - len(labelled):
        notes.append(f"{n_bare} real cases without label map are in imagesTs")
    return notes


def is_for_training(case: ExportCase, cases: ExportSet) -> bool:
    """Tell whether a case may be trained on where the real validation and test cases are held out."""
    return case.split == "training" and case.id not in cases.leaking()


def leak_notes(cases: ExportSet) -> list[str]:
    """Say which synthetic cases are held back, because they stand on the label map of a held-out case."""
    leaking = cases.leaking()
    if not leaking:
        return []
    return [
        f"{len(leaking)} synthetic cases, such as {min(leaking)}, stand on label maps of held-out cases: "
        "they are in no list of the split"
    ]


def _describe(
    cases: ExportSet, schema: LabelSchema, options: ExportOptions, *, n_training: int
) -> dict[str, Any]:
    content: dict[str, Any] = {
        "channel_names": {str(number): name for number, name in enumerate(cases.channel_names)},
        "labels": {"background": 0} | {name: number for number, name in enumerate(schema.names, start=1)},
        "numTraining": n_training,
        "file_ending": SUFFIX,
        "name": options.name,
        "description": describe_origin(cases),
        "synthetic": [case.id for case in cases.synthetic],
    }
    if any(_is_sheared(case.affine) for case in cases.cases):
        # SimpleITK, nnU-Net's choice for NIfTI, refuses axes that are not orthogonal.
        content["overwrite_image_reader_writer"] = "NibabelIO"
    return content


def describe_origin(cases: ExportSet) -> str:
    """Say how many cases are real and how many a model made."""
    text = f"{len(cases.real)} real cases, {len(cases.synthetic)} synthetic cases"
    return f"{text}; synthetic ones are listed and named synthetic_..." if cases.synthetic else text


def _is_sheared(affine: np.ndarray) -> bool:
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return bool(np.abs(axes.T @ axes - np.eye(3)).max() > _ORTHOGONAL)
