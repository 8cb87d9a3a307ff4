"""Turn a folder of DICOM series and volume files into a cohort that can be trained on and shared."""

from __future__ import annotations

import json
import logging
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing import get_all_start_methods, get_context
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

from tqdm import tqdm

from medldm.data.cohort import split_by_subject
from medldm.data.identity import keyed_hash, load_key, subject_identifier
from medldm.data.preparation.cases import CaseOutcome, CasePlan, convert_case
from medldm.data.preparation.files import (
    CaseRecord,
    open_output,
    read_records,
    remove_unfinished,
    write_json,
    write_record,
)
from medldm.data.preparation.labels import LabelTable, read_label_table
from medldm.data.preparation.result import PrepareResult, Refused
from medldm.data.preparation.sources import FoundSources, Source, find_sources
from medldm.data.preparation.table import SubjectRow, SubjectTable, read_subject_table
from medldm.errors import ConfigError, MissingFileError
from medldm.transforms.raw_volume import DEFAULT_MAX_BYTES

logger = logging.getLogger(__name__)

COHORT_FILE = "cohort.json"
LABELS_FILE = "labels.json"
SUMMARY_FILE = "prepare.json"


@dataclass(frozen=True, kw_only=True)
class PrepareOptions:
    """How to prepare a cohort.

    Args:
        labels: label table; see `read_label_table`.
        key_file: key of the subject hashes; see `load_key`.
        modality: only DICOM series of this modality, such as "CT".
        description: only DICOM series whose description matches this regular expression.
        min_slices: only DICOM series of at least so many slices.
        regularise: resample irregular DICOM stacks instead of refusing them.
        spacing_mm: voxel spacing of .npy files.
        validation_fraction: share of the subjects set aside, where the table does not say.
        seed: of that split.
        workers: processes; None takes one for each core, up to eight.
        overwrite: replace what is in the output.
        progress: show a progress bar.
        max_bytes: cap on a volume as float32.

    Raises:
        ValueError: for a value out of bounds.
    """

    labels: str | Path | None = None
    key_file: str | Path | None = None
    modality: str | None = None
    description: str | None = None
    min_slices: int = 2
    regularise: bool = False
    spacing_mm: tuple[float, float, float] | None = None
    validation_fraction: float = 0.1
    seed: int = 0
    workers: int | None = None
    overwrite: bool = False
    progress: bool = True
    max_bytes: int = DEFAULT_MAX_BYTES

    def __post_init__(self) -> None:
        if not 0 <= self.validation_fraction < 1:
            raise ConfigError(
                f"validation_fraction is {self.validation_fraction}; 0 up to but not 1 is allowed"
            )
        for name, least in (("min_slices", 2), ("max_bytes", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)}; at least {least} is needed")
        if self.workers is not None and self.workers < 1:
            raise ConfigError(f"workers is {self.workers}; at least 1 is needed")


def prepare(
    input_dir: str | Path,
    output_dir: str | Path,
    *,
    table: str | Path | None = None,
    options: PrepareOptions | None = None,
) -> PrepareResult:
    """Convert DICOM series and volume files to images/, labels/, cohort.json and labels.json.

    What can be converted is; what cannot is listed with its reason. Running it again goes on where it
    stopped: cases whose sources and options are unchanged are not made again. Names in the output are the
    user's identifiers or keyed hashes; no header text and no source path is written or logged.

    Args:
        input_dir: tree of DICOM files, .nii, .nii.gz, .nrrd, .mha and .npy files. A label map is recognised
            by its folder (labels, labelsTr, seg, masks) or its ending (_seg, -label, _dseg, aseg) and goes
            with the image of the same name, or with the only image nearest to it.
        output_dir: must lie outside the input.
        table: CSV or TSV of the subjects; see `read_subject_table`.
        options: see `PrepareOptions`.

    Returns:
        Cases, refusals and counts, with `.table()` and `.exit_code`.

    Raises:
        MissingFileError: where there is no input.
        ValueError: for an output, a table or a key that cannot be used; nothing is written then.

    Examples:
        >>> result = prepare("dicom", "cohort", table="subjects.csv")  # doctest: +SKIP
        >>> result.exit_code  # doctest: +SKIP
        0
    """
    options = options or PrepareOptions()
    source_root = Path(input_dir).expanduser()
    if not source_root.exists():
        raise MissingFileError("the input folder does not exist; check the path")
    subjects, labels = read_subject_table(table), read_label_table(options.labels)
    key = load_key(options.key_file, forbidden=(source_root, Path(output_dir).expanduser()))
    root = open_output(Path(output_dir), source=source_root, overwrite=options.overwrite)
    remove_unfinished(root)
    found = find_sources(
        source_root,
        modality=options.modality,
        description=options.description,
        min_slices=options.min_slices,
        max_bytes=options.max_bytes,
    )
    earlier = read_records(root)
    plans = _plan(found, earlier, subjects=subjects, key=key, context=_Context(root, labels, options))
    fresh = [plan for plan in plans if not _is_done(plan, earlier)]
    outcomes = [_kept(plan, earlier) for plan in plans if _is_done(plan, earlier)]
    changed, fresh = _split_changed(fresh, earlier, overwrite=options.overwrite)
    outcomes += [*changed, *_run(fresh, options)]
    result = _finish(root, outcomes, found, labels=labels, subjects=subjects, options=options)
    logger.info("prepared %d cases, refused %d", len(result.cases), len(result.refused))
    return result


