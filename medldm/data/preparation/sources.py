"""Find the DICOM series, image volumes and label maps of a folder tree, and what belongs together."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import Any

from medldm.data.dicom.errors import Refusal
from medldm.data.dicom.scan import DicomScan, choose_series, scan_files, walk_files
from medldm.data.dicom.series import DicomSeries
from medldm.data.labels import LabelSchema
from medldm.data.layouts.detect import read_layout
from medldm.data.layouts.label_names import names_from_maps
from medldm.data.layouts.names import (
    CaseName,
    file_stem,
    is_known_contrast,
    is_not_meant,
    read_name,
    read_names,
)
from medldm.data.layouts.pairing import pair_labels
from medldm.data.layouts.records import Layout, NamedStructures, Scan
from medldm.data.layouts.subjects import SAY_WHICH, decide_subjects, without_common
from medldm.data.preparation.dicom_sources import TWO_KINDS, pair_label_objects
from medldm.data.preparation.options import PrepareOptions
from medldm.data.preparation.table import SubjectTable
from medldm.errors import ConfigError
from medldm.transforms.readers import volume_suffix


@dataclass(frozen=True, kw_only=True)
class Source:
    """One case of the input. Nothing of it may be shown: paths and patient numbers name people.

    Args:
        key: what names this case among all others, stable between runs.
        subject: what names its subject.
        names: under which the subject table may know it, the most specific first.
        series: the DICOM series, or None.
        images: channel -> file, in order; one image without a channel has the key "".
        label: the label map's file, its named structures, or None.
        contrast: what its name says of its contrast, "" where it says nothing; a word of the user's own names
            the contrast for `channels` alone and is never shown.
        case: what the contrasts of one case share.
        missing: contrasts that were asked for and are not there.
    doubt: why its subject is unsure, or "".
        refusal: why it is refused before it is read, or "".
        is_alone: whether its label map was paired because nothing else stood beside it.
        split: as the layout says, or None.
        entry: as the layout says.
    """

    key: str = field(repr=False)
    subject: str = field(repr=False)
    names: tuple[str, ...] = field(repr=False)
    series: DicomSeries | None = field(default=None, repr=False)
    images: Mapping[str, Path] = field(default_factory=dict, repr=False)
    label: Path | NamedStructures | None = field(default=None, repr=False)
    contrast: str = ""
    case: tuple[str, ...] = field(default=(), repr=False)
    missing: tuple[str, ...] = ()
    doubt: str = ""
    refusal: str = ""
    is_alone: bool = False
    split: str | None = None
    entry: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def known_contrast(self) -> str:
        """Return its contrast where that is a word of the field, which says nothing of a person."""
        return self.contrast if is_known_contrast(self.contrast) else ""

    @property
    def channels(self) -> tuple[str, ...]:
        """Return the names of its channels, () for one image."""
        return tuple(self.images) if len(self.images) > 1 else ()

    @property
    def structures(self) -> tuple[str, ...]:
        """Return the names of its structures where they come as masks."""
        return () if self.label is None or isinstance(self.label, Path) else self.label.names

    @property
    def files(self) -> tuple[Path, ...]:
        """Return all files it is read from."""
        frames = sorted({frame.image.path for frame in self.series.frames}) if self.series else []
        if self.label is None:
            return (*frames, *self.images.values())
        labels = (self.label,) if isinstance(self.label, Path) else self.label.files
        return (*frames, *self.images.values(), *labels)


@dataclass(frozen=True, kw_only=True)
class FoundSources:
    """Everything found.

    Args:
        sources: cases, to be converted or refused one by one.
        lost: why files that became no case are refused, one reason each.
        lost_files: the files of each of these; never to be shown.
        passed_over: numbers of files and series that were not meant, by reason.
        schema: structures that the layout names, or None.
        remarks: what is worth saying of the layout.
    """

    sources: tuple[Source, ...] = field(repr=False)
    lost: tuple[str, ...]
    passed_over: dict[str, int]
    schema: LabelSchema | None = None
    remarks: tuple[str, ...] = ()
    lost_files: tuple[tuple[Path, ...], ...] = field(default=(), repr=False)


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
    found = _from_layout(layout, table) if layout else _find_free(root, options=options, table=table)
    _require_sure_subjects(found.sources, table)
    return replace(found, sources=_join_channels(found.sources, options))


def _from_layout(layout: Layout, table: SubjectTable) -> FoundSources:
    """Take the scans of a layout that says itself what it is."""
    sources = [_scan_source(scan, layout) for scan in layout.scans]
    volumes = [path for source in sources for path in source.files]
    sources, named = _take_named_labels(sources, volumes, table, layout.root)
    said = Counter(issue.message for issue in layout.problems if issue.severity == "warning")
    lost = [issue for issue in layout.problems if issue.severity == "error"]
    return FoundSources(
        sources=tuple(replace(source, label=named.get(source.key, source.label)) for source in sources),
        lost=tuple(issue.message for issue in lost),
        lost_files=tuple((layout.root / issue.file,) for issue in lost),
        passed_over={},
        schema=layout.schema,
        remarks=(f"read as {layout.name} layout", *(f"{count} x {text}" for text, count in said.items())),
    )


def _scan_source(scan: Scan, layout: Layout) -> Source:
    files = [path.relative_to(layout.root).as_posix() for path in scan.images.values()]
    stems = [file_stem(path) for path in scan.images.values()]
    contrast = next(iter(scan.images), "") if len(scan.images) == 1 else ""
    return Source(
        key="\n".join(("file", *files)),
        subject=scan.subject,
        names=tuple(dict.fromkeys((*files, *stems, scan.name, scan.subject))),
        images=dict(scan.images) if len(scan.images) > 1 else {"": next(iter(scan.images.values()))},
        label=scan.label,
        contrast=contrast,
        case=(scan.case or scan.name,),
        missing=tuple(name for name in layout.channels if name not in scan.images),
        doubt=scan.doubt,
        split=scan.split,
        entry=scan.entry,
    )


def _find_free(root: Path, *, options: PrepareOptions, table: SubjectTable) -> FoundSources:
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
    scan = scan_files(others, max_bytes=options.max_bytes)
    passed_over.update(scan.ignored)
    base = root.parent if root.is_file() else root
    read = read_names(path.relative_to(base) for path in volumes)
    names = {base / path: name for path, name in read.items()}
    labels = {path: name for path, name in names.items() if name.is_label}
    sources = [_file_source(path, name, base) for path, name in names.items() if not name.is_label]
    series = _chosen_series(scan, options, passed_over)
    sources, named = _take_named_labels(sources, names, table, base)
    file_names = [names[next(iter(source.images.values()))] for source in sources]
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


def _take_named_labels(
    sources: Sequence[Source], volumes: Iterable[Path], table: SubjectTable, base: Path
) -> tuple[list[Source], dict[str, Path]]:
    """Return the sources that are no label maps by the table, and source -> label map as it says."""
    by_name: dict[str, list[Path]] = defaultdict(list)
    for path in volumes:
        for name in {path.relative_to(base).as_posix(), path.name}:
            by_name[name].append(path)
    named: dict[str, Path] = {}
    for source in sources:
        row = table.row_of(source.names)
        if row is None or not row.label:
            continue
        found = by_name.get(row.label, [])
        if len(found) != 1:
            raise ConfigError(
                f"{len(found)} files of the input are a label map that the table names; give each by its "
                "path relative to the input folder"
            )
        named[source.key] = found[0]
    claimed = Counter(named.values())
    if any(count > 1 for count in claimed.values()):
        raise ConfigError("the table gives one label map to two images; give each image its own row and map")
    kept = [source for source in sources if not claimed.keys() & set(source.images.values())]
    return kept, named


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


def _join_channels(sources: Sequence[Source], options: PrepareOptions) -> tuple[Source, ...]:
    """Join the contrasts of one case to one source with channels, where they are asked for."""
    if not options.channels:
        return tuple(sources)
    wanted = [name.lower() for name in options.channels]
    groups: dict[tuple[str, tuple[str, ...]], list[Source]] = defaultdict(list)
    joined = []
    for source in sources:
        if source.series is not None or not source.contrast:
            refusal = source.refusal or "its name says no contrast; leave it out, or name its contrast"
            joined.append(replace(source, refusal=refusal))
        else:
            groups[source.subject, source.case].append(source)
    for members in groups.values():
        joined.append(_joined(members, wanted))
    return tuple(joined)


def _joined(members: Sequence[Source], wanted: Sequence[str]) -> Source:
    by_contrast: dict[str, list[Source]] = defaultdict(list)
    for source in members:
        by_contrast[source.contrast.lower()].append(source)
    chosen = [source for name in wanted for source in by_contrast.get(name, [])]
    missing = [name for name in wanted if name not in by_contrast]
    refusal = next((source.refusal for source in chosen if source.refusal), "")
    labels = {one.label if isinstance(one.label, Path) else one.label and one.label.files for one in chosen}
    if len(chosen) + len(missing) > len(wanted):
        refusal = refusal or "two of its images are of one contrast; keep one of them"
    if len(labels) > 1:
        refusal = refusal or "its contrasts have different label maps; keep one for all of them"
    first = (chosen or list(members))[0]
    return replace(
        first,
        key="\n".join(("case", *first.case, *wanted)),
        images={name: by_contrast[name][0].images[""] for name in wanted if name in by_contrast},
        contrast="",
        missing=tuple(missing),
        refusal=refusal,
        is_alone=any(source.is_alone for source in chosen),
    )
