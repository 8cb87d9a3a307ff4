"""Read data sets of the Medical Segmentation Decathlon: a dataset.json that lists images and label maps.

Source: Antonelli et al., Nature Communications 2022; medicaldecathlon.com.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from medldm.data.issues import Issue
from medldm.data.layouts.channel_names import declared_channels
from medldm.data.layouts.label_names import schema_from_json
from medldm.data.layouts.names import file_stem
from medldm.data.layouts.records import Layout, Scan, StackedImage
from medldm.data.layouts.trees import passed_over, volumes_in, with_subjects
from medldm.transforms.raw_volume import VolumeNumber

NAME = "MSD"
DATASET_FILE = "dataset.json"


def read_msd(root: Path, content: Mapping[str, Any]) -> Layout:
    """Read the data set in `root`.

    Args:
        root: folder of dataset.json.
        content: of it, with the list "training" of {"image": ..., "label": ...}; "validation" and "test" may
            be absent. Several entries in "modality" are the volumes of each image's file, in order.
    """
    problems: list[Issue] = []
    schema, remarks = schema_from_json(content.get("labels"))
    problems += [Issue.warning("labels", DATASET_FILE, remark) for remark in remarks]
    channels = _channels_of(content, problems)
    entries = [(entry, place) for place in ("training", "validation") for entry in content.get(place, [])]
    entries += [
        ({"image": entry} if isinstance(entry, str) else entry, "test") for entry in content.get("test", [])
    ]
    listed = [_scan_of(entry, root, place, problems) for entry, place in entries]
    scans = [_with_channels(scan, channels) for scan in listed if scan is not None]
    layout = _finish(root, scans, schema, problems)
    if not channels:
        return layout
    said = f"its images hold {len(channels)} channels ({', '.join(channels)}) in one file"
    return replace(layout, channels=channels, needs_prepare=said)


def read_folders(root: Path) -> Layout:
    """Read imagesTr/ and labelsTr/ with the same file names where no dataset.json tells of them."""
    problems: list[Issue] = []
    scans = []
    for part in ("Tr", "Ts"):
        images = volumes_in(root / f"images{part}", root=root, problems=problems)
        labels = volumes_in(root / f"labels{part}", root=root, problems=problems)
        for stem in sorted(labels.keys() - images.keys()):
            message = f"it has no image of that name in images{part}/"
            problems.append(Issue.error("pair", f"labels{part}/{labels[stem].name}", message))
        scans += [
            Scan(name=stem, subject=stem, images={"": path}, label=labels.get(stem), is_test=part == "Ts")
            for stem, path in images.items()
        ]
    return _finish(root, scans, None, problems)


def _finish(root: Path, scans: list[Scan], schema: Any, problems: list[Issue]) -> Layout:
    scans = with_subjects(scans)
    problems += passed_over(root, scans, layout=NAME)
    return Layout(name=NAME, root=root, scans=tuple(scans), schema=schema, problems=tuple(problems))


def _scan_of(entry: Any, root: Path, place: str, problems: list[Issue]) -> Scan | None:
    """Return one listed case; files that are not there join the problems."""
    if not isinstance(entry, Mapping) or not isinstance(entry.get("image"), str):
        problems.append(Issue.error("layout", DATASET_FILE, f'an entry of "{place}" names no image'))
        return None
    files = {key: _path(root, entry[key]) for key in ("image", "label") if isinstance(entry.get(key), str)}
    missing = [path for path in files.values() if not path.is_file()]
    for path in missing:
        name = path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name
        problems.append(Issue.error("missing", name, f'"{place}" of {DATASET_FILE} lists it; restore it'))
    if missing:
        return None
    name = file_stem(files["image"])
    if "label" in files and file_stem(files["label"]) != name:
        message = f"{DATASET_FILE} gives it a label map of another name; make them agree"
        problems.append(Issue.error("pair", files["image"].name, message))
        return None
    return Scan(
        name=name,
        subject=name,
        images={"": files["image"]},
        label=files.get("label"),
        split="validation" if place == "validation" else None,
        is_test=place == "test",
    )


def _channels_of(content: Mapping[str, Any], problems: list[Issue]) -> tuple[str, ...]:
    """Return the names of the channels that are the fourth axis of each image; () for images of one."""
    modality = content.get("channel_names", content.get("modality"))
    if not isinstance(modality, Mapping | list) or len(modality) < 2:
        return ()
    declared = declared_channels(content, file=DATASET_FILE, problems=problems)
    return tuple((declared or {}).values())


def _with_channels(scan: Scan, channels: Sequence[str]) -> Scan:
    """Take the image of a scan for the channels, one volume each."""
    if not channels:
        return scan
    (file,) = scan.image_files
    volumes = [VolumeNumber(index, len(channels)) for index in range(len(channels))]
    stacked = {
        name: StackedImage(file=file, volume=volume) for name, volume in zip(channels, volumes, strict=True)
    }
    return replace(scan, images=stacked)


def _path(root: Path, text: str) -> Path:
    return root / text.removeprefix("./")
