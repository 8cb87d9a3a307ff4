"""Give DICOM segmentations and structure sets to the series that they name; never by folder or elimination.

They say in their headers which images they were made from. Where one says nothing of it, it belongs to a
series only if that is the one series of its patient and frame of reference with the very grid.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from medldm.data.dicom.errors import DicomError
from medldm.data.dicom.label_objects import LabelObject
from medldm.data.dicom.read import grid_of
from medldm.data.dicom.scan import DicomScan
from medldm.data.dicom.series import DicomSeries
from medldm.data.layouts.records import NamedStructures
from medldm.data.preparation.structures import plain_name
from medldm.transforms.errors import VolumeError, VoxelValueError

NO_SERIES = (
    "a {kind} belongs to images that are not in the input; add the series it was made from, or leave it out"
)
NO_REFERENCE = (
    "a {kind} names no images, and {n} series of its patient and frame of reference have its grid; one is "
    "needed; export it with references to its images"
)
SEVERAL = (
    "a {kind} names {n} series or volumes; choose one by modality or description, or export it with "
    "references to one"
)
OTHER_PATIENT = (
    "a {kind} names images of another Patient ID (0010,0020); correct the headers, or leave it out"
)
OTHER_FRAME = (
    "a {kind} lies in another frame of reference (0020,0052) than the images it names; register it, or leave "
    "it out"
)
TWO_KINDS = (
    "it has a segmentation or structure set in DICOM and a label map beside it; keep one, or name the map "
    'in the column "label" of the table'
)
NOT_ASKED = "{kind} of a series that was not asked for"
OTHER_DESCRIPTION = "{kind} of another description than asked for"


@dataclass(frozen=True, kw_only=True)
class DicomLabels:
    """What belongs to which series.

    Args:
        by_series: number of a series -> its structures.
        lost: why segmentations and structure sets belong to no series, one reason each.
        passed_over: how many were not meant, by reason.
        lost_files: the files of each of `lost`; never to be shown.
    """

    by_series: Mapping[int, NamedStructures] = field(repr=False)
    lost: tuple[str, ...]
    passed_over: Mapping[str, int]
    lost_files: tuple[tuple[Path, ...], ...] = field(default=(), repr=False)


@dataclass(frozen=True, kw_only=True)
class MergedStructures:
    """Structures of several segmentations of one series; implements `NamedStructures`.

    Args:
        parts: of the segmentations.
    """

    parts: tuple[NamedStructures, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Return the structures' names, each once."""
        return tuple(dict.fromkeys(name for part in self.parts for name in part.names))

    @property
    def files(self) -> tuple[Path, ...]:
        """Return the files of all parts."""
        return tuple(file for part in self.parts for file in part.files)

    @property
    def notes(self) -> tuple[str, ...]:
        """Return the remarks of all parts."""
        merged = f"its label map was put together from {len(self.parts)} segmentations or structure sets"
        return (merged, *dict.fromkeys(note for part in self.parts for note in part.notes))

    def read(self, shape: tuple[int, int, int], affine: np.ndarray) -> Mapping[str, np.ndarray]:
        """Read all masks; see `NamedStructures.read`.

        Raises:
            VoxelValueError: where two parts name one structure.
        """
        counts = Counter(name for part in self.parts for name in {plain_name(one) for one in part.names})
        if twice := sum(count > 1 for count in counts.values()):
            raise VoxelValueError(
                f"{len(self.parts)} segmentations of its series name {twice} structures more than once; "
                "choose one of them by --segmentation, a pattern of its series description"
            )
        return _Joined([part.read(shape, affine) for part in self.parts])


class _Joined(Mapping[str, np.ndarray]):
    """Several mappings of different keys as one, each mask read as it is asked for."""

    def __init__(self, parts: Sequence[Mapping[str, np.ndarray]]) -> None:
        self._part_of = {name: part for part in parts for name in part}

    def __getitem__(self, name: str) -> np.ndarray:
        return self._part_of[name][name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._part_of)

    def __len__(self) -> int:
        return len(self._part_of)


