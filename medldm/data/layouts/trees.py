"""Walk the files of a layout, and what its readers share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from medldm.data.issues import Issue
from medldm.data.layouts.names import file_stem
from medldm.data.layouts.records import Scan
from medldm.data.layouts.subjects import subjects_of_list
from medldm.files import walk_files
from medldm.transforms.readers import volume_suffix


def is_volume(path: Path) -> bool:
    """Tell volume files by their suffix; files whose names begin with a dot never are."""
    return volume_suffix(path) is not None and not path.name.startswith(".")


def volumes_below(root: Path) -> list[Path]:
    """Return all volume files of a tree, in a fixed order, without those in hidden folders."""
    return [
        path
        for path in walk_files(root)
        if is_volume(path) and not any(part.startswith(".") for part in path.relative_to(root).parts)
    ]


def volumes_in(folder: Path, *, root: Path, problems: list[Issue]) -> dict[str, Path]:
    """Return stem -> volume of one folder; two volumes of one stem are an error."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if not (path.is_file() and is_volume(path)):
            continue
        stem = file_stem(path)
        if stem in found:
            message = "another volume has the same name but for the format; keep one"
            problems.append(Issue.error("pair", path.relative_to(root).as_posix(), message))
        else:
            found[stem] = path
    return found


def passed_over(root: Path, scans: Iterable[Scan], *, layout: str) -> list[Issue]:
    """Count the volumes below the root that belong to no scan."""
    used = {path for scan in scans for path in (*scan.image_files, *scan.label_files)}
    unused = [path for path in volumes_below(root) if path not in used]
    if not unused:
        return []
    first = unused[0].relative_to(root).as_posix()
    message = f"it and {len(unused) - 1} other volumes are no part of the {layout} layout and are passed over"
    return [Issue.warning("layout", first, message)]


def with_subjects(scans: Sequence[Scan]) -> list[Scan]:
    """Give scans that are listed by name their subjects, or the doubt about them."""
    subjects = subjects_of_list([scan.name for scan in scans])
    return [
        replace(scan, subject=name, doubt=subjects.reason if index in subjects.unsure else "")
        for index, (scan, name) in enumerate(zip(scans, subjects.names, strict=True))
    ]
