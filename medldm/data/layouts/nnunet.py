"""Read nnU-Net's raw data sets: imagesTr/<case>_<channel>, labelsTr/<case>, imagesTs, dataset.json.

Source: nnU-Net v2, documentation/dataset_format.md; v1, documentation/dataset_conversion.md.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medldm.data.issues import Issue
from medldm.data.layouts.channel_names import declared_channels
from medldm.data.layouts.label_names import schema_from_json
from medldm.data.layouts.names import channel_number
from medldm.data.layouts.records import Layout, Scan
from medldm.data.layouts.trees import passed_over, volumes_in, with_subjects
from medldm.transforms.readers import VOLUME_SUFFIXES

NAME = "nnU-Net"
DATASET_FILE = "dataset.json"


def is_nnunet(root: Path) -> bool:
    """Tell the layout by its images: imagesTr/<case>_0000."""
    folder = root / "imagesTr"
    return bool(
        folder.is_dir()
        and any(channel_number(stem)[1] for stem in volumes_in(folder, root=root, problems=[]))
    )


def read_nnunet(root: Path, content: Mapping[str, Any]) -> Layout:
    """Read the data set in `root`.

    Args:
        root: holds imagesTr/ and labelsTr/ and, if wanted, imagesTs/ and labelsTs/.
        content: of dataset.json.
    """
    problems: list[Issue] = []
    schema, remarks = schema_from_json(content.get("labels"))
    problems += [Issue.warning("labels", DATASET_FILE, remark) for remark in remarks]
    ending = content.get("file_ending", ".nii.gz")
    if ending not in VOLUME_SUFFIXES:
        message = f"its file_ending is {ending!r}; {', '.join(VOLUME_SUFFIXES)} are read; convert the files"
        problems.append(Issue.error("layout", DATASET_FILE, message))
    names = _channel_names(content, problems)
    scans = []
    for part in ("Tr", "Ts"):
        scans += _read_part(root, part, names, problems)
    scans = with_subjects(scans)
    return Layout(
        name=NAME,
        root=root,
        scans=tuple(scans),
        schema=schema,
        channels=tuple(names.values()) if len(names) > 1 else (),
        problems=tuple(problems + passed_over(root, scans, layout=NAME)),
    )


def _channel_names(content: Mapping[str, Any], problems: list[Issue]) -> dict[str, str]:
    """Return "0000" -> name, in order."""
    declared = declared_channels(content, file=DATASET_FILE, problems=problems)
    return {f"{number:04d}": name for number, name in (declared or {0: ""}).items()}


def _read_part(root: Path, part: str, names: Mapping[str, str], problems: list[Issue]) -> list[Scan]:
    """Read the training cases ("Tr") or the test cases ("Ts")."""
    images = volumes_in(root / f"images{part}", root=root, problems=problems)
    labels = volumes_in(root / f"labels{part}", root=root, problems=problems)
    cases: dict[str, dict[str, Path]] = defaultdict(dict)
    for stem, path in images.items():
        case, number = channel_number(stem)
        if number in names:
            cases[case][number] = path
        else:
            found = f"the channel {number}" if number else "no channel such as _0000"
            message = f"its name has {found}; {DATASET_FILE} names {', '.join(names)}"
            problems.append(Issue.error("channel", path.relative_to(root).as_posix(), message))
    for stem in sorted(labels.keys() - cases.keys()):
        message = f"it has no image of that name in images{part}/"
        problems.append(Issue.error("pair", f"labels{part}/{labels[stem].name}", message))
    return [
        Scan(
            name=case,
            subject=case,
            images={
                names[number] if len(names) > 1 else "": files[number] for number in names if number in files
            },
            label=labels.get(case),
            is_test=part == "Ts",
        )
        for case, files in sorted(cases.items())
    ]
