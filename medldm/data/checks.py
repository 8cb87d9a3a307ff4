"""Check a cohort before training, and `medldm check`."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from medldm.data.case_checks import check_cases, volume_files
from medldm.data.cohort import Cohort, count_unlabelled, describe_split, read_cohort
from medldm.data.cohort_checks import check_across
from medldm.data.file_info import inspect_header
from medldm.data.file_info_cache import gather_file_info
from medldm.data.issues import CohortError, Issue, format_table
from medldm.data.name_checks import check_names
from medldm.data.partly_labelled import count_unknown
from medldm.data.splits import TEST_FRACTION

logger = logging.getLogger(__name__)


def check_cohort(cohort: Cohort, *, full: bool = False) -> list[Issue]:
    """Check a cohort.

    The fast part reads headers: readable, three axes, shapes and affines of pairs, spacing, orientation and
    field of view outliers, subjects and identifiers across splits, names that speak of another case or
    person than the list does. The full part reads every file to its end: damage, NaN and Inf, constant
    images, masks as images, label values, empty labels, HU plausibility, duplicates; it is remembered by file
    stamps.

    Args:
        cohort: from `read_cohort`.
        full: read the voxels too.

    Returns:
        Issues, errors first; empty for a sound cohort.
    """
    files = [(file, key == "label") for case in cohort.cases for key, file in volume_files(case)]
    if full:
        file_info = gather_file_info(files, root=cohort.root)
    else:
        file_info = {file: inspect_header(file) for file, _ in files}
    issues = list(cohort.issues)
    issues += check_cases(cohort.cases, schema=cohort.schema, name_of=cohort.relative, file_info=file_info)
    issues += check_across(cohort.splits, file_info=file_info, schema=cohort.schema, name_of=cohort.relative)
    issues += check_names(cohort.splits, root=cohort.root, name_of=cohort.relative)
    return sorted(dict.fromkeys(issues))


def require_sound(cohort: Cohort) -> list[Issue]:
    """Read every voxel, once for each state of the files; stop where a cohort has errors, log its warnings.

    Returns:
        The warnings.

    Raises:
        CohortError: listing every offending file.
    """
    issues = check_cohort(cohort, full=True)
    errors = [issue for issue in issues if issue.severity == "error"]
    if errors:
        raise CohortError(errors)
    for issue in issues:
        logger.warning("%s: %s [%s]", issue.file, issue.message, issue.check)
    return issues


def run_check(
    cohort_dir: str | Path,
    *,
    full: bool = True,
    as_json: bool = False,
    channels: Sequence[str] | None = None,
    drop_incomplete: bool = False,
) -> tuple[str, int]:
    """Check the cohort in a folder and say the result in words.

    Args:
        cohort_dir: as `read_cohort` takes it.
        full: read the voxels too.
        as_json: give JSON in place of a table.
        channels: contrasts that a case must have; None for all that the cohort names.
        drop_incomplete: leave out cases that lack one of them.

    Returns:
        The text to show, and the exit code: 0 without errors, 1 with.
    """
    chosen: dict[str, Any] = {
        "channels": channels,
        "drop_incomplete": drop_incomplete,
        "test_fraction": TEST_FRACTION,
    }
    cohort = read_cohort(cohort_dir, require_labels=False, strict=False, **chosen)
    if not cohort.cases:
        # Nothing can be read: say all that a cohort may have, label maps too.
        cohort = read_cohort(cohort_dir, strict=False, **chosen)
    issues = check_cohort(cohort, full=full)
    n_errors = sum(issue.severity == "error" for issue in issues)
    if as_json:
        return _as_json(cohort, issues, n_errors=n_errors, full=full), int(n_errors > 0)
    layout = f"{cohort.layout} layout: " if cohort.layout else ""
    counted = f"{layout}{describe_split(cohort)}"
    counted += f" of the channels {', '.join(cohort.channels)}" if cohort.channels else ""
    summary = f"{counted}: {n_errors} errors, {len(issues) - n_errors} warnings"
    if unknown := count_unknown(cohort.cases):
        words = ", ".join(f"{name} in {n}" for name, n in unknown.items())
        summary += f"\nof {len(cohort.cases) - count_unlabelled(cohort.cases)} label maps, unknown is {words}"
    return "\n".join([format_table(issues), "", summary] if issues else [summary]), int(n_errors > 0)


def _as_json(cohort: Cohort, issues: list[Issue], *, n_errors: int, full: bool) -> str:
    content = {
        "is_sound": n_errors == 0,
        "is_full": full,
        "layout": cohort.layout,
        "n_training": len(cohort.training),
        "n_validation": len(cohort.validation),
        "n_test": len(cohort.test),
        "n_errors": n_errors,
        "n_warnings": len(issues) - n_errors,
        "channels": list(cohort.channels),
        "n_unknown": count_unknown(cohort.cases),
        "structures": {} if cohort.schema is None else cohort.schema.to_dict(),
        "issues": [asdict(issue) for issue in issues],
    }
    return json.dumps(content, indent=2)
