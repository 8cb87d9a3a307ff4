"""Write a data set in the layout of the Medical Segmentation Decathlon.

Source: Antonelli et al., Nature Communications 2022; dataset.json of its tasks, and MONAI's
`load_decathlon_datalist`, which also reads the list "validation".
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medldm.data.export.cases import ExportCase, ExportSet
from medldm.data.export.files import place_image, place_label
from medldm.data.export.nnunet import describe_origin, is_for_training, leak_notes, require_labels
from medldm.data.export.options import ExportOptions
from medldm.data.export.stacks import place_stack
from medldm.data.preparation.files import write_json

SUFFIX = ".nii.gz"


def check_msd(cases: ExportSet, _: Path, __: ExportOptions) -> None:
    """Refuse what the layout cannot hold, before anything is written; see `require_labels`."""
    require_labels(cases, "MSD")


def write_msd(cases: ExportSet, folder: Path, options: ExportOptions) -> list[str]:
    """Write imagesTr, labelsTr, imagesTs, labelsTs and dataset.json.

    Several channels are the fourth axis of one file.

    Returns:
        What is worth saying.
    """
    for case in cases.cases:
        target = folder / _image_file(case)
        if len(case.images) > 1:
            place_stack(case.images, target)
        else:
            place_image(case.images[0], target, link=options.link)
        if case.label is not None:
            place_label(case.label, folder / _label_file(case), link=options.link, affine=case.affine)
    content = _describe(cases, options)
    write_json(folder / "dataset.json", content)
    notes = leak_notes(cases)
    if n_bare := sum(case.label is None for case in cases.cases):
        notes.append(f'{n_bare} real cases without label map are listed under "test"')
    if n_test := content["numTest"] - n_bare:
        notes.append(f'{n_test} real cases are held out under "test"')
    if content["validation"]:
        notes.append(f'{len(content["validation"])} real cases are held out under "validation"')
    return notes


def _describe(cases: ExportSet, options: ExportOptions) -> dict[str, Any]:
    labelled = [case for case in cases.cases if case.label is not None]
    training = [_entry(case) for case in labelled if is_for_training(case, cases)]
    tests = [case for case in cases.cases if case.part == "Ts"]
    has_labels = any(case.label is not None for case in tests)
    test = [_entry(case) if has_labels else f"./{_image_file(case)}" for case in tests]
    names = {} if cases.schema is None else cases.schema.structures
    return {
        "name": options.name,
        "description": describe_origin(cases),
        "reference": "",
        "licence": "",
        "release": "",
        "tensorImageSize": "4D" if len(cases.channel_names) > 1 else "3D",
        "modality": {str(number): name for number, name in enumerate(cases.channel_names)},
        "labels": {"0": "background"} | {str(value): name for value, name in names.items()},
        "numTraining": len(training),
        "numTest": len(test),
        "training": training,
        "validation": [_entry(case) for case in labelled if case.split == "validation"],
        "test": test,
        "synthetic": [case.id for case in cases.synthetic],
    }


def _image_file(case: ExportCase) -> str:
    return f"images{case.part}/{case.id}{SUFFIX}"


def _label_file(case: ExportCase) -> str:
    return f"labels{case.part}/{case.id}{SUFFIX}"


def _entry(case: ExportCase) -> dict[str, str]:
    entry = {"image": f"./{_image_file(case)}"}
    return entry if case.label is None else entry | {"label": f"./{_label_file(case)}"}
