"""Check a cohort before training, and `medldm check`."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from medldm.data.case_checks import VOLUME_KEYS, check_cases
from medldm.data.cohort import Cohort, read_cohort
from medldm.data.cohort_checks import check_across
from medldm.data.file_info import gather_facts
from medldm.data.inspection import VolumeFacts, inspect_header
from medldm.data.issues import CohortError, Finding, format_table

logger = logging.getLogger(__name__)


def check_cohort(
    cohort: Cohort, *, full: bool = False, cache_dir: Path | None = None, n_workers: int = 2
) -> list[Finding]:
    """Check a cohort.

    The fast part reads headers: readable, three axes, shapes and affines of pairs, spacing, orientation and
    field of view outliers, subjects and identifiers across splits. The full part reads every file to its
    end: damage, NaN and Inf, constant images, label values, empty labels, HU plausibility, duplicates; it is
    remembered by file stamps.

    Args:
        cohort: from `read_cohort`.
        full: read the voxels too.
        cache_dir: where the full part is remembered; None takes `facts_cache.default_cache_dir`.
        n_workers: files read at a time in the full part.

    Returns:
        Findings, errors first; empty for a sound cohort.
    """
    files = [(case[key], key == "label") for case in cohort.cases for key in VOLUME_KEYS if key in case]
    facts: dict[str, VolumeFacts]
    if full:
        facts = gather_facts(files, root=cohort.root, cache_dir=cache_dir, n_workers=n_workers)
    else:
        facts = {file: inspect_header(file) for file, _ in files}
    findings = list(cohort.problems)
    findings += check_cases(cohort.cases, schema=cohort.schema, name_of=cohort.relative, facts=facts)
    splits = {"training": cohort.training, "validation": cohort.validation}
    findings += check_across(splits, facts=facts, schema=cohort.schema, name_of=cohort.relative)
    return sorted(dict.fromkeys(findings))


def require_sound(
    cohort: Cohort, *, full: bool = True, cache_dir: Path | None = None, n_workers: int = 2
) -> list[Finding]:
    """Stop where a cohort has errors; log its warnings.

    Args:
        cohort: from `read_cohort`.
        full: read the voxels too, once for each state of the files.
        cache_dir: where the full part is remembered.
        n_workers: files read at a time.

    Returns:
        The warnings.

    Raises:
        CohortError: listing every offending file.
    """
    findings = check_cohort(cohort, full=full, cache_dir=cache_dir, n_workers=n_workers)
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        raise CohortError(errors)
    for finding in findings:
        logger.warning("%s: %s [%s]", finding.file, finding.message, finding.check)
    return findings


def run_check(
    cohort_dir: str | Path,
    *,
    full: bool = True,
    as_json: bool = False,
    require_labels: bool = True,
    cache_dir: Path | None = None,
) -> tuple[str, int]:
    """Check the cohort in a folder and say the result in words.

    Args:
        cohort_dir: as `read_cohort` takes it.
        full: read the voxels too.
        as_json: give JSON in place of a table.
        require_labels: refuse cases without label map.
        cache_dir: where the full part is remembered.

    Returns:
        The text to show, and the exit code: 0 without errors, 1 with.
    """
    cohort = read_cohort(cohort_dir, require_labels=require_labels, strict=False, cache_dir=cache_dir)
    findings = check_cohort(cohort, full=full, cache_dir=cache_dir)
    n_errors = sum(finding.severity == "error" for finding in findings)
    if as_json:
        return _as_json(cohort, findings, n_errors=n_errors, full=full), int(n_errors > 0)
    counted = f"{len(cohort.training)} training and {len(cohort.validation)} validation cases"
    summary = f"{counted}: {n_errors} errors, {len(findings) - n_errors} warnings"
    return "\n".join([format_table(findings), "", summary] if findings else [summary]), int(n_errors > 0)


def _as_json(cohort: Cohort, findings: list[Finding], *, n_errors: int, full: bool) -> str:
    content = {
        "is_sound": n_errors == 0,
        "is_full": full,
        "n_training": len(cohort.training),
        "n_validation": len(cohort.validation),
        "n_errors": n_errors,
        "n_warnings": len(findings) - n_errors,
        "structures": {} if cohort.schema is None else cohort.schema.to_dict(),
        "findings": [finding.to_dict() for finding in findings],
    }
    return json.dumps(content, indent=2)
