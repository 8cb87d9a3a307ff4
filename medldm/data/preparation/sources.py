"""Find the DICOM series, image volumes and label maps of a folder tree, and what belongs together."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from medldm.data.dicom.errors import Refusal
from medldm.data.dicom.scan import choose_series, scan_files, walk_files
from medldm.data.dicom.series import DicomSeries
from medldm.transforms.readers import volume_stem, volume_suffix

_LABEL_FOLDER = re.compile(r"(labels?|segs?|segmentations?|masks?)(Tr|Ts)?", re.IGNORECASE)
_IMAGE_FOLDER = re.compile(r"(images?|imgs?|volumes?)(Tr|Ts)?", re.IGNORECASE)
_LABEL_NAME = re.compile(
    r"(?:^|[_.\-])(labels?|labelmap|segs?|segmentation|mask|dseg|aseg|aparc\+aseg|aparc)$", re.IGNORECASE
)
_IMAGE_NAME = re.compile(r"(?:^|[_.\-])(image|img|volume|0000)$", re.IGNORECASE)
_LOST_LABEL = "a label map belongs to no image; put it beside its image, or name both alike"
_BIDS = re.compile(r"sub-[A-Za-z0-9]+")


@dataclass(frozen=True, kw_only=True)
class Source:
    """One volume of the input. Nothing of it may be shown: paths and patient numbers name people.

    Args:
        key: what names this volume among all others, stable between runs.
        subject: what names its subject.
        names: under which the subject table may know it, the most specific first.
        folder: where it lies.
        series: the DICOM series, or None.
        file: the volume file, or None.
        label: the label map's file, or None.
    """

    key: str = field(repr=False)
    subject: str = field(repr=False)
    names: tuple[str, ...] = field(repr=False)
    folder: Path = field(repr=False)
    series: DicomSeries | None = field(default=None, repr=False)
    file: Path | None = field(default=None, repr=False)
    label: Path | None = field(default=None, repr=False)

    @property
    def files(self) -> tuple[Path, ...]:
        """Return all files it is read from."""
        images = sorted({frame.image.path for frame in self.series.frames}) if self.series else []
        return (*images, *(path for path in (self.file, self.label) if path is not None))


@dataclass(frozen=True, kw_only=True)
class FoundSources:
    """Everything found.

    Args:
        sources: images with their label maps, to be converted or refused one by one.
        lost: why files that became no source are refused, one reason each.
        passed_over: numbers of files and series that were not meant, by reason.
    """

    sources: tuple[Source, ...] = field(repr=False)
    lost: tuple[str, ...]
    passed_over: dict[str, int]


def find_sources(
    root: Path,
    *,
    modality: str | None = None,
    description: str | None = None,
    min_slices: int = 2,
    max_bytes: int,
) -> FoundSources:
    """Scan a folder tree.

    Args:
        root: the input.
        modality: only DICOM series of this modality; see `choose_series`.
        description: only DICOM series whose description matches.
        min_slices: only DICOM series of so many slices.
        max_bytes: cap on a volume.
    """
    images: list[Path] = []
    labels: list[Path] = []
    others: list[Path] = []
    for path in walk_files(root):
        if volume_suffix(path) is None:
            others.append(path)
        else:
            (labels if is_label_file(path) else images).append(path)
    scan = scan_files(others, max_bytes=max_bytes)
    passed_over = Counter(scan.ignored)
    chosen = {
        id(series)
        for series in choose_series(
            scan, modality=modality, description=description, min_slices=min_slices, refused=True
        )
    }
    sources = [_file_source(path, root) for path in images]
    for series in scan.series:
        if series.refusal is not None and series.refusal.refusal is Refusal.LOCALIZER:
            passed_over["localizer series"] += 1
        elif id(series) not in chosen:
            passed_over["series of another kind than asked for"] += 1
        else:
            sources.append(_series_source(series, root))
    paired, lost = _pair(sources, labels, root)
    reasons = [_LOST_LABEL] * len(lost) + [str(error) for error in scan.damaged]
    return FoundSources(sources=paired, lost=tuple(reasons), passed_over=dict(passed_over))


def is_label_file(path: Path) -> bool:
    """Tell label maps by a folder (labels, labelsTr, seg, masks) or an ending (_seg, -label, _dseg, aseg)."""
    return bool(_LABEL_FOLDER.fullmatch(path.parent.name) or _LABEL_NAME.search(volume_stem(path)))


def pairing_key(path: Path, root: Path) -> str:
    """Return what an image and its label map share: folders and stem without the words for either."""
    parts = [
        part
        for part in path.parent.relative_to(root).parts
        if not _LABEL_FOLDER.fullmatch(part) and not _IMAGE_FOLDER.fullmatch(part)
    ]
    stem = _IMAGE_NAME.sub("", _LABEL_NAME.sub("", volume_stem(path)))
    return "/".join((*parts, stem))


def _file_source(path: Path, root: Path) -> Source:
    relative = path.relative_to(root) if path != root else Path(path.name)
    folder = path.parent if path != root else root.parent
    bids = _BIDS.search(relative.as_posix())
    key = pairing_key(path, folder if path == root else root)
    names = (
        relative.as_posix(),
        path.name,
        volume_stem(path),
        key.rsplit("/", 1)[-1],
        *_folders(relative.parent),
    )
    return Source(
        key=f"file\n{relative.as_posix()}",
        subject=bids.group(0) if bids else key,
        names=tuple(dict.fromkeys(name for name in (*names, *([bids.group(0)] if bids else [])) if name)),
        folder=folder,
        file=path,
    )


def _series_source(series: DicomSeries, root: Path) -> Source:
    image = series.image
    folder = image.path.parent
    frame = min(series.frames, key=lambda one: (one.position or (), one.image.sop_uid, one.index))
    place = (
        frame.image.sop_uid,
        str(frame.index),
        *series.image.image_type,
        str(series.shape),
        str(series.volume),
    )
    relative = folder.relative_to(root) if folder.is_relative_to(root) else Path()
    patient_id = image.patient.split("\n")[0]
    return Source(
        key="\n".join(("series", image.series_uid, *place)),
        subject=image.patient or image.study_uid or str(relative),
        names=tuple(dict.fromkeys(name for name in (patient_id, *_folders(relative)) if name)),
        folder=folder,
        series=series,
    )


def _folders(relative: Path) -> list[str]:
    """Return the folder's relative path and its parts, the nearest first."""
    return [name for name in (relative.as_posix(), *reversed(relative.parts)) if name != "."]


