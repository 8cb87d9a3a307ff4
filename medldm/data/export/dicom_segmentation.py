"""Make the DICOM segmentation of a label map, through highdicom.

Source: DICOM PS3.3 A.51 and C.8.20 (Segmentation), C.10.7.1.1 (colours in CIELab).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
from pydicom import DataElement, Dataset
from pydicom.sr.coding import Code as DicomCode

from medldm.data.export.dicom_header import (
    MANUFACTURER,
    NO_DATE,
    NO_TIME,
    SYNTHETIC_COMMENT,
    SeriesHeader,
    mark,
)
from medldm.data.export.dicom_image import slice_order
from medldm.data.export.structures import colour_of
from medldm.data.labels import LabelSchema
from medldm.version import __version__

if TYPE_CHECKING:
    from highdicom.seg import SegmentDescription

_SERIES_NUMBER = 100
_LONGEST_LABEL = 64
_STRUCTURE = DicomCode("123037004", "SCT", "Anatomical Structure")
_TISSUE = DicomCode("85756007", "SCT", "Tissue")
_OWN_SCHEME = "99MEDLDM"
_GENERATIVE = DicomCode("generative", _OWN_SCHEME, "Generative model")


def make_segmentation(
    labels: np.ndarray,
    affine: np.ndarray,
    *,
    source: Sequence[Dataset],
    header: SeriesHeader,
    schema: LabelSchema,
) -> Dataset:
    """Return a binary segmentation: a segment for each structure of the schema, in order.

    Args:
        labels: (I, J, K) integers, 0 background, k for the k-th structure.
        affine: (4, 4) of the volume, as the image series was made with.
        source: the image series.
        header: of that series.
        schema: names, colours and codes of the segments.
    """
    from highdicom.seg import Segmentation, SegmentationTypeValues

    frames = labels[:, :, :: slice_order(affine)].transpose(2, 1, 0)
    kind = np.uint8 if schema.n_structures < 2**8 else np.uint16
    with _quiet_highdicom():
        segmentation = Segmentation(
            source_images=list(source),
            pixel_array=np.ascontiguousarray(frames.astype(kind)),
            segmentation_type=SegmentationTypeValues.BINARY,
            segment_descriptions=[
                _describe_segment(number, value, schema, is_synthetic=header.case.is_synthetic)
                for number, value in enumerate(schema.values, start=1)
            ],
            series_instance_uid=header.uid("segmentation series"),
            series_number=_SERIES_NUMBER,
            sop_instance_uid=header.uid("segmentation", labels.tobytes(), schema.to_dict()),
            instance_number=1,
            manufacturer=MANUFACTURER,
            manufacturer_model_name=MANUFACTURER,
            software_versions=__version__,
            device_serial_number="0",
            content_label="SYNTHETIC" if header.case.is_synthetic else "LABELS",
            content_description=SYNTHETIC_COMMENT[:64] if header.case.is_synthetic else "label map",
            series_description=f"{'SYNTHETIC ' if header.case.is_synthetic else ''}label map",
        )
    _remove_today(segmentation, header)
    mark(segmentation, header.case)
    return segmentation


@contextmanager
def _quiet_highdicom() -> Iterator[None]:
    """Keep highdicom from logging each module that it copies."""
    logger = logging.getLogger("highdicom")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def _describe_segment(
    number: int, value: int, schema: LabelSchema, *, is_synthetic: bool
) -> SegmentDescription:
    """Describe a structure; without a code, its value and name are one of this package's own scheme."""
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.color import CIELabColor
    from highdicom.seg import SegmentAlgorithmTypeValues, SegmentDescription

    code, name = schema.codes.get(value), schema.structures[value]
    label = name[:_LONGEST_LABEL].replace("\\", "/")
    return SegmentDescription(
        segment_number=number,
        segment_label=label,
        segmented_property_category=_STRUCTURE if code else _TISSUE,
        segmented_property_type=DicomCode(code.value, code.scheme, code.meaning)
        if code
        else DicomCode(str(value), _OWN_SCHEME, label),
        algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC
        if is_synthetic
        else SegmentAlgorithmTypeValues.MANUAL,
        algorithm_identification=AlgorithmIdentificationSequence(
            name=MANUFACTURER, family=_GENERATIVE, version=__version__
        )
        if is_synthetic
        else None,
        display_color=CIELabColor.from_rgb(*colour_of(schema, value)),
    )


def _remove_today(segmentation: Dataset, header: SeriesHeader) -> None:
    """Take out the date of the export and identifiers drawn by chance: two exports are equal, bit for bit."""
    segmentation.walk(_remove_date)
    segmentation.ContentDate, segmentation.ContentTime = NO_DATE, NO_TIME
    organisation = header.uid("segmentation dimensions")
    for sequence in (segmentation.DimensionOrganizationSequence, segmentation.DimensionIndexSequence):
        for item in sequence:
            item.DimensionOrganizationUID = organisation


def _remove_date(item: Dataset, element: DataElement) -> None:
    """Take a date or a time out of an object, unless it is empty."""
    if element.VR in ("DA", "DT", "TM") and element.value:
        del item[element.tag]