@dataclass(frozen=True)
class _Context:
    root: Path
    labels: LabelTable
    options: PrepareOptions


def _plan(
    found: FoundSources,
    earlier: dict[str, CaseRecord],
    *,
    subjects: SubjectTable,
    key: bytes,
    context: _Context,
) -> list[CasePlan]:
    """Give every source its subject, its name and its stamp."""
    rows = [subjects.row_of(source.names) or SubjectRow() for source in found.sources]
    names = [
        row.subject or subject_identifier(source.subject, key=key)
        for row, source in zip(rows, found.sources, strict=True)
    ]
    n_of_subject = Counter(names)
    taken = {record.id: record.source for record in earlier.values()}
    plans = []
    for source, row, subject in zip(found.sources, rows, names, strict=True):
        source_hash = keyed_hash(source.key, key=key, purpose="source")
        wanted = subject if n_of_subject[subject] == 1 else f"{subject}_{source_hash[:6]}"
        if taken.get(wanted, source_hash) != source_hash:
            wanted = f"{subject}_{source_hash[:6]}"
        if source_hash in earlier and earlier[source_hash].subject == subject:
            wanted = earlier[source_hash].id
        taken[wanted] = source_hash
        record = CaseRecord(
            id=wanted,
            subject=subject,
            source=source_hash,
            stamp=_stamp(source, key=key, context=context),
            split=row.split,
            entry=dict(row.entry),
        )
        plans.append(_plan_of(record, source, context))
    return plans


def _plan_of(record: CaseRecord, source: Source, context: _Context) -> CasePlan:
    return CasePlan(
        record=record,
        source=source,
        root=context.root,
        labels=context.labels,
        regularise=context.options.regularise,
        overwrite=context.options.overwrite,
        spacing_mm=context.options.spacing_mm,
        max_bytes=context.options.max_bytes,
    )


def _stamp(source: Source, *, key: bytes, context: _Context) -> str:
    """Hash what decides the output: sizes and times of the files, and the options that change voxels."""
    files = [(path.as_posix(), path.stat().st_size, path.stat().st_mtime_ns) for path in source.files]
    mapping = context.labels.mapping
    options = (
        context.options.regularise,
        context.options.spacing_mm,
        sorted((mapping or {}).items()),
        mapping is None,
    )
    return keyed_hash(json.dumps([files, options]), key=key, purpose="stamp", digits=32)


def _is_done(plan: CasePlan, earlier: dict[str, CaseRecord]) -> bool:
    record = earlier.get(plan.record.source)
    if (
        record is None
        or not record.is_done
        or (record.id, record.stamp) != (plan.record.id, plan.record.stamp)
    ):
        return False
    folders = ("images", "labels") if record.has_label else ("images",)
    return all((plan.root / folder / f"{record.id}.nii.gz").is_file() for folder in folders)


def _kept(plan: CasePlan, earlier: dict[str, CaseRecord]) -> CaseOutcome:
    """Keep a finished case; its table entry may have changed."""
    record = replace(earlier[plan.record.source], split=plan.record.split, entry=plan.record.entry)
    if record != earlier[plan.record.source]:
        write_record(plan.root, record)
    return CaseOutcome(record=record)


def _split_changed(
    plans: Sequence[CasePlan], earlier: dict[str, CaseRecord], *, overwrite: bool
) -> tuple[list[CaseOutcome], list[CasePlan]]:
    """Refuse to replace finished cases whose source or options changed, unless asked to."""
    reason = "its source or the options changed since it was prepared; overwrite to make it anew"
    changed: list[CaseOutcome] = []
    fresh: list[CasePlan] = []
    for plan in plans:
        record = earlier.get(plan.record.source)
        is_changed = record is not None and record.is_done and record.stamp != plan.record.stamp
        if is_changed and not overwrite:
            changed.append(CaseOutcome(record=plan.record, reason=reason))
        else:
            fresh.append(plan)
    return changed, fresh


