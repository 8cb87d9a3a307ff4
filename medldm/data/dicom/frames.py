"""Turn headers into frames: one record for each slice, from single-frame and from multi-frame files alike."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydicom import Dataset

from medldm.data.dicom.errors import DicomError, Refusal
from medldm.data.dicom.files import PARSE_ERRORS, OpenedFile, quiet_pydicom

Vector = tuple[float, ...]

_IMAGE_TAGS = (
    "ImageType",
    "SOPClassUID",
    "SOPInstanceUID",
    "Modality",
    "SeriesDescription",
    "PatientID",
    "IssuerOfPatientID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "FrameOfReferenceUID",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelPaddingValue",
    "ModalityLUTSequence",
    "LossyImageCompression",
)
_SLICE_TAGS = (
    "InstanceNumber",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "RescaleSlope",
    "RescaleIntercept",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
)
VOLUME_TAGS = (
    "TemporalPositionIdentifier",
    "EchoTime",
    "EchoNumbers",
    "InversionTime",
    "FlipAngle",
    "DiffusionBValue",
    "DiffusionGradientOrientation",
    (0x0019, 0x100C),
    (0x0019, 0x100E),
    (0x2001, 0x1003),
    (0x0043, 0x1039),
    "ComplexImageComponent",
    "ConvolutionKernel",
    "KVP",
    "NominalPercentageOfCardiacPhase",
    "FrameReferenceTime",
    "TriggerTime",
    "StackID",
    "AcquisitionNumber",
    "AcquisitionTime",
    "ContentTime",
)
"""Attributes in which the volumes of one series differ, in order of trust, for single-frame images.

The private ones are b-value and direction of Siemens, b-value of Philips and of GE.
"""

_SPECTROSCOPY = "1.2.840.10008.5.1.4.1.1.4.2"
_SIEMENS_MOSAIC = (0x0019, 0x100A)
OVERLAY_BIT_POSITION = (0x6000, 0x0102)
HEADER_TAGS = (*_IMAGE_TAGS, *_SLICE_TAGS, *VOLUME_TAGS, _SIEMENS_MOSAIC, OVERLAY_BIT_POSITION)

_FRAME_VOLUME_TAGS = {
    "FrameContentSequence": ("TemporalPositionIndex", "StackID", "FrameAcquisitionNumber"),
    "MREchoSequence": ("EffectiveEchoTime",),
    "MRDiffusionSequence": ("DiffusionBValue", "DiffusionDirectionality"),
    "MRImageFrameTypeSequence": ("FrameType", "ComplexImageComponent"),
    "CTImageFrameTypeSequence": ("FrameType",),
    "CardiacSynchronizationSequence": ("NominalCardiacTriggerDelayTime",),
    "MRModifierSequence": ("InversionTimes",),
}


@dataclass(frozen=True, kw_only=True)
class ImageHeader:
    """What all frames of a file share. Texts and identifiers stay out of `repr`."""

    path: Path = field(repr=False)
    sop_uid: str = field(repr=False)
    series_uid: str = field(repr=False)
    study_uid: str = field(repr=False)
    patient: str = field(repr=False)
    description: str = field(repr=False)
    frame_of_reference: str = field(repr=False)
    modality: str
    image_type: tuple[str, ...]
    transfer_syntax: str
    n_frames: int
    rows: int
    columns: int
    samples: int
    photometric: str
    bits_allocated: int
    bits_stored: int
    high_bit: int
    is_signed: bool
    padding: int | None
    has_overlay_bits: bool
    has_modality_lut: bool
    is_lossy: bool
    is_mosaic: bool
    is_multiframe: bool


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One slice: where it lies, how its stored values become real ones, what tells its volume from others.

    Args:
        image: the file.
        index: 0-based frame in the file.
        instance_number: (0020,0013), or the frame number for multi-frame files; None where absent.
        position: (0020,0032) centre of the first voxel, LPS mm; None where absent.
        orientation: (0020,0037) direction cosines of a row, then of a column; None where absent.
        spacing: (0028,0030) mm between rows, then between columns; None where absent.
        slope: (0028,1053).
        intercept: (0028,1052).
        volume_keys: values of the attributes by which the volumes of one series may differ.
    """

    image: ImageHeader
    index: int
    instance_number: int | None
    position: Vector | None
    orientation: Vector | None
    spacing: Vector | None
    slope: float
    intercept: float
    volume_keys: dict[str, str] = field(repr=False)

    def __str__(self) -> str:
        """Name the slice by numbers that say nothing about the patient."""
        name = "frame" if self.image.is_multiframe else "InstanceNumber"
        number = "absent" if self.instance_number is None else str(self.instance_number)
        place = "unknown" if self.position is None else " ".join(f"{value:.2f}" for value in self.position)
        return f"slice ({name} {number}, position {place} mm)"


