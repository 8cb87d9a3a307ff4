"""Write inside the output folder only, whole or not at all, and remember what was made from what."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from medldm.errors import MedldmError
from medldm.files import remove_leftovers, write_atomically
from medldm.runtime.json_files import read_json

RECORDS = ".prepare"


class OutputError(MedldmError, ValueError):
    """Report an output folder in which nothing can be written safely."""


@dataclass(frozen=True, kw_only=True)
class CaseRecord:
    """What was made for one case; kept in the output so that a later run goes on where this one stopped.

    Args:
        id: of the case, also its file name.
        subject: identifier in the outputs.
        source: keyed hash of what it was made from.
        stamp: keyed hash of the source files' sizes and times and of the options.
        is_done: False while the case is being written.
        channels: names of its images, one file each; () for one image.
        has_label: whether it has a label map.
        label_values: values in the label map, without 0.
        source_values: values in the source's label map, without 0; () where it comes as named structures.
        shape: voxels along X, Y, Z.
        spacing_mm: along X, Y, Z.
        notes: remarks of the readers.
    """

    id: str
    subject: str
    source: str
    stamp: str
    is_done: bool = False
    channels: tuple[str, ...] = ()
    has_label: bool = False
    label_values: tuple[int, ...] = ()
    source_values: tuple[int, ...] = ()
    shape: tuple[int, ...] = ()
    spacing_mm: tuple[float, ...] = ()
    notes: tuple[str, ...] = ()
    split: str | None = None
    entry: Mapping[str, Any] = field(default_factory=dict)

    @property
    def image_names(self) -> tuple[str, ...]:
        """Return its image files' names: <id>.nii.gz, or <id>_<channel>.nii.gz for each channel."""
        if not self.channels:
            return (f"{self.id}.nii.gz",)
        return tuple(f"{self.id}_{name}.nii.gz" for name in self.channels)


def open_output(output: Path, *, source: Path, overwrite: bool) -> Path:
    """Make or check the output folder.

    Returns:
        Its resolved path.

    Raises:
        OutputError: where it overlaps the input, leads out of itself through links, or holds a cohort that
            was not made by this command.
    """
    root, origin = output.expanduser().resolve(), source.expanduser().resolve()
    if root == origin or root.is_relative_to(origin) or origin.is_relative_to(root):
        raise OutputError("the output folder overlaps the input folder; choose a folder outside it")
    if root.exists() and not root.is_dir():
        raise OutputError("the output is a file; choose a folder")
    has_records = (root / RECORDS).is_dir() and not (root / RECORDS).is_symlink()
    is_foreign = any((root / name).exists() for name in ("cohort.json", "labels.json")) and not has_records
    if is_foreign and not overwrite:
        raise OutputError(
            "the output folder holds a cohort of another origin; choose another folder or overwrite"
        )
    root.mkdir(parents=True, exist_ok=True)
    for name in ("images", "labels", RECORDS):
        (inside(root, name)).mkdir(exist_ok=True)
    return root


def inside(root: Path, *parts: str) -> Path:
    """Return a path below `root`.

    Raises:
        OutputError: where it leads out of `root`, or a link stands in its place.
    """
    path = root.joinpath(*parts)
    if path.is_symlink() or not path.resolve().is_relative_to(root):
        raise OutputError(
            "a link in the output folder leads elsewhere; remove it, so that nothing is written outside "
            "the output"
        )
    return path


def write_json(path: Path, content: Any) -> None:
    """Write JSON, whole or not at all."""
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    write_atomically(path, f"{text}\n".encode())


def write_record(root: Path, record: CaseRecord) -> None:
    """Keep a case's record."""
    write_json(inside(root, RECORDS, f"{record.id}.json"), asdict(record))


def remove_case(root: Path, record: CaseRecord) -> None:
    """Remove what was made for a case, its record last."""
    for name in record.image_names:
        inside(root, "images", name).unlink(missing_ok=True)
    inside(root, "labels", f"{record.id}.nii.gz").unlink(missing_ok=True)
    inside(root, RECORDS, f"{record.id}.json").unlink(missing_ok=True)


def read_records(root: Path) -> dict[str, CaseRecord]:
    """Return the records of earlier runs by source; unreadable ones are as if they were not there."""
    records: dict[str, CaseRecord] = {}
    for path in sorted(inside(root, RECORDS).glob("*.json")):
        try:
            content: dict[str, Any] = read_json(path)
            values: dict[str, Any] = {
                key: tuple(value) if isinstance(value, list) else value for key, value in content.items()
            }
            record = CaseRecord(**values)
        except (ValueError, TypeError, AttributeError):
            continue
        if record.id == path.stem:
            records[record.source] = record
    return records


def remove_unfinished(root: Path) -> None:
    """Remove the temporary files of a run that was killed."""
    for folder in (root, *(inside(root, name) for name in ("images", "labels", RECORDS))):
        remove_leftovers(folder)
