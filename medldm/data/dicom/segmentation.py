"""Read the segments of a DICOM segmentation as masks on an image's grid.

Each frame says itself where it lies and which segment it shows (PS3.3 C.8.20.3), so that frames may come in
any order and orientation, and empty ones may be absent.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from pydicom import Dataset

from medldm.data.dicom.attributes import HEADER_TAGS, functional_group, integer_of, item_of, text_of
from medldm.data.dicom.errors import DicomError, Refusal
from medldm.data.dicom.files import NotDicomError, OpenedFile, open_dicom, refusing_damage
from medldm.data.dicom.frames import Frame, label_frames_of
from medldm.data.dicom.lattice import Placement, Shape, place_frame, refuse_skipped_planes, to_index_matrix
from medldm.data.dicom.pixels import read_values
from medldm.transforms.errors import GeometryError, VoxelValueError
from medldm.transforms.raw_volume import spacing_of

_TAGS = "SegmentSequence SegmentationType SegmentationFractionalType MaximumFractionalValue"
SEGMENT_TAGS = (*HEADER_TAGS, *_TAGS.split())
FRACTION_THRESHOLD = 0.5
"""Share of Maximum Fractional Value (0062,000E) from which a voxel belongs to a segment."""
SPACING_TOLERANCE = 0.02
"""Largest difference between Spacing Between Slices and the image's voxels, as a share of the latter."""


@dataclass(frozen=True, kw_only=True)
class DicomSegmentation:
    """The segments of one segmentation object; implements `NamedStructures`.

    Args:
        path: its file.
        segments: name -> numbers of the segments of that name.
        notes: how it was read, without paths and identities.

    Examples:
        >>> DicomSegmentation(path=Path("seg.dcm"), segments={"liver": (1,)}).names
        ('liver',)
    """

    path: Path = field(repr=False)
    segments: Mapping[str, tuple[int, ...]]
    notes: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Return the segments' labels (0062,0005), each once."""
        return tuple(self.segments)

    @property
    def files(self) -> tuple[Path, ...]:
        """Return its one file."""
        return (self.path,)

    def within(self, frame_of_reference: str) -> DicomSegmentation:
        """Return itself: all its segments lie in one frame of reference."""
        return self

    def check_grid(self, shape: Shape, affine: np.ndarray) -> None:
        """Refuse an image's grid of which its frames are not planes, by headers alone.

        Raises:
            GeometryError: as `read`.
        """
        with refusing_damage("a segmentation"):
            place_frames(_open(self.path), self.path, shape=shape, affine=affine)

    def read(self, shape: Shape, affine: np.ndarray) -> Mapping[str, np.ndarray]:
        """Read the masks on an image's grid, each as it is asked for.

        Args:
            shape: (X, Y, Z) of the image.
            affine: (4, 4) voxel index to RAS+ mm.

        Raises:
            GeometryError: where its frames are not planes of that grid.
            VoxelValueError: for pixels that no segment describes.
            DicomError: for a damaged file.
        """
        opened = _open(self.path)
        with refusing_damage("a segmentation"):
            frames = place_frames(opened, self.path, shape=shape, affine=affine)
            kind = text_of(opened.dataset, "SegmentationType").upper()
            if kind == "LABELMAP":
                return _read_label_map(self, opened.dataset, frames, shape)
            threshold = 1.0
            if kind == "FRACTIONAL":
                threshold = FRACTION_THRESHOLD * (integer_of(opened.dataset, "MaximumFractionalValue") or 255)
            by_segment = _frames_by_segment(opened.dataset, frames, self.segments)

        def mask_of(name: str) -> np.ndarray:
            mask = np.zeros(shape, dtype=bool)
            chosen = [frame for number in self.segments[name] for frame in by_segment[number]]
            for placement, values in _read(chosen):
                placement.view(mask)[...] |= threshold <= values.T
            return mask

        return LazyMasks(self.names, mask_of)