def frames_of(opened: OpenedFile, path: Path) -> tuple[Frame, ...]:
    """Make the frames of a file.

    Returns:
        Empty for objects that are not images (structure sets, reports, presentation states, DICOMDIR).

    Raises:
        DicomError: TRUNCATED, or UNREADABLE, INVALID_GEOMETRY and PIXEL_FORMAT for values that cannot be
            parsed.

    Source: PS3.3 C.7.6.2 (Image Plane), C.7.6.16 (Multi-frame Functional Groups), C.11.1 (Modality LUT).
    """
    dataset = opened.dataset
    try:
        with quiet_pydicom():
            if not dataset.get("Rows") or not dataset.get("Columns"):
                _refuse_cut_header(opened)
                return ()
            if opened.sop_class == _SPECTROSCOPY:
                return ()
            image = _image_of(opened, path)
            _refuse_cut_pixels(opened, image)
            return tuple(
                _multi_frames(dataset, image) if image.is_multiframe else [_single_frame(dataset, image)]
            )
    except DicomError:
        raise
    except PARSE_ERRORS:
        raise DicomError(Refusal.UNREADABLE, "a file's header holds values that are not numbers") from None


def _refuse_cut_header(opened: OpenedFile) -> None:
    """Tell a file whose header was cut from an object that has no pixels by nature."""
    if not opened.sop_class or "Image Storage" in opened.sop_class.name:
        raise DicomError(Refusal.TRUNCATED, "a file ends within its header; restore the file")


def _refuse_cut_pixels(opened: OpenedFile, image: ImageHeader) -> None:
    """Refuse a file too short for its pixels, where their number of bytes is known (PS3.5 8.1.1)."""
    syntax = opened.transfer_syntax
    is_native = bool(syntax.is_transfer_syntax and not syntax.is_compressed)
    n_bytes = image.rows * image.columns * image.samples * image.n_frames * image.bits_allocated // 8
    needed = n_bytes + 8 if is_native and image.samples == 1 else 8
    if opened.pixel_bytes is not None and opened.pixel_bytes < needed:
        raise DicomError(
            Refusal.TRUNCATED,
            f"a file has {opened.pixel_bytes} bytes of pixels, its size asks for {needed}; restore the file",
        )


def _image_of(opened: OpenedFile, path: Path) -> ImageHeader:
    dataset = opened.dataset
    stored = int(dataset.get("BitsStored") or dataset.get("BitsAllocated") or 16)
    image_type = dataset.get("ImageType") or ()
    image_type = (image_type,) if isinstance(image_type, str) else tuple(str(value) for value in image_type)
    padding = dataset.get("PixelPaddingValue")
    issuer = _text(dataset, "IssuerOfPatientID")
    return ImageHeader(
        path=path,
        sop_uid=_text(dataset, "SOPInstanceUID"),
        series_uid=_text(dataset, "SeriesInstanceUID"),
        study_uid=_text(dataset, "StudyInstanceUID"),
        patient="\n".join(part for part in (_text(dataset, "PatientID"), issuer) if part),
        description=_text(dataset, "SeriesDescription"),
        frame_of_reference=_text(dataset, "FrameOfReferenceUID"),
        modality=_text(dataset, "Modality"),
        image_type=image_type,
        transfer_syntax=str(opened.transfer_syntax),
        n_frames=int(dataset.get("NumberOfFrames") or 1),
        rows=int(dataset.Rows),
        columns=int(dataset.Columns),
        samples=int(dataset.get("SamplesPerPixel") or 1),
        photometric=_text(dataset, "PhotometricInterpretation") or "MONOCHROME2",
        bits_allocated=int(dataset.get("BitsAllocated") or 16),
        bits_stored=stored,
        high_bit=int(dataset.get("HighBit", stored - 1)),
        is_signed=bool(dataset.get("PixelRepresentation") or 0),
        padding=padding if isinstance(padding, int) else None,
        has_overlay_bits=bool(_number_of(dataset, OVERLAY_BIT_POSITION)),
        has_modality_lut="ModalityLUTSequence" in dataset,
        is_lossy=_text(dataset, "LossyImageCompression") == "01",
        is_mosaic="MOSAIC" in image_type or (_number_of(dataset, _SIEMENS_MOSAIC) or 0) > 1,
        is_multiframe=int(dataset.get("NumberOfFrames") or 1) > 1
        or "PerFrameFunctionalGroupsSequence" in dataset,
    )