def _pair(
    sources: Sequence[Source], labels: Iterable[Path], root: Path
) -> tuple[tuple[Source, ...], tuple[Path, ...]]:
    """Give each label map to the image of its pairing key, else to the only unlabelled image near it."""
    by_key: dict[str, list[int]] = defaultdict(list)
    for index, source in enumerate(sources):
        if source.file is not None:
            by_key[pairing_key(source.file, root)].append(index)
    given: dict[int, Path] = {}
    waiting: list[Path] = []
    for label in labels:
        free = [index for index in by_key.get(pairing_key(label, root), []) if index not in given]
        if len(free) == 1:
            given[free[0]] = label
        else:
            waiting.append(label)
    lost = []
    for label in waiting:
        nearest = _nearest(label, sources, root, taken=given)
        if nearest is None:
            lost.append(label)
        else:
            given[nearest] = label
    paired = tuple(replace(source, label=given.get(index)) for index, source in enumerate(sources))
    return paired, tuple(lost)


def _nearest(label: Path, sources: Sequence[Source], root: Path, *, taken: dict[int, Path]) -> int | None:
    """Climb from the label map's folder to the first that holds images; None where these are several."""
    for folder in (label.parent, *label.parent.parents):
        if not folder.is_relative_to(root):
            return None
        inside = [
            index
            for index, source in enumerate(sources)
            if source.folder.is_relative_to(folder)
            and (source.series is None or source.series.refusal is None)
        ]
        free = [index for index in inside if index not in taken]
        if inside:
            return free[0] if len(free) == 1 else None
    return None
