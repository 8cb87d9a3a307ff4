"""The one error of reading DICOM, with a name for every reason to refuse."""

from __future__ import annotations

from enum import Enum

from medldm.transforms.errors import VolumeError


class Refusal(str, Enum):
    """Why a DICOM series is not read as a volume."""

    TOO_FEW_SLICES = "too_few_slices"
    SOP_CLASS = "sop_class"
    LOCALIZER = "localizer"
    PROJECTION = "projection"
    BURNED_IN_TEXT = "burned_in_text"
    PATIENTS = "patients"
    MISSING_GEOMETRY = "missing_geometry"
    INVALID_GEOMETRY = "invalid_geometry"
    GANTRY_TILT = "gantry_tilt"
    SHIFTED_SLICES = "shifted_slices"
    MISSING_SLICES = "missing_slices"
    VARIABLE_SPACING = "variable_spacing"
    DUPLICATE_POSITIONS = "duplicate_positions"
    TIME_SERIES = "time_series"
    INCOMPLETE_VOLUME = "incomplete_volume"
    FRAMES_OF_REFERENCE = "frames_of_reference"
    COLOUR = "colour"
    MOSAIC = "mosaic"
    PIXEL_FORMAT = "pixel_format"
    MODALITY_LUT = "modality_lut"
    TRUNCATED = "truncated"
    DEFLATE_LIMIT = "deflate_limit"
    TOO_LARGE = "too_large"
    UNSUPPORTED_SYNTAX = "unsupported_syntax"
    DECODER_MISSING = "decoder_missing"
    UNDECODABLE = "undecodable"
    UNREADABLE = "unreadable"
    NO_MATCH = "no_match"
    AMBIGUOUS = "ambiguous"


class DicomError(VolumeError):
    """Report a series, or a file of it, that is refused.

    The message holds numbers only (positions, InstanceNumber, sizes), never a path or a text of the header,
    so that it may be logged and written.

    Args:
        refusal: the name of the reason.
        message: what is wrong, the value found, what is allowed and what to do.

    Examples:
        >>> error = DicomError(Refusal.MOSAIC, "two slices share one image")
        >>> error.refusal.value, str(error)
        ('mosaic', 'mosaic: two slices share one image')
    """

    def __init__(self, refusal: Refusal, message: str) -> None:
        super().__init__(f"{refusal.value}: {message}")
        self.refusal = refusal
        self.message = message

    def __reduce__(self) -> tuple[object, ...]:
        """Survive pickling, so that errors cross the borders of worker processes."""
        return (DicomError, (self.refusal, self.message))