def _single_frame(dataset: Dataset, image: ImageHeader) -> Frame:
    return Frame(
        image=image,
        index=0,
        instance_number=_integer(dataset, "InstanceNumber"),
        position=_numbers(dataset, "ImagePositionPatient", 3),
        orientation=_numbers(dataset, "ImageOrientationPatient", 6),
        spacing=_numbers(dataset, "PixelSpacing", 2),
        slope=_rescale(dataset, "RescaleSlope", 1.0),
        intercept=_rescale(dataset, "RescaleIntercept", 0.0),
        volume_keys={str(tag): str(dataset[tag].value) for tag in VOLUME_TAGS if tag in dataset}
        | {"ImageType": "/".join(image.image_type)},
    )


def _multi_frames(dataset: Dataset, image: ImageHeader) -> Iterator[Frame]:
    """Yield the frames of a multi-frame file; attributes stand in the frame's own or in the shared groups."""
    shared = _item(dataset, "SharedFunctionalGroupsSequence")
    groups = list(dataset.get("PerFrameFunctionalGroupsSequence") or [])
    if groups and len(groups) != image.n_frames:
        raise DicomError(
            Refusal.INVALID_GEOMETRY,
            f"a multi-frame file declares {image.n_frames} frames and describes {len(groups)}; restore the "
            "file",
        )
    for index in range(image.n_frames if groups else 1):
        own = groups[index] if groups else Dataset()
        places = (own, shared)
        values = _functional_group(places, "PixelValueTransformationSequence") or dataset
        yield Frame(
            image=image,
            index=index,
            instance_number=index + 1,
            position=_numbers(_functional_group(places, "PlanePositionSequence"), "ImagePositionPatient", 3),
            orientation=_numbers(
                _functional_group(places, "PlaneOrientationSequence"), "ImageOrientationPatient", 6
            ),
            spacing=_numbers(_functional_group(places, "PixelMeasuresSequence"), "PixelSpacing", 2),
            slope=_rescale(values, "RescaleSlope", 1.0),
            intercept=_rescale(values, "RescaleIntercept", 0.0),
            volume_keys=({"SOPInstanceUID": image.sop_uid} if image.n_frames > 1 else {})
            | _frame_volume_keys(places),
        )


def _frame_volume_keys(places: Sequence[Dataset]) -> dict[str, str]:
    keys: dict[str, str] = {}
    for sequence, tags in _FRAME_VOLUME_TAGS.items():
        group = _functional_group(places, sequence)
        keys |= {tag: str(group[tag].value) for tag in tags if tag in group}
    diffusion = _functional_group(places, "MRDiffusionSequence")
    gradient = _item(diffusion, "DiffusionGradientDirectionSequence")
    if "DiffusionGradientOrientation" in gradient:
        keys["DiffusionGradientOrientation"] = str(gradient.DiffusionGradientOrientation)
    return keys


def _functional_group(places: Sequence[Dataset], sequence: str) -> Dataset:
    return next((_item(place, sequence) for place in places if len(_item(place, sequence))), Dataset())


def _item(dataset: Dataset, sequence: str) -> Dataset:
    items = dataset.get(sequence)
    return items[0] if items else Dataset()


def _text(dataset: Dataset, keyword: str) -> str:
    value = dataset.get(keyword)
    return "" if value is None else str(value).strip()


def _integer(dataset: Dataset, keyword: str) -> int | None:
    try:
        value = dataset.get(keyword)
        return None if value in (None, "") else int(value)
    except (ValueError, TypeError, OverflowError):
        return None


def _number_of(dataset: Dataset, tag: tuple[int, int]) -> int | None:
    value: Any = dataset[tag].value if tag in dataset else None
    if isinstance(value, bytes) and len(value) == 2:
        return int.from_bytes(value, "little")
    return value if isinstance(value, int) else None


def _numbers(dataset: Dataset, keyword: str, n_numbers: int) -> Vector | None:
    """Return a vector of finite numbers, None where the attribute is absent or empty."""
    try:
        value = dataset.get(keyword)
        if value is None or value == "" or len(value) == 0:
            return None
        vector = tuple(float(number) for number in value)
    except (ValueError, TypeError, OverflowError):
        vector = ()
    if len(vector) != n_numbers or not all(math.isfinite(number) for number in vector):
        raise DicomError(
            Refusal.INVALID_GEOMETRY,
            f"{keyword} of a file is not {n_numbers} finite numbers; correct the header",
        )
    return vector


def _rescale(dataset: Dataset, keyword: str, default: float) -> float:
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
