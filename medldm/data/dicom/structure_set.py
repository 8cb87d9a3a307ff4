"""Draw the contours of an RT structure set as masks on an image's grid."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydicom import Dataset

from medldm.data.dicom.attributes import integer_of, text_of
from medldm.data.dicom.errors import DicomError, Refusal
from medldm.data.dicom.files import NotDicomError, OpenedFile, open_dicom, refusing_damage
from medldm.data.dicom.lattice import Shape, refuse_skipped_planes, to_index_matrix
from medldm.data.dicom.polygons import EDGE_TOLERANCE, CrossingContoursError, fill_contours
from medldm.data.dicom.segmentation import LazyMasks
from medldm.transforms.errors import GeometryError
from medldm.transforms.raw_volume import spacing_of

_TAGS = """
    SOPClassUID SOPInstanceUID SeriesInstanceUID PatientID SeriesDescription StructureSetLabel
    FrameOfReferenceUID ReferencedFrameOfReferenceSequence StructureSetROISequence ROIContourSequence
    """
MAX_BYTES = 512 * 1024**2
"""Cap on what a deflated structure set inflates to."""

SLICE_TOLERANCE = 0.1
"""Largest distance of a contour from a slice, as a share of the slice spacing."""
SLICE_TOLERANCE_MM = 0.05
"""The same in mm; the larger of the two holds, because coordinates are rounded decimal strings."""

MAX_EDGE_TOLERANCE = 0.02
"""Largest distance, in voxels, at which rounded coordinates still put a voxel's centre on a contour."""

_CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")


class _Contour(NamedTuple):
    """A closed contour.

    Args:
        points: (N, 3) LPS mm.
        rounding_mm: half the last decimal in which they were written.
        is_xor: whether it is combined with others by exclusive disjunction.
    """

    points: np.ndarray
    rounding_mm: float
    is_xor: bool


@dataclass(frozen=True, kw_only=True)
class StructureSet:
    """The structures of one RT structure set; implements `NamedStructures`.

    Args:
        path: its file.
        rois: name -> numbers of the regions of interest of that name that have closed contours.
        frames_of_reference: number of a region -> UID of the frame of reference of its contours.
        notes: how it was read, without paths and identities.

    Examples:
        >>> StructureSet(path=Path("rs.dcm"), rois={"liver": (1,)}, frames_of_reference={}).names
        ('liver',)
    """

    path: Path = field(repr=False)
    rois: Mapping[str, tuple[int, ...]]
    frames_of_reference: Mapping[int, str] = field(repr=False)
    notes: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Return the regions' names (3006,0026), each once."""
        return tuple(self.rois)

    @property
    def files(self) -> tuple[Path, ...]:
        """Return its one file."""
        return (self.path,)

    def within(self, frame_of_reference: str) -> StructureSet:
        """Return the structures of one frame of reference; contours of others lie elsewhere in the body."""
        frames = {uid for uid in self.frames_of_reference.values() if uid}
        if not frame_of_reference or frames <= {frame_of_reference}:
            return self
        kept = {
            name: own
            for name, numbers in self.rois.items()
            if (own := tuple(n for n in numbers if self.frames_of_reference[n] in ("", frame_of_reference)))
        }
        note = f"{len(self.rois) - len(kept)} structures of another frame of reference were left out"
        return replace(self, rois=kept, notes=(*self.notes, note))

    def check_grid(self, shape: Shape, affine: np.ndarray) -> None:
        """Refuse an image's grid on whose slices its contours do not lie.

        Raises:
            GeometryError: as `read`.
        """
        for _mask in self.read(shape, affine).values():
            continue

    def read(self, shape: Shape, affine: np.ndarray) -> Mapping[str, np.ndarray]:
        """Draw the masks on an image's grid, each as it is asked for.

        Args:
            shape: (X, Y, Z) of the image.
            affine: (4, 4) voxel index to RAS+ mm.

        Raises:
            GeometryError: where contours do not lie on the image's slices, or cross.
            DicomError: for a damaged file.
        """
        numbers = {number for own in self.rois.values() for number in own}
        contours = _read_contours(self.path, numbers)

        def mask_of(name: str) -> np.ndarray:
            mask = np.zeros(shape, dtype=bool)
            for number in self.rois[name]:
                mask |= draw_structure(contours[number], shape=shape, affine=affine, number=number)
            return mask

        return LazyMasks(self.names, mask_of)


