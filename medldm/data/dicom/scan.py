"""Scan a folder tree for DICOM series and say for each, before any voxel is read, whether it is a volume."""

from __future__ import annotations

import logging
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

from medldm.data.dicom.attributes import HEADER_TAGS
from medldm.data.dicom.errors import DicomError, Refusal
from medldm.data.dicom.files import NotDicomError, open_dicom
from medldm.data.dicom.frames import Frame, frames_of
from medldm.data.dicom.geometry import make_stack, regular_step
from medldm.data.dicom.label_objects import LabelObject, is_label_object, read_label_object
from medldm.data.dicom.series import DicomSeries, check_kind
from medldm.data.dicom.sop_classes import name_of
from medldm.data.dicom.volumes import group_by_geometry, places_of, split_volumes
from medldm.errors import MissingFileError
from medldm.files import hash_file, walk_files
from medldm.transforms.foreign_formats import foreign_format
from medldm.transforms.raw_volume import DEFAULT_MAX_BYTES
from medldm.transforms.readers import volume_suffix

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class DicomScan:
    """What a folder tree holds.

    Args:
        series: one for each volume.
        n_files: all files seen.
        ignored: how many files were passed over, by reason.
        damaged: one error for each series without a readable slice and each damaged file of unknown series.
        damaged_files: the files of each of these; never to be shown.
        labels: segmentations and structure sets, which hold structures of other series.
    """

    series: tuple[DicomSeries, ...]
    n_files: int
    ignored: dict[str, int]
    damaged: tuple[DicomError, ...] = ()
    damaged_files: tuple[tuple[Path, ...], ...] = field(default=(), repr=False)
    labels: tuple[LabelObject, ...] = field(default=(), repr=False)

    def table(self) -> str:
        """Lay the series out as text, without any identity."""
        lines = [f"{'series':>6}  {'modality':8}  {'columns x rows x slices':24}  state"]
        for series in self.series:
            size = " x ".join(str(number) for number in series.shape)
            state = "regular" if series.refusal is None else str(series.refusal)
            volume = "" if series.volume[1] == 1 else f"volume {series.volume[0]} of {series.volume[1]}, "
            modality = re.sub(r"[^A-Z]", "", series.image.modality.upper())[:4]
            lines.append(f"{series.number:>6}  {modality:8}  {size:24}  {volume}{state}")
        lines += [f"{'-':>6}  {error}" for error in self.damaged]
        kinds = Counter(label.kind for label in self.labels)
        lines += [f"labels of other series: {count} files ({kind})" for kind, count in sorted(kinds.items())]
        lines += [f"passed over: {count} files ({reason})" for reason, count in sorted(self.ignored.items())]
        return "\n".join(lines)


def scan_dicom(folder: str | Path, *, max_bytes: int = DEFAULT_MAX_BYTES) -> DicomScan:
    """Find all series below a folder, at any depth, with or without DICOMDIR, whatever the files are called.

    Only headers are read. Files that are not DICOM, DICOM objects that are no images by their SOP class, and
    byte-equal copies of slices are passed over and counted by name. Segmentations and structure sets become
    `labels`.

    Args:
        folder: the tree, or one file.
        max_bytes: cap on a volume as float32.

    Raises:
        MissingFileError: where there is no such folder.
    """
    root = Path(folder).expanduser()
    if not root.exists():
        raise MissingFileError("the DICOM folder does not exist; check the path")
    return scan_files(walk_files(root), max_bytes=max_bytes)


def scan_files(files: Iterable[Path], *, max_bytes: int = DEFAULT_MAX_BYTES) -> DicomScan:
    """Scan given files; see `scan_dicom`."""
    collected = _Collected()
    for path in files:
        collected.add(path)
    series: list[DicomSeries] = []
    for key, frames in sorted(collected.frames.items()):
        frames, conflict = _without_copies(frames, collected.ignored)
        damage = collected.damage_of(key)
        for group in group_by_geometry(frames):
            for one in _judged_volumes(group, damage=conflict or damage, max_bytes=max_bytes):
                series.append(replace(one, number=len(series) + 1))
    labels = collected.labels_once()
    damaged = collected.unassigned_damage()
    if damaged:
        logger.warning("%d damaged DICOM files or series have no readable slice", len(damaged))
    return DicomScan(
        series=tuple(series),
        n_files=collected.n_files,
        ignored=dict(collected.ignored),
        damaged=tuple(error for error, _ in damaged),
        damaged_files=tuple(files for _, files in damaged),
        labels=labels,
    )


def is_dicom_tree(folder: str | Path, *, max_files: int = 200) -> bool:
    """Say whether one of a tree's first files is DICOM by its preamble; for hints, not for reading."""
    for path in islice(walk_files(Path(folder).expanduser()), max_files):
        try:
            with path.open("rb") as file:
                if file.read(132)[128:] == b"DICM":
                    return True
        except OSError:
            continue
    return False


