"""Find volumes that lie in a cohort's folder and that its list does not name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from medldm.data.issues import Issue
from medldm.files import is_clutter
from medldm.transforms.readers import volume_suffix

FOLDERS = ("images", "labels", "condition_images")


def find_unlisted(listing: Path, content: Any) -> list[Issue]:
    """Count the volumes beside a list that none of its entries names.

    Args:
        listing: the list, cohort.json of a folder.
        content: what it holds.

    Returns:
        One warning for each folder with such files.
    """
    root = listing.parent
    listed = {(root / name).resolve() for name in _texts(content) if "\0" not in name}
    issues = []
    for folder in FOLDERS:
        present = sorted((root / folder).iterdir()) if (root / folder).is_dir() else []
        left = [
            file
            for file in present
            if volume_suffix(file) and not is_clutter(file) and file.resolve() not in listed
        ]
        if left:
            message = (
                f"it is the first of {len(left)} volumes in {folder}/ that {listing.name} does not name; "
                "they are not read: add them to the list or move them away"
            )
            issues.append(Issue.warning("datalist", f"{folder}/{left[0].name}", message))
    return issues


def _texts(content: Any) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    elif isinstance(content, Mapping):
        for value in content.values():
            yield from _texts(value)
    elif isinstance(content, list):
        for value in content:
            yield from _texts(value)