def describe_structure_set(opened: OpenedFile, path: Path) -> StructureSet:
    """Make a `StructureSet` of a file from `open_structure_set`.

    Raises:
        DicomError: UNREADABLE, without closed contours.

    Source: PS3.3 C.8.8.5 Structure Set, C.8.8.6 ROI Contour; (3006,0042) Contour Geometric Type.
    """
    kinds = {number: Counter(_kinds(item)) for number, item in _roi_contours(opened.dataset)}
    rois: dict[str, tuple[int, ...]] = {}
    frames: dict[int, str] = {}
    for item in opened.dataset.get("StructureSetROISequence") or ():
        number, name = integer_of(item, "ROINumber"), " ".join(text_of(item, "ROIName").split())
        if number is None or not any(kinds.get(number, Counter())[kind] for kind in _CLOSED):
            continue
        if not name:
            raise DicomError(
                Refusal.UNREADABLE, f"structure {number} of a structure set has no name; name it"
            )
        rois[name] = (*rois.get(name, ()), number)
        frames[number] = text_of(item, "ReferencedFrameOfReferenceUID")
    if not rois:
        raise DicomError(Refusal.UNREADABLE, "a structure set has no closed contours; export it anew")
    n_listed = len(opened.dataset.get("StructureSetROISequence") or ())
    notes = _notes(kinds, rois, n_empty=n_listed - len(frames))
    return StructureSet(path=path, rois=rois, frames_of_reference=frames, notes=notes)


def _notes(
    kinds: Mapping[int, Counter[str]], rois: Mapping[str, tuple[int, ...]], *, n_empty: int
) -> tuple[str, ...]:
    total = sum(kinds.values(), Counter())
    notes = []
    if n_open := sum(count for kind, count in total.items() if kind not in _CLOSED):
        notes.append(f"{n_open} points and open contours of its structure set were passed over")
    if n_empty:
        notes.append(f"{n_empty} structures of its structure set without closed contours were left out")
    if n_shared := sum(len(numbers) > 1 for numbers in rois.values()):
        notes.append(
            f"{n_shared} names of its structure set stand for several structures each, which were united"
        )
    return tuple(notes)


def _roi_contours(dataset: Dataset) -> Iterator[tuple[int, Dataset]]:
    for item in dataset.get("ROIContourSequence") or ():
        number = integer_of(item, "ReferencedROINumber")
        if number is not None:
            yield number, item


def _kinds(roi: Dataset) -> Iterator[str]:
    """Yield the type of each contour; a closed one of fewer than three points is counted as a point."""
    for contour in roi.get("ContourSequence") or ():
        kind = text_of(contour, "ContourGeometricType").upper()
        n_points = integer_of(contour, "NumberOfContourPoints")
        yield "POINT" if n_points is not None and n_points < 3 else kind


def open_structure_set(path: Path) -> OpenedFile:
    """Open a structure set with all its contours.

    Raises:
        DicomError: UNREADABLE, or DEFLATE_LIMIT.
    """
    try:
        return open_dicom(path, tags=_TAGS.split(), with_pixels=True, max_inflated_bytes=MAX_BYTES)
    except NotDicomError:
        raise DicomError(Refusal.UNREADABLE, "a file changed since the scan; scan again") from None


def _read_contours(path: Path, numbers: Iterable[int]) -> dict[int, list[_Contour]]:
    contours: dict[int, list[_Contour]] = {number: [] for number in numbers}
    with refusing_damage("a structure set"):
        for number, roi in _roi_contours(open_structure_set(path).dataset):
            if number in contours:
                contours[number] += _closed_contours(roi, number)
    return contours


def _closed_contours(roi: Dataset, number: int) -> Iterator[_Contour]:
    for contour, kind in zip(roi.get("ContourSequence") or (), _kinds(roi), strict=True):
        if kind not in _CLOSED:
            continue
        offset = contour.get("ContourOffsetVector")
        if offset is not None and any(float(value) for value in offset):
            raise GeometryError(f"structure {number} has a Contour Offset Vector (3006,0045); it is not read")
        points, rounding_mm = _points(contour, number)
        yield _Contour(points=points, rounding_mm=rounding_mm, is_xor=kind == "CLOSEDPLANAR_XOR")