class _Collected:
    """Frames by series, label objects, and the files that are neither."""

    def __init__(self) -> None:
        self.n_files = 0
        self.frames: dict[str, list[Frame]] = defaultdict(list)
        self.ignored: Counter[str] = Counter()
        self.labels: list[LabelObject] = []
        self.lost_labels: list[tuple[DicomError, tuple[Path, ...]]] = []
        self.damaged: dict[str, DicomError] = {}
        self.damaged_files: dict[str, list[Path]] = defaultdict(list)
        self.unassigned: list[Path] = []
        self._series_of_folder: dict[Path, set[str]] = defaultdict(set)

    def add(self, path: Path) -> None:
        """Read a file's header and put its frames where they belong."""
        self.n_files += 1
        key = None
        try:
            opened = open_dicom(path, tags=HEADER_TAGS)
            if is_label_object(opened.sop_class):
                self._add_label(path)
                return
            key = opened.series_uid or None
            frames = frames_of(opened, path)
        except NotDicomError:
            found = foreign_format(path) if volume_suffix(path) is None else None
            self.ignored[found or "not DICOM"] += 1
        except DicomError as error:
            if key is None:
                self.unassigned.append(path)
            else:
                self.damaged.setdefault(key, error)
                self.damaged_files[key].append(path)
                self._series_of_folder[path.parent].add(key)
                self.frames.setdefault(key, [])
        else:
            if not frames:
                self.ignored[_kind_ignored(path, opened.sop_class)] += 1
                return
            key = key or f"folder {path.parent}"
            self._series_of_folder[path.parent].add(key)
            self.frames[key].extend(frames)

    def _add_label(self, path: Path) -> None:
        try:
            self.labels.append(read_label_object(path))
        except DicomError as error:
            self.lost_labels.append((error, (path,)))

    def labels_once(self) -> tuple[LabelObject, ...]:
        """Return the label objects, byte-equal copies once."""
        kept: dict[str, LabelObject] = {}
        for label in self.labels:
            key = f"{label.sop_uid}\n{hash_file(label.path)}"
            if key in kept:
                self.ignored[f"copy of a {label.kind}"] += 1
            kept.setdefault(key, label)
        return tuple(kept.values())

    def damage_of(self, key: str) -> DicomError | None:
        """Return why a series is incomplete: a damaged file of its own, or in a folder of its own."""
        if key in self.damaged:
            return self.damaged[key]
        if any(self._series_of_folder.get(path.parent) == {key} for path in self.unassigned):
            return DicomError(
                Refusal.UNREADABLE,
                "a damaged DICOM file lies among its slices and may be one of them; restore or remove it",
            )
        return None

    def unassigned_damage(self) -> list[tuple[DicomError, tuple[Path, ...]]]:
        """Return one error for each series and each file of which no slice can be read, with its files."""
        lost = [
            (error, tuple(self.damaged_files[key]))
            for key, error in self.damaged.items()
            if not self.frames[key]
        ]
        message = "a damaged DICOM file of unknown series; restore it"
        return (
            lost
            + self.lost_labels
            + [
                (DicomError(Refusal.UNREADABLE, message), (path,))
                for path in self.unassigned
                if len(self._series_of_folder.get(path.parent, ())) != 1
            ]
        )


def _kind_ignored(path: Path, sop_class: str) -> str:
    """Name a DICOM object that is no image by its SOP class, in the Standard's words."""
    if path.name.upper() == "DICOMDIR":
        return "DICOMDIR"
    name = name_of(sop_class)
    return "DICOM object that is no image" + (f" ({name})" if name else "")


def _without_copies(frames: list[Frame], ignored: Counter[str]) -> tuple[list[Frame], DicomError | None]:
    """Drop files that repeat a slice to the byte; a slice that comes in two versions refuses its series."""
    first: dict[tuple[str, int], Frame] = {}
    kept: list[Frame] = []
    conflict = None
    for frame in frames:
        key = (frame.image.sop_uid, frame.index)
        other = first.setdefault(key, frame) if frame.image.sop_uid else frame
        if other is frame:
            kept.append(frame)
        elif hash_file(other.image.path) == hash_file(frame.image.path):
            ignored["copy of a slice"] += frame.index == 0
        else:
            kept.append(frame)
            conflict = DicomError(
                Refusal.DUPLICATE_POSITIONS,
                f"{frame} comes in two versions with one SOP Instance UID; remove one of them",
            )
    return kept, conflict


def _judged_volumes(
    group: list[Frame], *, damage: DicomError | None, max_bytes: int
) -> Iterator[DicomSeries]:
    """Split a group into volumes and judge each by its headers."""
    volumes = split_volumes(group)
    n_places = len(set(places_of(group).tolist())) if len(volumes) > 1 else 0
    for index, frames in enumerate(volumes):
        series = DicomSeries(number=0, frames=tuple(frames), volume=(index + 1, len(volumes)))
        refusal = damage
        try:
            check_kind(series, max_bytes=max_bytes)
            if n_places > len(frames):
                raise DicomError(
                    Refusal.INCOMPLETE_VOLUME,
                    f"volume {index + 1} of {len(volumes)} has {len(frames)} of {n_places} slices; restore "
                    "the others",
                )
            regular_step(make_stack(frames))
        except DicomError as error:
            refusal = refusal or error
        yield replace(series, refusal=refusal)


def choose_series(
    scan: DicomScan,
    *,
    modality: str | None = None,
    description: str | None = None,
    min_slices: int = 2,
    min_size: tuple[int, int] | None = None,
    regularise: bool = False,
    refused: bool = False,
) -> tuple[DicomSeries, ...]:
    """Choose the series that fit and, unless asked otherwise, can be read.

    Args:
        scan: from `scan_dicom`.
        modality: (0008,0060), such as "CT" or "MR".
        description: regular expression searched in (0008,103E), upper or lower case.
        min_slices: at least so many slices.
        min_size: at least so many columns and rows.
        regularise: also choose irregular stacks, which are then resampled.
        refused: also choose series that cannot be read; those of unknown slices count as large enough.
    """
    pattern = None if description is None else re.compile(description, re.IGNORECASE)
    return tuple(
        series
        for series in scan.series
        if (refused or series.refusal is None or (regularise and series.is_irregular))
        and (modality is None or series.image.modality.upper() == modality.upper())
        and (pattern is None or pattern.search(series.image.description))
        and series.shape[2] >= min_slices
        and (min_size is None or (series.shape[0] >= min_size[0] and series.shape[1] >= min_size[1]))
    )