def pair_label_objects(
    scan: DicomScan, chosen: Sequence[DicomSeries], *, description: str | None = None
) -> DicomLabels:
    """Give the segmentations and structure sets of a scan to its series.

    Args:
        scan: everything found.
        chosen: the series that become cases.
        description: regular expression; only segmentations and structure sets with it in their series
            description or their own label, upper or lower case.
    """
    pattern = None if description is None else re.compile(description, re.IGNORECASE)
    pairing = _Pairing(scan, chosen)
    for label in scan.labels:
        if pattern is not None and not any(map(pattern.search, label.description.split("\n"))):
            pairing.passed_over[OTHER_DESCRIPTION.format(kind=label.kind)] += 1
        else:
            pairing.add(label)
    by_series = {
        number: parts[0] if len(parts) == 1 else MergedStructures(parts=tuple(parts))
        for number, parts in pairing.parts.items()
    }
    return DicomLabels(
        by_series=by_series,
        lost=tuple(reason for reason, _ in pairing.lost),
        passed_over=dict(pairing.passed_over),
        lost_files=tuple((path,) for _, path in pairing.lost),
    )


class _Pairing:
    """The series of a scan by what label objects may name, and what was given to them."""

    def __init__(self, scan: DicomScan, chosen: Sequence[DicomSeries]) -> None:
        self.series = scan.series
        self.chosen = {series.number for series in chosen}
        self.parts: dict[int, list[NamedStructures]] = defaultdict(list)
        self.lost: list[tuple[str, Path]] = []
        self.passed_over: Counter[str] = Counter()
        self._by_instance: dict[str, set[int]] = defaultdict(set)
        self._by_number = {series.number: series for series in scan.series}
        for series in scan.series:
            for frame in series.frames:
                self._by_instance[frame.image.sop_uid].add(series.number)

    def add(self, label: LabelObject) -> None:
        """Give a label object to its series, or say why it has none."""
        is_naming = any(label.instances) or bool(label.series)
        named = self._named(label) if is_naming else self._of_its_grid(label)
        if not is_naming and len(named) != 1:
            self._lose(NO_REFERENCE, label, n=len(named))
        elif not named:
            self._lose(NO_SERIES, label)
        elif not (asked := [series for series in named if series.number in self.chosen]):
            self.passed_over[NOT_ASKED.format(kind=label.kind)] += 1
        elif len(asked) > 1:
            self._lose(SEVERAL, label, n=len(asked))
        elif not _is_same_patient(label, asked[0]):
            self._lose(OTHER_PATIENT, label)
        elif not _is_same_frame(label, asked[0]):
            self._lose(OTHER_FRAME, label)
        else:
            structures = label.structures.within(asked[0].image.frame_of_reference)
            self.parts[asked[0].number].append(structures)

    def _lose(self, reason: str, label: LabelObject, **values: int) -> None:
        self.lost.append((reason.format(kind=label.kind, **values), label.path))

    def _named(self, label: LabelObject) -> list[DicomSeries]:
        """Return the series that hold the images it names, by the most specific list that names any here."""
        for instances in label.instances:
            found = {number for uid in instances for number in self._by_instance.get(uid, ())}
            if found:
                return [self._by_number[number] for number in sorted(found)]
        return [series for series in self.series if series.image.series_uid in label.series]

    def _of_its_grid(self, label: LabelObject) -> list[DicomSeries]:
        """Return the series of its patient and frame of reference with its very grid."""
        if not label.patient or not label.frames_of_reference:
            return []
        candidates = (
            series
            for series in self.series
            if series.image.frame_of_reference in label.frames_of_reference
            and _patient_of(series) == label.patient
        )
        return [series for series in candidates if _has_grid_of(label, series)]


def _has_grid_of(label: LabelObject, series: DicomSeries) -> bool:
    try:
        shape, affine = grid_of(series)
        label.structures.within(series.image.frame_of_reference).check_grid(shape, affine)
    except (DicomError, VolumeError):
        return False
    return True


def _patient_of(series: DicomSeries) -> str:
    """Return the Patient ID without its issuer, which segmentations often lack."""
    return series.image.patient.split("\n")[0]


def _is_same_patient(label: LabelObject, series: DicomSeries) -> bool:
    return not label.patient or not _patient_of(series) or label.patient == _patient_of(series)


def _is_same_frame(label: LabelObject, series: DicomSeries) -> bool:
    own = series.image.frame_of_reference
    return not own or not label.frames_of_reference or own in label.frames_of_reference