class LazyMasks(Mapping[str, np.ndarray]):
    """Masks that are made as they are asked for, so that a hundred need not be in memory together."""

    def __init__(self, names: Sequence[str], mask_of: Callable[[str], np.ndarray]) -> None:
        self._names = tuple(names)
        self._mask_of = mask_of

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._names:
            raise KeyError(name)
        return self._mask_of(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def describe_segmentation(opened: OpenedFile, path: Path) -> DicomSegmentation:
    """Make a `DicomSegmentation` of a file's header, opened with SEGMENT_TAGS.

    Raises:
        DicomError: UNREADABLE, without segments or of an unknown type.

    Source: PS3.3 C.8.20.2 Segmentation Image; (0062,0001) Segmentation Type, (0062,0005) Segment Label.
    """
    dataset = opened.dataset
    kind = text_of(dataset, "SegmentationType").upper()
    if kind not in ("BINARY", "FRACTIONAL", "LABELMAP"):
        raise DicomError(
            Refusal.UNREADABLE,
            "a segmentation is not BINARY, FRACTIONAL or LABELMAP (0062,0001); export it anew",
        )
    segments: dict[str, tuple[int, ...]] = {}
    padding = integer_of(dataset, "PixelPaddingValue")
    for item in dataset.get("SegmentSequence") or ():
        number, name = integer_of(item, "SegmentNumber"), " ".join(text_of(item, "SegmentLabel").split())
        if number is None or not name:
            raise DicomError(Refusal.UNREADABLE, "a segment has no number or no label; export it anew")
        if kind != "LABELMAP" or number != (padding or 0):
            segments[name] = (*segments.get(name, ()), number)
    if not segments:
        raise DicomError(Refusal.UNREADABLE, "a segmentation describes no segment; export it anew")
    return DicomSegmentation(path=path, segments=segments, notes=_notes(dataset, kind, segments))


def _notes(dataset: Dataset, kind: str, segments: Mapping[str, tuple[int, ...]]) -> tuple[str, ...]:
    notes = []
    if kind == "FRACTIONAL":
        is_occupancy = text_of(dataset, "SegmentationFractionalType").upper() == "OCCUPANCY"
        meaning = "occupancies" if is_occupancy else "probabilities"
        notes.append(
            f"its segmentation holds {meaning}; voxels from {FRACTION_THRESHOLD:g} of the largest value "
            "belong to a segment"
        )
    if n_shared := sum(len(numbers) > 1 for numbers in segments.values()):
        notes.append(
            f"{n_shared} names of its segmentation stand for several segments each, which were united"
        )
    return tuple(notes)


def _open(path: Path) -> OpenedFile:
    try:
        return open_dicom(path, tags=SEGMENT_TAGS)
    except NotDicomError:
        raise DicomError(Refusal.UNREADABLE, "a file changed since the scan; scan again") from None


PlacedFrame = tuple[Frame, Placement]


def place_frames(opened: OpenedFile, path: Path, *, shape: Shape, affine: np.ndarray) -> list[PlacedFrame]:
    """Place every frame of a segmentation on an image's grid, by headers alone.

    Raises:
        GeometryError: where they do not coincide.
    """
    to_index = to_index_matrix(affine)
    placed: list[PlacedFrame] = []
    for frame in label_frames_of(opened, path):
        if frame.position is None or frame.orientation is None or frame.spacing is None:
            raise GeometryError("a frame of its segmentation has no place in the body; export it anew")
        size = (frame.image.rows, frame.image.columns)
        geometry = {"position": frame.position, "orientation": frame.orientation, "spacing": frame.spacing}
        placed.append((frame, place_frame(**geometry, size=size, shape=shape, to_index=to_index)))
    _refuse_other_slices(opened.dataset, [placement for _, placement in placed], affine)
    return placed


def _refuse_other_slices(dataset: Dataset, placements: Sequence[Placement], affine: np.ndarray) -> None:
    """Refuse frames of thicker slices, which would leave planes of the image empty (PS3.3 C.7.6.16.2.1)."""
    shared = item_of(dataset, "SharedFunctionalGroupsSequence")
    own = item_of(dataset, "PerFrameFunctionalGroupsSequence")
    measures = functional_group((own, shared), "PixelMeasuresSequence")
    by_normal: dict[int, list[int]] = defaultdict(list)
    for placement in placements:
        by_normal[placement.axes[2]].append(placement.plane)
    for normal, planes in by_normal.items():
        voxel = float(spacing_of(affine)[normal])
        step = abs(float(measures.get("SpacingBetweenSlices") or voxel))
        if len(set(planes)) > 1 and abs(step - voxel) > SPACING_TOLERANCE * voxel:
            raise GeometryError(
                f"the slices of its segmentation are {step:.4g} mm apart, its own {voxel:.4g} mm; resample "
                "the segmentation to the image"
            )
        refuse_skipped_planes(planes, what="its segmentation")


def _frames_by_segment(
    dataset: Dataset, frames: Sequence[PlacedFrame], segments: Mapping[str, tuple[int, ...]]
) -> dict[int, list[PlacedFrame]]:
    """Sort frames by (0062,000B) Referenced Segment Number, PS3.3 C.8.20.3.1."""
    shared = item_of(dataset, "SharedFunctionalGroupsSequence")
    groups = list(dataset.get("PerFrameFunctionalGroupsSequence") or [Dataset()])
    known = {number for numbers in segments.values() for number in numbers}
    sorted_: dict[int, list[PlacedFrame]] = {number: [] for number in known}
    for (frame, placement), own in zip(frames, groups, strict=True):
        group = functional_group((own, shared), "SegmentIdentificationSequence")
        number = integer_of(group, "ReferencedSegmentNumber")
        if number not in sorted_:
            raise VoxelValueError(
                "a frame of its segmentation shows a segment that is not described; export it anew"
            )
        sorted_[number].append((frame, placement))
    for placed in sorted_.values():
        places = Counter((placement.axes[2], placement.plane) for _, placement in placed)
        if any(count > 1 for count in places.values()):
            raise GeometryError(
                "two frames of its segmentation show one segment in one plane; export it anew"
            )
    return sorted_


def _read(frames: Sequence[PlacedFrame]) -> Iterator[tuple[Placement, np.ndarray]]:
    """Yield the stored values of frames of one file, (rows, columns)."""
    if frames:
        values = read_values(frames[0][0].image, [frame for frame, _ in frames])
        for (_, placement), stored in zip(frames, values, strict=True):
            yield placement, stored


def _read_label_map(
    segmentation: DicomSegmentation, dataset: Dataset, frames: Sequence[PlacedFrame], shape: Shape
) -> LazyMasks:
    """Read a label map once; its pixels are segment numbers (PS3.3 C.8.20.2.3)."""
    background = integer_of(dataset, "PixelPaddingValue") or 0
    labels = np.full(shape, background, dtype=np.int32)
    for placement, stored in _read(frames):
        placement.view(labels)[...] = stored.T
    known = {number for numbers in segmentation.segments.values() for number in numbers} | {background}
    if unknown := sorted(set(np.unique(labels).tolist()) - known):
        shown = ", ".join(str(value) for value in unknown[:10])
        raise VoxelValueError(
            f"its segmentation holds values {shown}, which it does not describe; export it anew"
        )
    return LazyMasks(segmentation.names, lambda name: np.isin(labels, segmentation.segments[name]))
