"""One series of slices: what its headers say, and whether that is a volume."""

from __future__ import annotations

from dataclasses import dataclass, field

from medldm.data.dicom.errors import DicomError, Refusal
from medldm.data.dicom.frames import Frame, ImageHeader
from medldm.data.dicom.sop_classes import LABEL_MODALITIES, kind_of

IRREGULAR = {"gantry_tilt", "shifted_slices", "missing_slices", "variable_spacing"}
"""What `regularise=True` resamples."""


@dataclass(frozen=True, kw_only=True)
class DicomSeries:
    """The slices of one volume.

    Args:
        number: 1, 2, ... in the scan; names the series without saying who it is.
        frames: its slices, in no order.
        refusal: why it is not read; None for a regular volume.
        volume: 1-based place among the volumes of a 4D series, and their number.
    """

    number: int
    frames: tuple[Frame, ...] = field(repr=False)
    refusal: DicomError | None = None
    volume: tuple[int, int] = (1, 1)

    @property
    def image(self) -> ImageHeader:
        """Return the header of the first slice's file."""
        return self.frames[0].image

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return (columns, rows, slices)."""
        return self.image.columns, self.image.rows, len(self.frames)

    @property
    def is_irregular(self) -> bool:
        """Return whether `regularise=True` would read it."""
        return self.refusal is not None and self.refusal.refusal.value in IRREGULAR


def check_kind(series: DicomSeries, *, max_bytes: int) -> None:
    """Refuse what is not a stack of scalar slices.

    Raises:
        DicomError: SOP_CLASS, BURNED_IN_TEXT, PATIENTS, COLOUR, MOSAIC, LOCALIZER, PROJECTION, MODALITY_LUT,
            PIXEL_FORMAT or TOO_LARGE.

    Source: PS3.3 C.7.6.3.1.2 Photometric Interpretation (0028,0004); C.11.1 Modality LUT; C.7.6.1 Burned In
    Annotation (0028,0301).
    """
    image = series.image
    _refuse_other_kinds(image)
    if any(frame.image.has_burned_in_text for frame in series.frames):
        raise DicomError(
            Refusal.BURNED_IN_TEXT,
            "its header says that text is burnt into the voxels (0028,0301 is YES), which may name the "
            "patient; leave it out, or erase the text and correct the header",
        )
    if len({frame.image.patient for frame in series.frames} - {""}) > 1:
        raise DicomError(
            Refusal.PATIENTS,
            "its slices name different patients (0010,0020) under one Series Instance UID; separate them",
        )
    if any(
        frame.image.samples != 1 or "MONOCHROME" not in frame.image.photometric for frame in series.frames
    ):
        raise DicomError(
            Refusal.COLOUR,
            f"its pixels are colours ({image.samples} samples); only monochrome images are volumes",
        )
    if image.is_mosaic:
        raise DicomError(
            Refusal.MOSAIC,
            "each file tiles a whole volume into one image (Siemens mosaic); export it as slices",
        )
    if any(frame.image.has_modality_lut for frame in series.frames):
        raise DicomError(
            Refusal.MODALITY_LUT, "it has a Modality LUT Sequence (0028,3000); only slopes are read"
        )
    if any(frame.image.bits_allocated not in (8, 16, 32) for frame in series.frames):
        raise DicomError(
            Refusal.PIXEL_FORMAT, f"it stores {image.bits_allocated} bits a voxel; 8, 16 and 32 are read"
        )
    n_bytes = series.shape[0] * series.shape[1] * series.shape[2] * 4
    if n_bytes > max_bytes:
        raise DicomError(
            Refusal.TOO_LARGE, f"it takes {n_bytes} bytes in memory; the cap is {max_bytes}; raise max_bytes"
        )


def _refuse_other_kinds(image: ImageHeader) -> None:
    """Refuse what is no image of a volume by its class, its modality or its image type."""
    if kind_of(image.sop_class) != "image":
        found = "private or unknown" if image.sop_class else "absent"
        raise DicomError(
            Refusal.SOP_CLASS,
            f"its SOP Class UID (0008,0016) is {found}, so nothing says that it is an image; export it as a "
            "standard image (CT, MR, PET, ...), or restore the header",
        )
    if image.modality.upper() in LABEL_MODALITIES:
        raise DicomError(
            Refusal.SOP_CLASS,
            f"its Modality (0008,0060) is {image.modality.upper()}, its SOP class that of an image; it holds "
            "labels or doses; export it as a segmentation, or remove it",
        )
    if image.is_localizer:
        raise DicomError(Refusal.LOCALIZER, "it is a localizer (0008,0008), not a volume")
    if image.is_projection:
        raise DicomError(
            Refusal.PROJECTION, "it is a projection or a rendering of a volume (0008,0008), not a volume"
        )
