"""Turn headers into frames: one record for each slice, from single-frame and from multi-frame files alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydicom import Dataset

from medldm.data.dicom import attributes
from medldm.data.dicom.attributes import Vector, functional_group, item_of, numbers_of, rescale_of, text_of
from medldm.data.dicom.errors import DicomError, Refusal
from medldm.data.dicom.files import LAZY_ERRORS, OpenedFile, quiet_pydicom, refusing_damage
from medldm.data.dicom.sop_classes import LOCALIZERS, PROJECTIONS, kind_of


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
    sop_class: str
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
    has_burned_in_text: bool
    is_lossy: bool
    is_mosaic: bool
    is_localizer: bool
    is_projection: bool
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
        Empty for objects that are no images by their SOP class (segmentations, dose grids, structure sets,
        reports, ...), and for objects of an unknown class without pixels (DICOMDIR).

    Raises:
        DicomError: TRUNCATED, or UNREADABLE, INVALID_GEOMETRY and PIXEL_FORMAT for values that cannot be
            parsed.

    Source: PS3.3 C.7.6.2 (Image Plane), C.7.6.16 (Multi-frame Functional Groups), C.11.1 (Modality LUT).
    """
    dataset = opened.dataset
    kind = kind_of(opened.sop_class)
    if kind not in ("image", "unknown"):
        return ()
    try:
        with quiet_pydicom():
            if not dataset.get("Rows") or not dataset.get("Columns"):
                _refuse_cut_header(opened)
                return ()
            image = _image_of(opened, path)
            _refuse_cut_pixels(opened, image)
            return tuple(
                _multi_frames(dataset, image) if image.is_multiframe else [_single_frame(dataset, image)]
            )
    except DicomError:
        raise
    except LAZY_ERRORS:
        raise DicomError(Refusal.UNREADABLE, "a file's header holds values that are not numbers") from None


def label_frames_of(opened: OpenedFile, path: Path) -> tuple[Frame, ...]:
    """Make the frames of a segmentation, whatever its class; errors as `frames_of`."""
    with refusing_damage("a segmentation"):
        image = _image_of(opened, path)
        _refuse_cut_pixels(opened, image)
        return tuple(_multi_frames(opened.dataset, image))


def _refuse_cut_header(opened: OpenedFile) -> None:
    """Tell a file whose header was cut from an object that has no pixels by nature."""
    if not opened.sop_class or kind_of(opened.sop_class) == "image":
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
    technique = text_of(dataset, "VolumeBasedCalculationTechnique")
    words = {value.strip().upper() for value in (*image_type, technique)}
    padding = dataset.get("PixelPaddingValue")
    issuer = text_of(dataset, "IssuerOfPatientID")
    return ImageHeader(
        path=path,
        sop_uid=text_of(dataset, "SOPInstanceUID"),
        series_uid=text_of(dataset, "SeriesInstanceUID"),
        study_uid=text_of(dataset, "StudyInstanceUID"),
        patient="\n".join(part for part in (text_of(dataset, "PatientID"), issuer) if part),
        description=text_of(dataset, "SeriesDescription"),
        frame_of_reference=text_of(dataset, "FrameOfReferenceUID"),
        sop_class=str(opened.sop_class),
        modality=text_of(dataset, "Modality"),
        image_type=image_type,
        transfer_syntax=str(opened.transfer_syntax),
        n_frames=int(dataset.get("NumberOfFrames") or 1),
        rows=int(dataset.Rows),
        columns=int(dataset.Columns),
        samples=int(dataset.get("SamplesPerPixel") or 1),
        photometric=text_of(dataset, "PhotometricInterpretation") or "MONOCHROME2",
        bits_allocated=int(dataset.get("BitsAllocated") or 16),
        bits_stored=stored,
        high_bit=int(dataset.get("HighBit", stored - 1)),
        is_signed=bool(dataset.get("PixelRepresentation") or 0),
        padding=padding if isinstance(padding, int) else None,
        has_overlay_bits=bool(attributes.number_of(dataset, attributes.OVERLAY_BIT_POSITION)),
        has_modality_lut="ModalityLUTSequence" in dataset,
        has_burned_in_text=text_of(dataset, "BurnedInAnnotation").upper() == "YES",
        is_lossy=text_of(dataset, "LossyImageCompression") == "01",
        is_mosaic="MOSAIC" in image_type
        or (attributes.number_of(dataset, attributes.SIEMENS_MOSAIC) or 0) > 1,
        is_localizer=bool(words & LOCALIZERS),
        is_projection=bool(words & PROJECTIONS),
        is_multiframe=int(dataset.get("NumberOfFrames") or 1) > 1
        or "PerFrameFunctionalGroupsSequence" in dataset,
    )


def _single_frame(dataset: Dataset, image: ImageHeader) -> Frame:
    return Frame(
        image=image,
        index=0,
        instance_number=attributes.integer_of(dataset, "InstanceNumber"),
        position=numbers_of(dataset, "ImagePositionPatient", 3),
        orientation=numbers_of(dataset, "ImageOrientationPatient", 6),
        spacing=numbers_of(dataset, "PixelSpacing", 2),
        slope=rescale_of(dataset, "RescaleSlope", 1.0),
        intercept=rescale_of(dataset, "RescaleIntercept", 0.0),
        volume_keys={str(tag): str(dataset[tag].value) for tag in attributes.VOLUME_TAGS if tag in dataset}
        | {"ImageType": "/".join(image.image_type)},
    )


def _multi_frames(dataset: Dataset, image: ImageHeader) -> Iterator[Frame]:
    """Yield the frames of a multi-frame file; attributes stand in the frame's own or in the shared groups."""
    shared = item_of(dataset, "SharedFunctionalGroupsSequence")
    groups = list(dataset.get("PerFrameFunctionalGroupsSequence") or [])
    if groups and len(groups) != image.n_frames:
        message = f"declares {image.n_frames} frames and describes {len(groups)}; restore the file"
        raise DicomError(Refusal.INVALID_GEOMETRY, f"a multi-frame file {message}")
    for index in range(image.n_frames if groups else 1):
        own = groups[index] if groups else Dataset()
        places = (own, shared)
        values = functional_group(places, "PixelValueTransformationSequence") or dataset
        yield Frame(
            image=image,
            index=index,
            instance_number=index + 1,
            position=numbers_of(functional_group(places, "PlanePositionSequence"), "ImagePositionPatient", 3),
            orientation=numbers_of(
                functional_group(places, "PlaneOrientationSequence"), "ImageOrientationPatient", 6
            ),
            spacing=numbers_of(functional_group(places, "PixelMeasuresSequence"), "PixelSpacing", 2),
            slope=rescale_of(values, "RescaleSlope", 1.0),
            intercept=rescale_of(values, "RescaleIntercept", 0.0),
            volume_keys=({"SOPInstanceUID": image.sop_uid} if image.n_frames > 1 else {})
            | _frame_volume_keys(places),
        )


def _frame_volume_keys(places: Sequence[Dataset]) -> dict[str, str]:
    keys: dict[str, str] = {}
    for sequence, tags in attributes.FRAME_VOLUME_TAGS.items():
        group = functional_group(places, sequence)
        keys |= {tag: str(group[tag].value) for tag in tags if tag in group}
    diffusion = functional_group(places, "MRDiffusionSequence")
    gradient = item_of(diffusion, "DiffusionGradientDirectionSequence")
    if "DiffusionGradientOrientation" in gradient:
        keys["DiffusionGradientOrientation"] = str(gradient.DiffusionGradientOrientation)
    return keys
