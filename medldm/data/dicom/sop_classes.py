"""Say by its SOP class what a DICOM file is: an image that may be a volume, labels of an image, or neither.

That a file has pixels and a place in the body does not make it an image: segmentations, dose grids and
parametric maps have both. Images are therefore the classes listed here, and no others.

Source: PS3.4 Table B.5-1 (Standard SOP Classes), PS3.6 Table A-1 (their UIDs), PS3.3 Annex A (their content).
"""

from __future__ import annotations

from typing import Literal

from pydicom import uid

FileKind = Literal["image", "segmentation", "structure set", "other", "unknown"]

_ROOT = "1.2.840.10008.5.1.4.1.1."
IMAGES: dict[str, str] = {
    _ROOT + "2": "CT",
    _ROOT + "2.1": "Enhanced CT",
    _ROOT + "2.2": "Legacy Converted Enhanced CT",
    _ROOT + "4": "MR",
    _ROOT + "4.1": "Enhanced MR",
    _ROOT + "4.3": "Enhanced MR Color",
    _ROOT + "4.4": "Legacy Converted Enhanced MR",
    _ROOT + "128": "Positron Emission Tomography",
    _ROOT + "128.1": "Legacy Converted Enhanced PET",
    _ROOT + "130": "Enhanced PET",
    _ROOT + "20": "Nuclear Medicine",
    _ROOT + "7": "Secondary Capture",
    _ROOT + "7.2": "Multi-frame Grayscale Byte Secondary Capture",
    _ROOT + "7.3": "Multi-frame Grayscale Word Secondary Capture",
    _ROOT + "7.4": "Multi-frame True Color Secondary Capture",
    _ROOT + "13.1.1": "X-Ray 3D Angiographic",
    _ROOT + "13.1.2": "X-Ray 3D Craniofacial",
    _ROOT + "13.1.3": "Breast Tomosynthesis",
    _ROOT + "6.2": "Enhanced US Volume",
    _ROOT + "77.1.5.4": "Ophthalmic Tomography",
}
"""UID -> name of the classes whose slices may form a volume of measured values.

Colour ones are listed so that they are refused as colours, and those that place their slices otherwise than
in patient coordinates (Nuclear Medicine, Enhanced US Volume) so that they are refused for want of geometry,
both by name. Secondary Capture is listed because derived stacks come in it; screenshots, in it too,
have no place in the body.
"""

SEGMENTATIONS: dict[str, str] = {
    _ROOT + "66.4": "Segmentation",
    _ROOT + "66.7": "Label Map Segmentation",
}
STRUCTURE_SETS: dict[str, str] = {_ROOT + "481.3": "RT Structure Set"}

_NEWER = {_ROOT + "66.8": "Height Map Segmentation"}
"""Classes of newer editions than pydicom's dictionary that are no images."""

LABEL_MODALITIES = {"SEG", "RTSTRUCT", "RTDOSE", "RTPLAN", "PR", "SR", "KO", "REG", "FID", "RWV", "M3D"}
"""Modality (0008,0060) of objects that are no images, PS3.3 C.7.3.1.1.1."""

_PROJECTION_WORDS = "MIP MINIP MNIP MAX_IP MIN_IP VRT CPR CURVED_MPR VOLUME_RENDER SURFACE_RENDER SCREENSHOT"
PROJECTIONS = {*_PROJECTION_WORDS.split(), "PROJECTION IMAGE", "SCREEN SAVE"}
"""Values of Image Type (0008,0008) and Volume Based Calculation Technique (0008,9207) that name projections,
renderings and screenshots of a volume, PS3.3 C.8.3.1.1.1 and C.8.16.2.1.3, and the words vendors use."""

LOCALIZERS = {"LOCALIZER", "SCOUT"}
"""Values of Image Type (0008,0008) of overview images, PS3.3 C.8.2.1.1.1, and the words vendors use."""


def kind_of(sop_class: str) -> FileKind:
    """Say what a file of a SOP class is.

    Returns:
        "other" for classes of the Standard that are no images; "unknown" for private ones, for classes of the
        Standard that this table does not know, and for none.

    Examples:
        >>> kind_of("1.2.840.10008.5.1.4.1.1.2"), kind_of("1.2.840.10008.5.1.4.1.1.481.2"), kind_of("")
        ('image', 'other', 'unknown')
    """
    if sop_class in IMAGES:
        return "image"
    if sop_class in SEGMENTATIONS:
        return "segmentation"
    if sop_class in STRUCTURE_SETS:
        return "structure set"
    return "other" if sop_class in uid.UID_dictionary or sop_class in _NEWER else "unknown"


def name_of(sop_class: str) -> str:
    """Return the Standard's name of a SOP class, empty for others; it says nothing of a patient.

    Examples:
        >>> name_of("1.2.840.10008.5.1.4.1.1.481.2")
        'RT Dose'
    """
    for table in (IMAGES, SEGMENTATIONS, STRUCTURE_SETS, _NEWER):
        if sop_class in table:
            return table[sop_class]
    return (
        uid.UID_dictionary[sop_class][0].removesuffix(" Storage") if sop_class in uid.UID_dictionary else ""
    )