def _points(contour: Dataset, number: int) -> tuple[np.ndarray, float]:
    """Return (3006,0050) Contour Data as (N, 3) and its rounding, also where its length made its VR UN."""
    element = contour.get_item("ContourData")
    value = None if element is None else element.value
    texts = (
        value.rstrip(b" \0").split(b"\\") if isinstance(value, bytes) else [str(one) for one in value or ()]
    )
    try:
        points = np.array([float(text) for text in texts]).reshape(-1, 3)
    except ValueError:
        points = np.empty((0, 3))
    if len(points) < 3 or not np.isfinite(points).all():
        raise DicomError(
            Refusal.INVALID_GEOMETRY,
            f"a contour of structure {number} is not three or more points of numbers",
        )
    plain = [text if isinstance(text, str) else text.decode("ascii", "replace") for text in texts]
    n_decimals = max(len(text.strip().partition(".")[2]) for text in plain)
    return points, 0.5 * 10.0**-n_decimals


def draw_structure(
    contours: Sequence[_Contour], *, shape: Shape, affine: np.ndarray, number: int
) -> np.ndarray:
    """Fill a structure's contours, slice by slice.

    The slices are the planes of that axis of the grid to which the contours are parallel.

    Args:
        contours: of one structure.
        shape: (X, Y, Z) of the image.
        affine: (4, 4) voxel index to RAS+ mm.
        number: names the structure in errors.

    Returns:
        (X, Y, Z) bool.

    Raises:
        GeometryError: where contours lie between or beyond slices, on thicker slices, or cross.
    """
    to_index = to_index_matrix(affine)
    places = [contour.points @ to_index[:3, :3].T + to_index[:3, 3] for contour in contours]
    normal = int(np.max([np.ptp(place, axis=0) for place in places], axis=0).argmin())
    tolerance = max(SLICE_TOLERANCE, SLICE_TOLERANCE_MM / float(spacing_of(affine)[normal]))
    by_plane: dict[int, list[int]] = defaultdict(list)
    for index, place in enumerate(places):
        by_plane[_plane_of(place[:, normal], shape[normal], tolerance=tolerance, number=number)].append(index)
    refuse_skipped_planes(by_plane, what=f"structure {number} of its structure set")
    spacing = float(np.delete(spacing_of(affine), normal).min())
    mask = np.zeros(shape, dtype=bool)
    planes = np.moveaxis(mask, normal, 2)
    for plane, own in by_plane.items():
        flat = [np.delete(places[index], normal, axis=1) for index in own]
        is_xor = any(contours[index].is_xor for index in own)
        rounding = max(contours[index].rounding_mm for index in own) / spacing
        tolerance = float(np.clip(rounding, EDGE_TOLERANCE, MAX_EDGE_TOLERANCE))
        try:
            planes[:, :, plane] = fill_contours(flat, planes.shape[:2], is_xor=is_xor, tolerance=tolerance)
        except CrossingContoursError:
            raise GeometryError(
                f"contours of structure {number} cross in slice {plane}, so that they are neither parts nor "
                "holes; correct the structure"
            ) from None
    return mask


def _plane_of(heights: np.ndarray, n_planes: int, *, tolerance: float, number: int) -> int:
    """Return the slice on which all points of a contour lie; `heights` are in slices."""
    plane = int(np.rint(heights.mean()))
    gap = float(np.abs(heights - plane).max())
    if gap > tolerance:
        raise GeometryError(
            f"a contour of structure {number} lies {gap:.2f} slices beside slice {plane}; {tolerance:.2f} is "
            "allowed; draw it on the image's slices, or resample the image to the contours"
        )
    if not 0 <= plane < n_planes:
        raise GeometryError(
            f"a contour of structure {number} lies on slice {plane} of an image that has slices 0 to "
            f"{n_planes - 1}; the image lacks slices, or the structure set belongs to another"
        )
    return plane
