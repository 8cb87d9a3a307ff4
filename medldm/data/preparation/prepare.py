"""Turn a folder of DICOM series and volume files into a cohort that can be trained on and shared."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from medldm.data.channels import CHANNELS_KEY
from medldm.data.cohort import LABELS_FILE
from medldm.data.delimited_table import show_lines
from medldm.data.identity import load_key
from medldm.data.listing import COHORT_FILE
from medldm.data.preparation.cases import CaseOutcome, CasePlan, convert_cases
from medldm.data.preparation.files import CaseRecord, open_output, read_records, remove_unfinished, write_json
from medldm.data.preparation.labels import LabelTable, read_label_table
from medldm.data.preparation.options import PrepareOptions
from medldm.data.preparation.plans import (
    is_done,
    kept_case,
    plan_cases,
    remove_other_channels,
    remove_superseded,
    split_changed,
)
from medldm.data.preparation.private_list import HOW_TO_FIND, IN_LIST, Origin, PrivateList, open_private_list
from medldm.data.preparation.remarks import describe_decisions
from medldm.data.preparation.result import PrepareResult, Refused
from medldm.data.preparation.source import FoundSources
from medldm.data.preparation.sources import find_sources
from medldm.data.preparation.structures import is_named, structure_values
from medldm.data.preparation.table import SubjectTable, read_subject_table
from medldm.data.preparation.table_match import TableMatch, match_table
from medldm.data.splits import complete_split
from medldm.errors import ConfigError, MissingFileError
from medldm.runtime.output_lock import locked_output

logger = logging.getLogger(__name__)

SUMMARY_FILE = "prepare.json"


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
            by its folder (labels, labelsTr, seg, masks) or a word of its name (_seg, -label, _dseg, aseg) and
            belongs to the image of the same name, or to the image with which it stands alone in one folder.
            Masks of single structures are merged by the names of their files.
        output_dir: must lie outside the input.
        table: CSV or TSV of the subjects; see `read_subject_table`.
        options: see `PrepareOptions`.

    Returns:
        Cases, refusals and counts, with `.table()` and `.exit_code`.

    Raises:
        MissingFileError: where there is no input.
        FolderInUseError: where another run writes into the output.
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
    subjects, labels = read_subject_table(table, scalars=options.scalars), read_label_table(options.labels)
    key = load_key(options.key_file, forbidden=(source_root, Path(output_dir).expanduser()))
    private_list = open_private_list(
        options.private_list,
        key_file=options.key_file,
        output=Path(output_dir).expanduser().resolve(),
        forbidden=(source_root, Path(output_dir)),
    )
    found = find_sources(source_root, options=options, table=subjects)
    root = open_output(Path(output_dir), source=source_root, overwrite=options.overwrite)
    with locked_output(root, work="prepare"):
        remove_unfinished(root)
        return _fill_output(
            root,
            found,
            key=key,
            labels=labels,
            subjects=subjects,
            options=options,
            private_list=private_list,
            has_table=table is not None,
        )


def _fill_output(
    root: Path,
    found: FoundSources,
    *,
    key: bytes,
    labels: LabelTable,
    subjects: SubjectTable,
    options: PrepareOptions,
    private_list: PrivateList | None,
    has_table: bool,
) -> PrepareResult:
    """Convert what is new, remove what was replaced, and write the lists of all that is there."""
    labels, values = _value_structures(found, labels)
    earlier = read_records(root)
    match = match_table(subjects, found.sources, is_given=has_table)
    planned = plan_cases(
        found,
        earlier,
        subjects=match,
        key=key,
        root=root,
        labels=labels,
        options=options,
        values=values,
    )
    warnings = _table_warnings(match, planned, strict=options.strict_table)
    if private_list is not None:
        private_list.write(_origins(planned, found))
    remarks = [*found.remarks, *describe_decisions(planned, options)]
    plans = [plan for plan in planned if not (plan.source.missing and options.drop_incomplete)]
    remove_other_channels(root, plans, earlier, overwrite=options.overwrite)
    fresh = [plan for plan in plans if not is_done(plan, earlier)]
    outcomes = [kept_case(plan, earlier) for plan in plans if is_done(plan, earlier)]
    changed, fresh = split_changed(fresh, earlier, overwrite=options.overwrite)
    outcomes += [*changed, *convert_cases(fresh, options)]
    remove_superseded(root, outcomes, earlier)
    result = _finish(
        root,
        outcomes,
        found,
        labels=labels,
        subjects=subjects,
        options=options,
        warnings=warnings,
        remarks=remarks,
    )
    if private_list is not None:
        private_list.write(_origins(planned, found, reasons={one.id: one.reason for one in result.refused}))
    if result.refused:
        logger.warning("%s", IN_LIST if private_list is not None else HOW_TO_FIND)
    logger.info("prepared %d cases, refused %d", len(result.cases), len(result.refused))
    return result


def _value_structures(found: FoundSources, labels: LabelTable) -> tuple[LabelTable, dict[str, int]]:
    """Take the layout's names where no table gives them, and give structures that come as masks values."""
    if found.schema is not None and labels == LabelTable():
        labels = replace(labels, names=found.schema.structures, colours=found.schema.colours)
    names = [name for source in found.sources for name in source.structures]
    if not names:
        return labels, {}
    n_maps = sum(isinstance(source.label, Path) for source in found.sources)
    if n_maps and not labels.names:
        n_masks = sum(bool(source.structures) for source in found.sources)
        raise ConfigError(
            f"{n_maps} cases have a label map of numbers and {n_masks} have named structures; give a label "
            "table with --labels, so that a number and a name mean the same"
        )
    values = structure_values(names, labels)
    unused = [line for name, line in labels.name_lines.items() if not is_named(name, names)]
    if unused:
        logger.warning(
            "%d rows of the label table name structures that no case has (%s)",
            len(unused),
            show_lines(unused),
        )
    if not labels.names:
        labels = replace(labels, names={value: name for name, value in values.items()})
    return labels, values


