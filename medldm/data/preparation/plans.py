"""Which case becomes what: subjects, names, and what an earlier run has made already."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from medldm.data.identity import keyed_hash, subject_identifier
from medldm.data.preparation.cases import CaseOutcome, CasePlan
from medldm.data.preparation.files import CaseRecord, OutputError, remove_case, write_record
from medldm.data.preparation.labels import LabelTable
from medldm.data.preparation.options import PrepareOptions
from medldm.data.preparation.source import FoundSources, Source
from medldm.data.preparation.table_match import TableMatch

_STAMP_FORMAT = 2
"""Rises when the same files and options come to other voxels."""

_NOT_OF_VOXELS = (
    *("strict_table", "private_list", "segmentation"),
    *("labels", "key_file", "modality", "description", "min_slices", "subject_from"),
    *("channels", "drop_incomplete", "priority"),
    *("validation_fraction", "test_fraction", "seed", "workers", "overwrite", "progress", "max_bytes"),
)
"""Options that choose cases or say how to work; labels, channels and priority count where a case has them."""


def plan_cases(
    found: FoundSources,
    earlier: dict[str, CaseRecord],
    *,
    subjects: TableMatch,
    key: bytes,
    root: Path,
    labels: LabelTable,
    options: PrepareOptions,
    values: Mapping[str, int],
) -> list[CasePlan]:
    """Give every source its subject, its name and its stamp."""
    rows = subjects.rows
    names = [
        row.subject or subject_identifier(source.subject, key=key)
        for row, source in zip(rows, found.sources, strict=True)
    ]
    n_of_subject = Counter(names)
    n_of_contrast = Counter(zip(names, (source.known_contrast for source in found.sources), strict=True))
    taken = {record.id: record.source for record in earlier.values()}
    plans = []
    for source, row, subject in zip(found.sources, rows, names, strict=True):
        source_hash = keyed_hash(source.key, key=key, purpose="source")
        wanted = subject if n_of_subject[subject] == 1 else f"{subject}_{source_hash[:6]}"
        if (
            n_of_subject[subject] > 1
            and source.known_contrast
            and n_of_contrast[subject, source.known_contrast] == 1
        ):
            wanted = f"{subject}_{source.known_contrast}"
        if taken.get(wanted, source_hash) != source_hash:
            wanted = f"{subject}_{source_hash[:6]}"
        if source_hash in earlier and earlier[source_hash].subject == subject:
            wanted = earlier[source_hash].id
        taken[wanted] = source_hash
        record = CaseRecord(
            id=wanted,
            subject=subject,
            source=source_hash,
            stamp=_stamp(source, key=key, labels=labels, options=options, values=values),
            channels=source.channels,
            split=row.split or source.split,
            entry={**source.entry, **row.entry},
        )
        plan = CasePlan(
            record=record, source=source, root=root, labels=labels, options=options, values=values
        )
        plans.append(plan)
    return plans


def _stamp(
    source: Source, *, key: bytes, labels: LabelTable, options: PrepareOptions, values: Mapping[str, int]
) -> str:
    """Hash what decides the output: files, their sizes and times, and every option that may change voxels."""
    files = [(path.as_posix(), path.stat().st_size, path.stat().st_mtime_ns) for path in source.files]
    mapping = sorted((labels.mapping or {}).items())
    structures = [(name, values[name]) for name in source.structures]
    own = {
        field.name: getattr(options, field.name)
        for field in fields(options)
        if field.name not in _NOT_OF_VOXELS
    }
    chosen: list[Any] = [_STAMP_FORMAT, own, mapping, labels.mapping is None, source.channels]
    if volumes := [each.volume.index for each in source.images.values() if not isinstance(each, Path)]:
        chosen.append(volumes)
    if structures:
        chosen += [structures, options.priority]
    text = json.dumps([files, chosen], sort_keys=True, default=str)
    return keyed_hash(text, key=key, purpose="stamp", digits=32)


def is_done(plan: CasePlan, earlier: dict[str, CaseRecord]) -> bool:
    """Say whether an earlier run has made the case from the same files with the same options."""
    record = earlier.get(plan.record.source)
    if record is None or (record.is_done, record.id, record.stamp) != (
        True,
        plan.record.id,
        plan.record.stamp,
    ):
        return False
    files = [plan.root / "images" / name for name in record.image_names]
    files += [plan.root / "labels" / f"{record.id}.nii.gz"] if record.has_label else []
    return all(file.is_file() for file in files)


def remove_superseded(root: Path, outcomes: Sequence[CaseOutcome], earlier: Mapping[str, CaseRecord]) -> None:
    """Remove cases that were made anew under another name, as when a table now names their subject."""
    for outcome in outcomes:
        old = earlier.get(outcome.record.source)
        if old is not None and not outcome.reason and old.id != outcome.record.id:
            remove_case(root, old)


def remove_other_channels(
    root: Path, plans: Sequence[CasePlan], earlier: Mapping[str, CaseRecord], *, overwrite: bool
) -> None:
    """Refuse, or remove, earlier cases of other channels: a cohort has one choice of channels.

    Raises:
        OutputError: where there are such cases and nothing may be replaced.
    """
    wanted = {plan.record.channels for plan in plans}
    others = [record for record in earlier.values() if wanted and record.channels not in wanted]
    if others and not overwrite:
        raise OutputError(
            f"the output holds {len(others)} cases of other channels; choose another folder or overwrite"
        )
    for record in others:
        remove_case(root, record)


def kept_case(plan: CasePlan, earlier: dict[str, CaseRecord]) -> CaseOutcome:
    """Keep a finished case; its table entry may have changed."""
    record = replace(earlier[plan.record.source], split=plan.record.split, entry=plan.record.entry)
    if record != earlier[plan.record.source]:
        write_record(plan.root, record)
    return CaseOutcome(record=record)


def split_changed(
    plans: Sequence[CasePlan], earlier: dict[str, CaseRecord], *, overwrite: bool
) -> tuple[list[CaseOutcome], list[CasePlan]]:
    """Refuse to replace finished cases whose source or options changed, unless asked to."""
    reason = "its source or the options changed since it was prepared; overwrite to make it anew"
    changed, fresh = [], []
    for plan in plans:
        record = earlier.get(plan.record.source)
        if record and record.is_done and record.stamp != plan.record.stamp and not overwrite:
            changed.append(CaseOutcome(record=plan.record, reason=reason))
        else:
            fresh.append(plan)
    return changed, fresh
