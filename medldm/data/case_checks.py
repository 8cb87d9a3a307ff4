"""Checks of single cases: can its files be read, do they match, are their values allowed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from medldm.data.inspection import VolumeFacts, inspect_header
from medldm.data.issues import Finding, Severity
from medldm.data.labels import LabelSchema, unknown_values_reason

AFFINE_TOLERANCE_MM = 1e-3
VOLUME_KEYS = ("image", "label", "condition_image")
"""Keys of a case that name files, which must lie on one grid."""

FactsByFile = Mapping[str, VolumeFacts]


def main_file(case: Mapping[str, Any]) -> str:
    """Return a case's image, or its label map where it has no image."""
    return str(case["image"] if "image" in case else case["label"])


def check_cases(
    cases: Iterable[Mapping[str, Any]],
    *,
    schema: LabelSchema | None,
    name_of: Callable[[str], str],
    facts: FactsByFile | None = None,
) -> list[Finding]:
    """Check every case by itself.

    Args:
        cases: with the paths of VOLUME_KEYS, "image" or "label" at least.
        schema: the declared structures; None skips the check of values.
        name_of: from a path to the name shown.
        facts: path -> what is known of it; files not in it get their header read.

    Returns:
        The findings in the order of the cases.
    """
    findings: list[Finding] = []
    for case in cases:
        files = {key: case[key] for key in VOLUME_KEYS if key in case}
        known = {key: (facts or {}).get(file) or inspect_header(file) for key, file in files.items()}
        for key, file in files.items():
            findings += _file_findings(known[key], name=name_of(file), is_label=key == "label", schema=schema)
        if "image" not in known or any(fact.problem for fact in known.values()):
            continue
        for key in files.keys() - {"image"}:
            findings += _pair_findings(known["image"], known[key], name=name_of(files[key]))
    return findings


def _file_findings(
    facts: VolumeFacts, *, name: str, is_label: bool, schema: LabelSchema | None
) -> list[Finding]:
    if facts.problem:
        return [_finding("error", "unreadable", name, facts.problem)]
    findings = [_finding("warning", "header", name, note) for note in facts.notes]
    if is_label and facts.label_counts is not None:
        findings += _label_findings(facts.label_counts, name=name, schema=schema)
    if not is_label and facts.minimum is not None and facts.minimum == facts.maximum:
        findings.append(
            _finding("error", "constant", name, f"all voxels are {facts.minimum:g}; remove the case")
        )
    return findings


def _label_findings(counts: Mapping[int, int], *, name: str, schema: LabelSchema | None) -> list[Finding]:
    if not set(counts) - {0}:
        message = "the label map is empty, all voxels are 0; check it, or remove the case"
        return [_finding("warning", "empty label", name, message)]
    if schema is not None and (unknown := schema.unknown_values(counts)):
        return [_finding("error", "label value", name, unknown_values_reason(unknown, schema))]
    return []


def _pair_findings(image: VolumeFacts, label: VolumeFacts, *, name: str) -> list[Finding]:
    if image.shape != label.shape:
        message = (
            f"its shape is {label.shape}, its image's {image.shape}; both must lie on one grid; resample one"
        )
        return [_finding("error", "shape", name, message)]
    distance = _largest_distance_mm(np.asarray(image.affine), np.asarray(label.affine), image.shape)
    if distance > AFFINE_TOLERANCE_MM:
        message = (
            f"its affine puts a corner {distance:.4g} mm from where its image's does; at most "
            f"{AFFINE_TOLERANCE_MM} mm is allowed; resample one or correct its header"
        )
        return [_finding("error", "affine", name, message)]
    return []


def _largest_distance_mm(first: np.ndarray, second: np.ndarray, shape: tuple[int, ...]) -> float:
    """Return how far two affines put one corner voxel of a grid apart at most."""
    corners = np.stack(np.meshgrid(*[(0, size - 1) for size in shape], indexing="ij")).reshape(3, -1)
    difference = (first - second)[:3] @ np.vstack([corners, np.ones(corners.shape[1])])
    return float(np.sqrt((difference**2).sum(axis=0)).max())


def _finding(severity: Severity, check: str, name: str, message: str) -> Finding:
    return Finding(severity=severity, check=check, file=name, message=message)