def _run(plans: Sequence[CasePlan], options: PrepareOptions) -> Iterator[CaseOutcome]:
    """Convert cases, in processes where there are several."""
    workers = min(options.workers or min(os.cpu_count() or 1, 8), max(1, len(plans)))
    with tqdm(
        total=len(plans), desc="prepare", unit="case", disable=None if options.progress else True
    ) as bar:
        outcomes = map(convert_case, plans) if workers == 1 else _run_parallel(plans, workers=workers)
        for outcome in outcomes:
            bar.update()
            for note in outcome.record.notes:
                logger.warning("%s: %s", outcome.record.id, note)
            if outcome.reason:
                logger.warning("%s was refused: %s", outcome.record.id, outcome.reason)
            yield outcome


def _run_parallel(plans: Sequence[CasePlan], *, workers: int) -> Iterator[CaseOutcome]:
    """Convert in parallel; a case that kills its process (a decoder may) is tried alone and then refused."""
    broken: list[CasePlan] = []
    context = _process_context()
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        futures = {pool.submit(convert_case, plan): plan for plan in plans}
        for future in as_completed(futures):
            try:
                yield future.result()
            except BrokenProcessPool:
                broken.append(futures[future])
    for plan in broken:
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            try:
                yield pool.submit(convert_case, plan).result()
            except BrokenProcessPool:
                yield CaseOutcome(
                    record=plan.record, reason="its decoder crashed the process; restore the file"
                )


def _process_context() -> BaseContext:
    """Start workers from a server that has imported the package once, where the system has one."""
    if "forkserver" not in get_all_start_methods():
        return get_context("spawn")
    context = get_context("forkserver")
    context.set_forkserver_preload(["medldm.data.preparation.cases"])
    return context


def _finish(
    root: Path,
    outcomes: Sequence[CaseOutcome],
    found: FoundSources,
    *,
    labels: LabelTable,
    subjects: SubjectTable,
    options: PrepareOptions,
) -> PrepareResult:
    """Write the lists of everything that is in the output now, also from earlier runs."""
    records = sorted(
        (record for record in read_records(root).values() if record.is_done), key=lambda one: one.id
    )
    refused = [Refused(id=one.record.id, reason=one.reason) for one in outcomes if one.reason]
    refused += [Refused(id=f"source {n}", reason=reason) for n, reason in enumerate(found.lost, start=1)]
    schema = labels.schema(value for record in records for value in record.label_values)
    if schema is not None:
        write_json(root / LABELS_FILE, schema.to_dict())
    training, validation = _split(records, options)
    if training or validation:
        cohort: dict[str, Any] = {"training": training, "validation": validation}
        write_json(
            root / COHORT_FILE, cohort | ({"classes": dict(subjects.classes)} if subjects.classes else {})
        )
    result = PrepareResult(
        cases=tuple(records),
        refused=tuple(refused),
        passed_over=dict(found.passed_over),
        n_subjects=len({record.subject for record in records}),
        n_validation=len(validation),
    )
    write_json(root / SUMMARY_FILE, result.to_dict())
    return result


def _split(
    records: Sequence[CaseRecord], options: PrepareOptions
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Split by subject: as the table says, else by the seeded rank of the subjects it says nothing of."""
    by_table: dict[str, set[str]] = defaultdict(set)
    for record in records:
        if record.split is not None:
            by_table[record.subject].add(record.split)
    if mixed := [subject for subject, splits in by_table.items() if len(splits) > 1]:
        raise ConfigError(
            f"the subject table puts {len(mixed)} subjects into both splits, the first is {mixed[0]}"
        )
    lists: dict[str, list[dict[str, Any]]] = {"training": [], "validation": []}
    open_cases = []
    for record in records:
        case = _case_of(record)
        if record.subject in by_table:
            lists[next(iter(by_table[record.subject]))].append(case)
        else:
            open_cases.append(case)
    fraction = 0.0 if by_table else options.validation_fraction
    training, validation = split_by_subject(open_cases, validation_fraction=fraction, seed=options.seed)
    return lists["training"] + training, lists["validation"] + validation


def _case_of(record: CaseRecord) -> dict[str, Any]:
    case: dict[str, Any] = {"id": record.id, "subject": record.subject, "image": f"images/{record.id}.nii.gz"}
    if record.has_label:
        case["label"] = f"labels/{record.id}.nii.gz"
    return case | dict(record.entry)


__all__ = ["PrepareOptions", "PrepareResult", "prepare"]
