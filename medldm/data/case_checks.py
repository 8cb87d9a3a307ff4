"""Checks of single cases: can its files be read, do they match, are their values allowed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from medldm.data.file_info import FileInfo, inspect_header
from medldm.data.issues import Issue
from medldm.data.labels import LabelSchema, unknown_values_reason
from medldm.errors import ConfigError
from medldm.transforms.raw_volume import grid_difference

VOLUME_KEYS = ("image", "label", "condition_image")
"""Keys of a case that name files, which must lie on one grid."""

FileInfos = Mapping[str, FileInfo]


def image_files(case: Mapping[str, Any]) -> list[str]:
    """Return the files of a case's image: one, or one for each channel in their order; none without image."""
    image = case.get("image", ())
    return [str(image)] if isinstance(image, str | Path) else [str(file) for file in image]


def only_image(case: Mapping[str, Any]) -> str:
    """Return the file of an image of one channel, for what cannot do with several.

    Raises:
        ConfigError: for a case of several channels; the first is never taken for the whole.
    """
    files = image_files(case)
    if len(files) != 1:
        raise ConfigError(
            f"a case has {len(files)} image files; one channel is needed here; choose it with channels"
        )
    return files[0]


def main_file(case: Mapping[str, Any]) -> str:
    """Return a case's image, the first channel of several, or its label map where it has no image."""
    return str(next(iter(image_files(case)), None) or case["label"])


def volume_files(case: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the key and the path of each file of a case, the channels of its image one by one."""
    files = [("image", file) for file in image_files(case)]
    return files + [(key, str(case[key])) for key in VOLUME_KEYS if key != "image" and key in case]


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
        files = volume_files(case)
        known = {file: (file_info or {}).get(file) or inspect_header(file) for _, file in files}
        for key, file in files:
            issues += _file_issues(known[file], name=name_of(file), is_label=key == "label", schema=schema)
        if not image_files(case) or any(info.problem for info in known.values()):
            continue
        first = known[main_file(case)]
        for _, file in files[1:]:
            issues += _pair_issues(first, known[file], name=name_of(file))
    return issues


def _file_issues(info: FileInfo, *, name: str, is_label: bool, schema: LabelSchema | None) -> list[Issue]:
    if info.problem:
        return [Issue.error("unreadable", name, info.problem)]
    issues = [Issue.warning("header", name, note) for note in info.notes]
    if is_label and info.label_counts is not None:
        issues += _label_issues(info.label_counts, name=name, schema=schema)
    if not is_label and info.minimum is not None and info.minimum == info.maximum:
        issues.append(Issue.error("constant", name, f"all voxels are {info.minimum:g}; remove the case"))
    elif not is_label and info.n_values:
        kind = "a mask" if info.n_values == 2 and info.maximum == 1 else "a label map"
        message = (
            f"it is listed as an image and holds {info.n_values} whole numbers, as {kind} does; check it"
        )
        make = Issue.error if kind == "a mask" else Issue.warning
        issues.append(make("image", name, message))
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
    if difference := grid_difference(np.asarray(image.affine), np.asarray(label.affine), image.shape):
        message = f"its affine puts {difference}; it must be its image's: resample one or correct its header"
        return [Issue.error("affine", name, message)]
    return []
