"""Checks of single cases: can its files be read, do they match, are their values allowed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from medldm.data.file_info import FileInfo, inspect_header
from medldm.data.issues import Issue
from medldm.data.labels import LabelSchema, unknown_values_reason
from medldm.transforms.raw_volume import corner_distance_mm

AFFINE_TOLERANCE_MM = 1e-3
VOLUME_KEYS = ("image", "label", "condition_image")
"""Keys of a case that name files, which must lie on one grid."""

FileInfos = Mapping[str, FileInfo]


def main_file(case: Mapping[str, Any]) -> str:
    """Return a case's image, or its label map where it has no image."""
    return str(case["image"] if "image" in case else case["label"])


def check_cases(
    cases: Iterable[Mapping[str, Any]],
    *,
    schema: LabelSchema | None,
    name_of: Callable[[str], str],
    file_info: FileInfos | None = None,
) -> list[Issue]:
    """Check every case by itself.

    Args:
        cases: with the paths of VOLUME_KEYS, "image" or "label" at least.
        schema: the declared structures; None skips the check of values.
        name_of: from a path to the name shown.
        file_info: path -> what is known of it; files not in it get their header read.

    Returns:
        The issues in the order of the cases.
    """
    issues: list[Issue] = []
    for case in cases:
        files = {key: case[key] for key in VOLUME_KEYS if key in case}
        known = {key: (file_info or {}).get(file) or inspect_header(file) for key, file in files.items()}
        for key, file in files.items():
            issues += _file_issues(known[key], name=name_of(file), is_label=key == "label", schema=schema)
        if "image" not in known or any(info.problem for info in known.values()):
            continue
        for key in files.keys() - {"image"}:
            issues += _pair_issues(known["image"], known[key], name=name_of(files[key]))
    return issues


def _file_issues(info: FileInfo, *, name: str, is_label: bool, schema: LabelSchema | None) -> list[Issue]:
    if info.problem:
        return [Issue.error("unreadable", name, info.problem)]
    issues = [Issue.warning("header", name, note) for note in info.notes]
    if is_label and info.label_counts is not None:
        issues += _label_issues(info.label_counts, name=name, schema=schema)
    if not is_label and info.minimum is not None and info.minimum == info.maximum:
        issues.append(Issue.error("constant", name, f"all voxels are {info.minimum:g}; remove the case"))
    return issues


def _label_issues(counts: Mapping[int, int], *, name: str, schema: LabelSchema | None) -> list[Issue]:
    if not set(counts) - {0}:
        message = "the label map is empty, all voxels are 0; check it, or remove the case"
        return [Issue.warning("empty label", name, message)]
    if schema is not None and (unknown := schema.unknown_values(counts)):
        return [Issue.error("label value", name, unknown_values_reason(unknown, schema))]
    return []


def _pair_issues(image: FileInfo, label: FileInfo, *, name: str) -> list[Issue]:
    if image.shape != label.shape:
        message = (
            f"its shape is {label.shape}, its image's {image.shape}; both must lie on one grid; resample one"
        )
        return [Issue.error("shape", name, message)]
    distance = corner_distance_mm(np.asarray(image.affine), np.asarray(label.affine), image.shape)
    if distance > AFFINE_TOLERANCE_MM:
        message = (
            f"its affine puts a corner {distance:.4g} mm from where its image's does; at most "
            f"{AFFINE_TOLERANCE_MM} mm is allowed; resample one or correct its header"
        )
        return [Issue.error("affine", name, message)]
    return []