def _ordinal(number: int) -> str:
    """Name a source that became no case."""
    return f"source {number}"


def _origins(
    plans: Sequence[CasePlan], found: FoundSources, *, reasons: Mapping[str, str] | None = None
) -> list[Origin]:
    """Say which files every case, and every source that became none, is read from."""
    known = reasons or {}
    origins = [
        Origin(
            id=plan.record.id,
            subject=plan.record.subject,
            files=plan.source.files,
            reason=known.get(plan.record.id, ""),
        )
        for plan in plans
    ]
    return origins + [
        Origin(id=_ordinal(number), subject="", files=files, reason=reason)
        for number, (reason, files) in enumerate(zip(found.lost, found.lost_files, strict=True), start=1)
    ]


def _table_warnings(match: TableMatch, plans: Sequence[CasePlan], *, strict: bool) -> list[str]:
    ids = [plan.record.id for plan in plans]
    if strict:
        match.require_complete(ids)
    problems = match.problems(ids)
    for problem in problems:
        logger.warning("%s", problem)
    return [*(f"the subject table: {note}" for note in match.notes), *problems]


def _left_over(records: Sequence[CaseRecord], labels: LabelTable) -> list[str]:
    """Say which rows of the label table nothing uses, and which cases a given split says nothing of."""
    lines = []
    labelled = [record for record in records if record.has_label]
    if labelled and all(record.source_values for record in labelled):
        unused = labels.unused_lines(value for record in labelled for value in record.source_values)
        if unused:
            lines.append(
                f"{len(unused)} rows of the label table name values that no label map has "
                f"({show_lines(unused)})"
            )
    split = {record.subject for record in records if record.split is not None}
    n_open = sum(record.subject not in split for record in records)
    if _is_split(records) and n_open:
        lines.append(f"{n_open} cases have no split in the subject table: they are in training")
    for line in lines:
        logger.warning("%s", line)
    return lines


def _finish(
    root: Path,
    outcomes: Sequence[CaseOutcome],
    found: FoundSources,
    *,
    labels: LabelTable,
    subjects: SubjectTable,
    options: PrepareOptions,
    remarks: Sequence[str],
    warnings: Sequence[str],
) -> PrepareResult:
    """Write the lists of everything that is in the output now, also from earlier runs."""
    records = sorted(
        (record for record in read_records(root).values() if record.is_done), key=lambda one: one.id
    )
    warnings = [*warnings, *_left_over(records, labels)]
    refused = [Refused(id=one.record.id, reason=one.reason) for one in outcomes if one.reason]
    refused += [Refused(id=_ordinal(n), reason=reason) for n, reason in enumerate(found.lost, start=1)]
    schema = labels.schema(value for record in records for value in record.label_values)
    if schema is not None:
        write_json(root / LABELS_FILE, schema.to_dict())
    lists = _split(records, options)
    if any(lists.values()):
        classes = {"classes": dict(subjects.classes)} if subjects.classes else {}
        channels = {CHANNELS_KEY: list(records[0].channels)} if records[0].channels else {}
        write_json(root / COHORT_FILE, {**channels, **lists, **classes})
    result = PrepareResult(
        cases=tuple(records),
        refused=tuple(refused),
        passed_over=dict(found.passed_over),
        n_subjects=len({record.subject for record in records}),
        n_validation=len(lists["validation"]),
        n_test=len(lists["test"]),
        remarks=tuple(remarks),
        warnings=tuple(warnings),
        has_private_list=options.private_list is not False,
    )
    write_json(root / SUMMARY_FILE, result.to_dict())
    return result


def _split(records: Sequence[CaseRecord], options: PrepareOptions) -> dict[str, list[dict[str, Any]]]:
    """Split by subject: as the table says, else by the seeded rank of the subjects it says nothing of."""
    stated: dict[str, set[str]] = defaultdict(set)
    for record in records:
        if record.split is not None:
            stated[record.subject].add(record.split)
    if mixed := [subject for subject, splits in stated.items() if len(splits) > 1]:
        raise ConfigError(
            f"the subject table puts {len(mixed)} subjects into several splits, the first is {mixed[0]}"
        )
    lists: dict[str, list[dict[str, Any]]] = {"training": []}
    for record in records:
        place = min(stated.get(record.subject, {"training"}))
        lists.setdefault(place, []).append(_case_of(record))
    if _is_split(records):
        lists.setdefault("validation", [])
    return complete_split(
        lists,
        validation_fraction=options.validation_fraction,
        test_fraction=options.test_fraction,
        seed=options.seed,
    )


def _is_split(records: Sequence[CaseRecord]) -> bool:
    """Whether more is stated than which cases are for the test; then what is open trains."""
    return any(record.split in ("training", "validation") for record in records)


def _case_of(record: CaseRecord) -> dict[str, Any]:
    files = [f"images/{name}" for name in record.image_names]
    image = files if record.channels else files[0]
    case: dict[str, Any] = {"id": record.id, "subject": record.subject, "image": image}
    if record.has_label:
        case["label"] = f"labels/{record.id}.nii.gz"
    return case | dict(record.entry)
