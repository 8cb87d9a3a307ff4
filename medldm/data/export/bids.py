"""Write a BIDS data set: real images, their label maps and all synthetic volumes as derivatives.

Source: Brain Imaging Data Structure 1.10; Gorgolewski et al., Scientific Data 2016.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from medldm.data.export.bids_names import BidsName, ChannelName, channel_names, name_cases
from medldm.data.export.cases import ExportCase, ExportSet
from medldm.data.export.files import place_image, place_label
from medldm.data.export.nnunet import describe_origin
from medldm.data.export.options import ExportOptions
from medldm.data.export.structures import hex_colour
from medldm.data.labels import LabelSchema
from medldm.data.preparation.files import write_json
from medldm.files import write_atomically
from medldm.version import __version__

BIDS_VERSION = "1.10.0"
LABELS = "derivatives/labels"
SYNTHETIC = "derivatives/synthetic"
_COLUMN = re.compile(r"[^A-Za-z0-9_]+")


def check_bids(cases: ExportSet, _: Path, options: ExportOptions) -> None:
    """Refuse subjects and channels that cannot be named, before anything is written.

    Raises:
        ConfigError: where two subjects come to have one name, or for an unknown channel in `suffixes`.
    """
    name_cases(cases.cases)
    channel_names(cases, options)


def write_bids(cases: ExportSet, folder: Path, options: ExportOptions) -> list[str]:
    """Write the data set, and a derivative one each for label maps and for synthetic volumes.

    Without real cases the output itself is the derivative data set.

    Returns:
        What is worth saying.
    """
    channels, names = channel_names(cases, options), name_cases(cases.cases)
    synthetic = folder / SYNTHETIC if cases.real else folder
    for case in cases.cases:
        name = names[case.id]
        images = synthetic if case.is_synthetic else folder
        description = "synthetic" if case.is_synthetic else ""
        for image, channel in zip(case.images, channels, strict=True):
            target = images / name.file(channel.suffix, channel, description=description)
            place_image(image, target, link=options.link)
            if case.is_synthetic:
                write_json(_beside(target), _describe_volume(case))
        if case.label is not None:
            labels = synthetic if case.is_synthetic else folder / LABELS
            target = labels / name.file("dseg", description=description)
            place_label(case.label, target, link=options.link, affine=case.affine)
            if case.is_synthetic:
                write_json(_beside(target), {"Manual": False})
    _write_data_sets(cases, folder, synthetic, names=names, channels=channels, options=options)
    return _notes(cases, names, channels)


def _beside(target: Path) -> Path:
    return target.with_name(target.name.removesuffix(".nii.gz") + ".json")


def _describe_volume(case: ExportCase) -> dict[str, Any]:
    return {
        "Description": "synthetic volume, drawn from a generative model; it shows no person",
        "SkullStripped": False,
        "SyntheticData": True,
        "Sampling": dict(case.sidecar),
    }


def _write_data_sets(
    cases: ExportSet,
    folder: Path,
    synthetic: Path,
    *,
    names: Mapping[str, BidsName],
    channels: Sequence[ChannelName],
    options: ExportOptions,
) -> None:
    made_by = {"GeneratedBy": [{"Name": "medldm", "Version": __version__}]}
    title = {"Name": options.name, "BIDSVersion": BIDS_VERSION}
    derived = {"DatasetType": "derivative", **made_by}
    ignored = ["export.json", "labels.json", *sorted({each.ignored for each in channels} - {""})]
    if cases.real:
        _write_root(folder, {**title, "DatasetType": "raw"}, describe_origin(cases), ignored=ignored)
        _write_participants(folder, cases.real, names)
    if any(case.label is not None for case in cases.real):
        about = {**title, "Name": f"{options.name}: label maps", **derived}
        _write_root(folder / LABELS, about, "label maps of the real cases", ignored=ignored)
        _write_structures(folder / LABELS, cases.schema)
    if cases.synthetic:
        about = {**title, "Name": f"{options.name}: synthetic volumes", **derived}
        _write_root(
            synthetic, about, "synthetic volumes, drawn from a generative model: no person", ignored=ignored
        )
        _write_participants(synthetic, cases.synthetic, names)
        _write_structures(synthetic, cases.schema)


def _write_root(folder: Path, about: Mapping[str, Any], text: str, *, ignored: Sequence[str]) -> None:
    write_json(folder / "dataset_description.json", about)
    write_atomically(folder / "README.md", f"# {about['Name']}\n\nContents: {text}.\n".encode())
    write_atomically(folder / ".bidsignore", "".join(f"{line}\n" for line in ignored).encode())


def _write_structures(folder: Path, schema: LabelSchema | None) -> None:
    """Write index, name and colour of each structure, by BIDS' principle of inheritance once for all maps."""
    if schema is not None:
        rows = [[str(value), name, hex_colour(schema, value)] for value, name in schema.structures.items()]
        background = ["0", "background", "#000000"]
        _write_table(folder / "dseg.tsv", ["index", "name", "color"], [background, *rows])


def _write_participants(folder: Path, cases: Sequence[ExportCase], names: Mapping[str, BidsName]) -> None:
    """Write a row for each subject; a condition is a column where all cases of a subject agree on it."""
    rows: dict[str, dict[str, str]] = {}
    for case in cases:
        found = {"subject": case.subject, "split": case.split} | _conditions(case)
        row = rows.setdefault(f"sub-{names[case.id].subject}", found)
        for key in row.keys() | found.keys():
            if row.get(key) != found.get(key):
                row[key] = "n/a"
    columns = list(dict.fromkeys(key for row in rows.values() for key in row))
    lines = [[name, *(row.get(key, "n/a") for key in columns)] for name, row in sorted(rows.items())]
    _write_table(folder / "participants.tsv", ["participant_id", *columns], lines)
    described = {
        "subject": "subject in the cohort",
        "split": "list of the cohort: training, validation or test",
    }
    texts = {key: {"Description": described.get(key, f"condition {key} of the cohort")} for key in columns}
    write_json(folder / "participants.json", texts)


def _conditions(case: ExportCase) -> dict[str, str]:
    values: dict[str, Any] = {key: case.entry[key] for key in ("class", "text") if key in case.entry}
    values |= {**case.entry.get("classes", {}), **case.entry.get("scalars", {})}
    plain = {_COLUMN.sub("_", str(key)): " ".join(str(value).split()) for key, value in values.items()}
    return {
        ("condition_" + key if key in ("subject", "split") else key): value for key, value in plain.items()
    }


def _write_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    lines = [columns, *([" ".join(cell.split()) or "n/a" for cell in row] for row in rows)]
    write_atomically(path, "".join("\t".join(line) + "\n" for line in lines).encode())


def _notes(cases: ExportSet, names: Mapping[str, BidsName], channels: Sequence[ChannelName]) -> list[str]:
    notes = [
        f"BIDS has no suffix for {channel.channel or 'images of an unknown contrast'}: their files end in "
        f"_{channel.suffix}, and .bidsignore names them; --suffix names the contrast, such as T1w"
        for channel in channels
        if channel.ignored
    ]
    renamed = sum(names[case.id].subject != case.subject.removeprefix("sub-") for case in cases.cases)
    if renamed:
        notes.append(
            f"{renamed} subjects have names of letters and digits alone; participants.tsv holds both"
        )
    counted = Counter(names[case.id].subject for case in cases.cases)
    if several := sum(count > 1 for count in counted.values()):
        notes.append(f"{several} subjects have several cases: their files are told apart by run-<n>")
    return notes
