"""Read data sets of the Medical Segmentation Decathlon: a dataset.json that lists images and label maps.

Source: Antonelli et al., Nature Communications 2022; medicaldecathlon.com.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medldm.data.issues import Issue
from medldm.data.layouts.label_names import schema_from_json
from medldm.data.layouts.names import file_stem
from medldm.data.layouts.records import Layout, Scan
from medldm.data.layouts.trees import passed_over, volumes_in, with_subjects

NAME = "MSD"
DATASET_FILE = "dataset.json"


def read_msd(root: Path, content: Mapping[str, Any]) -> Layout:
    """Read the data set in `root`.

    Args:
        root: folder of dataset.json.
        content: of it, with the list "training" of {"image": ..., "label": ...}; "validation" and "test" may
            be absent.
    """
    problems: list[Issue] = []
    schema, remarks = schema_from_json(content.get("labels"))
    problems += [Issue.warning("labels", DATASET_FILE, remark) for remark in remarks]
    modalities = content.get("modality")
    if isinstance(modalities, Mapping) and len(modalities) > 1:
        names = ", ".join(str(name) for name in modalities.values())
        message = (
            f"its images hold {len(modalities)} channels ({names}) in one file; store each channel in its "
            "own file, as nnU-Net does (<case>_0000, <case>_0001)"
        )
        problems.append(Issue.error("channel", DATASET_FILE, message))
        return Layout(name=NAME, root=root, scans=(), schema=schema, problems=tuple(problems))
    entries = [(entry, place) for place in ("training", "validation") for entry in content.get(place, [])]
    entries += [
        ({"image": entry} if isinstance(entry, str) else entry, "test") for entry in content.get("test", [])
    ]
    scans = [_scan_of(entry, root, place, problems) for entry, place in entries]
    return _finish(root, [scan for scan in scans if scan is not None], schema, problems)


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


def _listed(entry: Any) -> Any:
    """Return an entry of "test", which may be a path alone."""
    return {"image": entry} if isinstance(entry, str) else entry


def _path(root: Path, text: str) -> Path:
    return root / text.removeprefix("./")
