"""Read of a segmentation or a structure set what it holds and to which images it says it belongs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydicom import Dataset

from medldm.data.dicom.attributes import item_of, text_of
from medldm.data.dicom.files import OpenedFile, open_dicom, refusing_damage
from medldm.data.dicom.segmentation import SEGMENT_TAGS, DicomSegmentation, describe_segmentation
from medldm.data.dicom.sop_classes import kind_of
from medldm.data.dicom.structure_set import StructureSet, describe_structure_set, open_structure_set

REFERENCE_TAGS = ("ReferencedSeriesSequence", "SourceImageSequence", "ContentLabel")


@dataclass(frozen=True, kw_only=True)
class LabelObject:
    """Structures of another series, and what they say of it. Texts and identifiers stay out of `repr`.

    Args:
        path: the file.
        kind: what it is.
        sop_uid: (0008,0018).
        patient: (0010,0020) Patient ID.
        description: (0008,103E) Series Description and its own label, by which a user chooses.
        frames_of_reference: UIDs of the frames of reference of its structures.
        instances: SOP Instance UIDs of the images it was made from, the most specific list first.
        series: Series Instance UIDs of these images.
        structures: its structures.
    """

    path: Path = field(repr=False)
    kind: Literal["segmentation", "structure set"]
    sop_uid: str = field(repr=False)
    patient: str = field(repr=False)
    description: str = field(repr=False)
    frames_of_reference: frozenset[str] = field(repr=False)
    instances: tuple[frozenset[str], ...] = field(repr=False)
    series: frozenset[str] = field(repr=False)
    structures: DicomSegmentation | StructureSet = field(repr=False)


def is_label_object(sop_class: str) -> bool:
    """Say whether files of a SOP class hold structures of another series."""
    return kind_of(sop_class) in ("segmentation", "structure set")


def read_label_object(path: Path) -> LabelObject:
    """Read a segmentation's or a structure set's header.

    Raises:
        DicomError: UNREADABLE, DEFLATE_LIMIT or INVALID_GEOMETRY.
        NotDicomError: where the file is not DICOM.
    """
    opened = open_dicom(path, tags=(*SEGMENT_TAGS, *REFERENCE_TAGS))
    with refusing_damage("a segmentation or a structure set"):
        if kind_of(opened.sop_class) == "segmentation":
            return _segmentation(opened, path)
        return _structure_set(open_structure_set(path), path)


def _segmentation(opened: OpenedFile, path: Path) -> LabelObject:
    """Source: PS3.3 C.7.6.16.2.6 Derivation Image, C.12.1.1 (0008,1115) Referenced Series Sequence."""
    dataset = opened.dataset
    groups = list(dataset.get("PerFrameFunctionalGroupsSequence") or ())
    groups.append(item_of(dataset, "SharedFunctionalGroupsSequence"))
    sources = (
        source
        for group in groups
        for derivation in group.get("DerivationImageSequence") or ()
        for source in derivation.get("SourceImageSequence") or ()
    )
    listed = list(dataset.get("ReferencedSeriesSequence") or ())
    others = (item for series in listed for item in series.get("ReferencedInstanceSequence") or ())
    top = dataset.get("SourceImageSequence") or ()
    return LabelObject(
        path=path,
        kind="segmentation",
        sop_uid=text_of(dataset, "SOPInstanceUID"),
        patient=text_of(dataset, "PatientID"),
        description=_joined(dataset, "SeriesDescription", "ContentLabel"),
        frames_of_reference=frozenset({text_of(dataset, "FrameOfReferenceUID")} - {""}),
        instances=(_instances(sources), _instances(top), _instances(others)),
        series=_uids(listed, "SeriesInstanceUID"),
        structures=describe_segmentation(opened, path),
    )


def _structure_set(opened: OpenedFile, path: Path) -> LabelObject:
    """Source: PS3.3 C.8.8.5 (3006,0010) Referenced Frame of Reference Sequence, C.8.8.6 (3006,0016)."""
    dataset = opened.dataset
    series = list(_referenced_series(dataset))
    contour_images = (
        image
        for roi in dataset.get("ROIContourSequence") or ()
        for contour in roi.get("ContourSequence") or ()
        for image in contour.get("ContourImageSequence") or ()
    )
    others = (image for one in series for image in one.get("ContourImageSequence") or ())
    structures = describe_structure_set(opened, path)
    frames = _uids(dataset.get("ReferencedFrameOfReferenceSequence") or (), "FrameOfReferenceUID")
    own = frozenset(structures.frames_of_reference.values()) - {""}
    return LabelObject(
        path=path,
        kind="structure set",
        sop_uid=text_of(dataset, "SOPInstanceUID"),
        patient=text_of(dataset, "PatientID"),
        description=_joined(dataset, "SeriesDescription", "StructureSetLabel"),
        frames_of_reference=own or frames or frozenset({text_of(dataset, "FrameOfReferenceUID")} - {""}),
        instances=(_instances(contour_images), _instances(others)),
        series=_uids(series, "SeriesInstanceUID"),
        structures=structures,
    )


def _referenced_series(dataset: Dataset) -> Iterator[Dataset]:
    for frame in dataset.get("ReferencedFrameOfReferenceSequence") or ():
        for study in frame.get("RTReferencedStudySequence") or ():
            yield from study.get("RTReferencedSeriesSequence") or ()


def _instances(items: Iterable[Dataset]) -> frozenset[str]:
    return _uids(items, "ReferencedSOPInstanceUID")


def _uids(items: Iterable[Dataset], keyword: str) -> frozenset[str]:
    return frozenset(text_of(item, keyword) for item in items) - {""}


def _joined(dataset: Dataset, *keywords: str) -> str:
    return "\n".join(text for keyword in keywords if (text := text_of(dataset, keyword)))
