"""Find the DICOM series, image volumes and label maps of a folder tree, and what belongs together."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePath

from medldm.data.dicom.errors import Refusal
from medldm.data.dicom.scan import DicomScan, choose_series, scan_files
from medldm.data.dicom.series import DicomSeries
from medldm.data.layouts.detect import read_layout
from medldm.data.layouts.label_names import names_from_maps
from medldm.data.layouts.names import (
    CaseName,
    file_stem,
    is_not_meant,
    read_name,
    read_names,
)
from medldm.data.layouts.pairing import pair_labels
from medldm.data.layouts.subjects import SAY_WHICH, decide_subjects, without_common
from medldm.data.preparation.contrasts import join_channels
from medldm.data.preparation.dicom_sources import TWO_KINDS, pair_label_objects
from medldm.data.preparation.layout_sources import sources_of_layout, take_named_labels
from medldm.data.preparation.options import PrepareOptions
from medldm.data.preparation.source import FoundSources, Source
from medldm.data.preparation.table import SubjectTable
from medldm.errors import ConfigError
from medldm.files import walk_files
from medldm.transforms.readers import volume_suffix


def find_sources(
    root: Path, *, options: PrepareOptions | None = None, table: SubjectTable | None = None
) -> FoundSources:
    """Scan a folder tree.

    Args:
        root: the input.
        options: of the run.
        table: of the subjects; its column "label" names label maps.

    Raises:
        ConfigError: for a label map in the table that is not in the input, or subjects that the names leave
            unsure and the table does not say.
    """
    options, table = options or PrepareOptions(), table or SubjectTable()
    layout = read_layout(root) if root.is_dir() else None
    found = sources_of_layout(layout, table) if layout else _find_free(root, options=options, table=table)
    _require_sure_subjects(found.sources, table)
    return replace(found, sources=join_channels(found.sources, options.channels))


def _find_free(root: Path, *, options: PrepareOptions, table: SubjectTable) -> FoundSources:
    volumes, others, passed_over = _walk(root)
    scan = scan_files(others, max_bytes=options.max_bytes)
    passed_over.update(scan.ignored)
    base = root.parent if root.is_file() else root
    read = read_names(path.relative_to(base) for path in volumes)
    names = {base / path: name for path, name in read.items()}
    labels = {path: name for path, name in names.items() if name.is_label}
    sources = [_file_source(path, name, base) for path, name in names.items() if not name.is_label]
    series = _chosen_series(scan, options, passed_over)
    sources, named = take_named_labels(sources, names, table, base)
    file_names = [names[source.image_files[0]] for source in sources]
    # Series know their patient, and segmentations in DICOM the series to which they belong.
    series_sources = [_series_source(one, base) for one in series]
    places = [read_name(PurePath(_folder_of(one, base), "image")) for one in series]
    sources = _with_subjects(sources, file_names, options)
    sources = _with_patients(sources, file_names, series_sources, places)
    everything = [*sources, *series_sources]
    free = {path: name for path, name in labels.items() if path not in named.values()}
    pairs = pair_labels([*file_names, *places], free, nameless=range(len(sources), len(everything)))
    dicom = pair_label_objects(scan, series, description=options.segmentation)
    passed_over.update(dicom.passed_over)
    own = {
        n: dicom.by_series[one.number]
        for n, one in enumerate(series, len(sources))
        if one.number in dicom.by_series
    }
    contested = dict.fromkeys(own.keys() & pairs.labels.keys(), TWO_KINDS) | pairs.contested
    if n_unused := sum(everything[index].key in named for index in own):
        passed_over["segmentation of a series whose label map the table names"] += n_unused
    paired = tuple(
        replace(
            source,
            label=named.get(source.key, own.get(index, pairs.labels.get(index))),
            refusal="" if source.key in named else contested.get(index, ""),
            is_alone=index in pairs.alone and source.key not in named,
        )
        for index, source in enumerate(everything)
    )
    maps = [source.label for source in paired if isinstance(source.label, Path)]
    schema, conflicts = names_from_maps(maps, root=base)
    lost = [*pairs.lost.values(), *(issue.message for issue in conflicts)]
    lost += [*dicom.lost, *(str(error) for error in scan.damaged)]
    lost_files = [
        *((path,) for path in pairs.lost),
        *((base / issue.file,) for issue in conflicts),
        *dicom.lost_files,
    ]
    return FoundSources(
        sources=paired,
        lost=tuple(lost),
        lost_files=(*lost_files, *scan.damaged_files),
        passed_over=dict(passed_over),
        schema=schema,
    )


def _walk(root: Path) -> tuple[list[Path], list[Path], Counter[str]]:
    """Return the volume files, those that may be DICOM, and counts of what is neither."""
    volumes: list[Path] = []
    others: list[Path] = []
    passed_over: Counter[str] = Counter()
    for path in walk_files(root):
        if path.name.startswith("."):
            passed_over["hidden file"] += 1
        elif volume_suffix(path) is None:
            others.append(path)
        elif is_not_meant(path):
            passed_over["probability map or transform"] += 1
        else:
            volumes.append(path)
    return volumes, others, passed_over


def _chosen_series(scan: DicomScan, options: PrepareOptions, passed_over: Counter[str]) -> list[DicomSeries]:
    """Return the series that were asked for, with those that will be refused, and count the others."""
    chosen = {
        id(series)
        for series in choose_series(
            scan,
            modality=options.modality,
            description=options.description,
            min_slices=options.min_slices,
            refused=True,
        )
    }
    kept = []
    for series in scan.series:
        if series.refusal is not None and series.refusal.refusal in (Refusal.LOCALIZER, Refusal.PROJECTION):
            passed_over[f"{series.refusal.refusal.value} series"] += 1
        elif id(series) not in chosen:
            passed_over["series of another kind than asked for"] += 1
        else:
            kept.append(series)
    return kept


def _file_source(path: Path, name: CaseName, base: Path) -> Source:
    relative = path.relative_to(base)
    stem = file_stem(path)
    names = (relative.as_posix(), path.name, stem, *name.key[-1:], *_folders(relative.parent), name.sub)
    return Source(
        key=f"file\n{relative.as_posix()}",
        subject="",
        names=tuple(dict.fromkeys(one for one in names if one)),
        images={"": path},
        contrast=name.channel,
        case=name.key,
    )


def _with_subjects(
    sources: Sequence[Source], names: Sequence[CaseName], options: PrepareOptions
) -> list[Source]:
    subjects = decide_subjects(names, subject_from=options.subject_from)
    return [
        replace(
            source,
            subject=subject or "/".join(source.names[:1]),
            doubt=subjects.reason if index in subjects.unsure else "",
        )
        for index, (source, subject) in enumerate(zip(sources, subjects.names, strict=True))
    ]


def _with_patients(
    sources: Sequence[Source],
    names: Sequence[CaseName],
    series: Sequence[Source],
    places: Sequence[CaseName],
) -> list[Source]:
    """Give files in a folder with DICOM series the patient of these, or a doubt where they are several."""
    paths = without_common([*(name.folders for name in names), *(place.folders for place in places)])
    patients: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for source, path in zip(series, paths[len(names) :], strict=True):
        for depth in range(1, len(path) + 1):
            patients[path[:depth]].add(source.subject)
    linked = []
    for source, path in zip(sources, paths, strict=False):
        depths = (path[:depth] for depth in range(len(path), 0, -1))
        found = next((patients[folder] for folder in depths if folder in patients), set())
        if len(found) == 1:
            source = replace(source, subject=next(iter(found)), doubt="")
        elif found:
            source = replace(source, doubt="files lie in one folder with DICOM series of several patients")
        linked.append(source)
    return linked


def _folder_of(series: DicomSeries, base: Path) -> Path:
    folder = series.image.path.parent
    return folder.relative_to(base) if folder.is_relative_to(base) else Path()


def _series_source(series: DicomSeries, base: Path) -> Source:
    image = series.image
    frame = min(series.frames, key=lambda one: (one.position or (), one.image.sop_uid, one.index))
    place = (
        frame.image.sop_uid,
        str(frame.index),
        *series.image.image_type,
        str(series.shape),
        str(series.volume),
    )
    relative = _folder_of(series, base)
    patient_id = image.patient.split("\n")[0]
    return Source(
        key="\n".join(("series", image.series_uid, *place)),
        subject=image.patient or image.study_uid or str(relative),
        names=tuple(dict.fromkeys(name for name in (patient_id, *_folders(relative)) if name)),
        series=series,
    )


def _folders(relative: Path) -> list[str]:
    """Return the folder's relative path and its parts, the nearest first."""
    return [name for name in (relative.as_posix(), *reversed(relative.parts)) if name != "."]


def _require_sure_subjects(sources: Sequence[Source], table: SubjectTable) -> None:
    """Refuse to go on where names leave open whose scans these are."""
    doubts = [source for source in sources if source.doubt and not _names_subject(source, table)]
    if doubts:
        counted = f"{len(doubts)} of {len(sources)} scans"
        raise ConfigError(
            f"the subjects of {counted} are unsure: {doubts[0].doubt}; say which it is with --subject-from "
            f"folder, top-folder or name, or {SAY_WHICH}"
        )


def _names_subject(source: Source, table: SubjectTable) -> bool:
    row = table.row_of(source.names)
    return row is not None and row.subject is not None
