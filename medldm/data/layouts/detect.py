"""Find out which layout a folder has."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medldm.data.issues import Issue
from medldm.data.layouts.bids import is_bids, read_bids
from medldm.data.layouts.by_name import read_tree
from medldm.data.layouts.freesurfer import is_freesurfer, read_freesurfer
from medldm.data.layouts.msd import DATASET_FILE, read_folders, read_msd
from medldm.data.layouts.nnunet import is_nnunet, read_nnunet
from medldm.data.layouts.records import Layout
from medldm.runtime.json_files import read_json


def read_layout(root: Path) -> Layout | None:
    """Read a folder that says itself what it is: by dataset.json, dataset_description.json or its folders.

    Returns:
        The layout, or None for a folder that does not say.
    """
    content = _read_dataset_file(root / DATASET_FILE)
    if content is not None and is_nnunet(root):
        return read_nnunet(root, content)
    if content is not None and isinstance(content.get("training"), list):
        return read_msd(root, content)
    if is_bids(root):
        return read_bids(root)
    if is_freesurfer(root):
        return read_freesurfer(root)
    return None


def read_where_it_lies(root: Path) -> Layout | None:
    """Read a folder of any known layout but the toolkit's own; None where it holds no volume."""
    layout = read_layout(root)
    if layout is not None:
        return layout
    if (root / "imagesTr").is_dir():
        return _read_undeclared(root)
    layout = read_tree(root)
    return layout if layout.scans or layout.problems else None


def _read_undeclared(root: Path) -> Layout:
    if not is_nnunet(root):
        return read_folders(root)
    layout = read_nnunet(root, {})
    if any(issue.check == "channel" for issue in layout.problems):
        message = f"{DATASET_FILE} is missing and there are several channels; restore it, it names them"
        problem = Issue.error("layout", DATASET_FILE, message)
        return Layout(name=layout.name, root=root, scans=(), problems=(problem,))
    return layout


def _read_dataset_file(path: Path) -> Mapping[str, Any] | None:
    try:
        content = read_json(path)
    except (OSError, ValueError):
        return None
    return content if isinstance(content, Mapping) else None
