"""The attributes that are read of an image's header, and their values: right, absent, or refused."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from pydicom import Dataset

from medldm.data.dicom.errors import DicomError, Refusal

Vector = tuple[float, ...]

_IMAGE_TAGS = """
    ImageType SOPClassUID SOPInstanceUID Modality SeriesDescription PatientID IssuerOfPatientID
    StudyInstanceUID SeriesInstanceUID FrameOfReferenceUID SamplesPerPixel PhotometricInterpretation
    NumberOfFrames Rows Columns BitsAllocated BitsStored HighBit PixelRepresentation PixelPaddingValue
    ModalityLUTSequence LossyImageCompression BurnedInAnnotation VolumeBasedCalculationTechnique
    """
_SLICE_TAGS = """
    InstanceNumber ImagePositionPatient ImageOrientationPatient PixelSpacing RescaleSlope RescaleIntercept
    SharedFunctionalGroupsSequence PerFrameFunctionalGroupsSequence
    """
_TRUSTED_TAGS = """
    TemporalPositionIdentifier EchoTime EchoNumbers InversionTime FlipAngle DiffusionBValue
    DiffusionGradientOrientation
    """
_PRIVATE_TAGS = ((0x0019, 0x100C), (0x0019, 0x100E), (0x2001, 0x1003), (0x0043, 0x1039))
_LAST_TAGS = """
    ComplexImageComponent ConvolutionKernel KVP NominalPercentageOfCardiacPhase FrameReferenceTime TriggerTime
    StackID AcquisitionNumber AcquisitionTime ContentTime
    """
VOLUME_TAGS: tuple[str | tuple[int, int], ...] = (*_TRUSTED_TAGS.split(), *_PRIVATE_TAGS, *_LAST_TAGS.split())
"""Attributes in which the volumes of one series differ, in order of trust, for single-frame images.

The private ones are b-value and direction of Siemens, b-value of Philips and of GE.
"""

SIEMENS_MOSAIC = (0x0019, 0x100A)
OVERLAY_BIT_POSITION = (0x6000, 0x0102)
HEADER_TAGS = (*_IMAGE_TAGS.split(), *_SLICE_TAGS.split(), *VOLUME_TAGS, SIEMENS_MOSAIC, OVERLAY_BIT_POSITION)

FRAME_VOLUME_TAGS = {
    "FrameContentSequence": ("TemporalPositionIndex", "StackID", "FrameAcquisitionNumber"),
    "MREchoSequence": ("EffectiveEchoTime",),
    "MRDiffusionSequence": ("DiffusionBValue", "DiffusionDirectionality"),
    "MRImageFrameTypeSequence": ("FrameType", "ComplexImageComponent"),
    "CTImageFrameTypeSequence": ("FrameType",),
    "CardiacSynchronizationSequence": ("NominalCardiacTriggerDelayTime",),
    "MRModifierSequence": ("InversionTimes",),
}


def functional_group(places: Sequence[Dataset], sequence: str) -> Dataset:
    """Return the item of a functional group from the first of the places that has one, else an empty one."""
    return next((item_of(place, sequence) for place in places if len(item_of(place, sequence))), Dataset())


def item_of(dataset: Dataset, sequence: str) -> Dataset:
    """Return the first item of a sequence, an empty one where there is none."""
    items = dataset.get(sequence)
    return items[0] if items else Dataset()


def text_of(dataset: Dataset, keyword: str) -> str:
    """Return an attribute as text without spaces around it, empty where it is absent."""
    value = dataset.get(keyword)
    return "" if value is None else str(value).strip()


def integer_of(dataset: Dataset, keyword: str) -> int | None:
    """Return an attribute as an integer, None where it is absent or no number."""
    try:
        value = dataset.get(keyword)
        return None if value in (None, "") else int(value)
    except (ValueError, TypeError, OverflowError):
        return None


def number_of(dataset: Dataset, tag: tuple[int, int]) -> int | None:
    """Return the integer of an attribute given by its tag, also from two bytes; None where there is none."""
    value: Any = dataset[tag].value if tag in dataset else None
    if isinstance(value, bytes) and len(value) == 2:
        return int.from_bytes(value, "little")
    return value if isinstance(value, int) else None


def numbers_of(dataset: Dataset, keyword: str, n_numbers: int) -> Vector | None:
    """Return a vector of finite numbers, None where the attribute is absent or empty."""
    try:
        value = dataset.get(keyword)
        if value is None or value == "" or len(value) == 0:
            return None
        vector = tuple(float(number) for number in value)
    except (ValueError, TypeError, OverflowError):
        vector = ()
    if len(vector) != n_numbers or not all(math.isfinite(number) for number in vector):
        message = f"{keyword} of a file is not {n_numbers} finite numbers; correct the header"
        raise DicomError(Refusal.INVALID_GEOMETRY, message)
    return vector


def rescale_of(dataset: Dataset, keyword: str, default: float) -> float:
    """Return a slope or an intercept; the default where it is absent or empty."""
    value = dataset.get(keyword)
    if value is None or value == "":
        return default
    try:
        number = float(value)
    except (ValueError, TypeError, OverflowError):
        number = math.nan
    if not math.isfinite(number) or (number == 0 and keyword == "RescaleSlope"):
        raise DicomError(
            Refusal.PIXEL_FORMAT,
            f"{keyword} of a file is not a finite number (a slope also not 0); correct the header",
        )
    return number
