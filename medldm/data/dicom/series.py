"""One series of slices: what its headers say, and whether that is a volume."""

from __future__ import annotations

from dataclasses import dataclass, field

from medldm.data.dicom.errors import DicomError, Refusal
from medldm.data.dicom.frames import Frame, ImageHeader

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
        DicomError: COLOUR, MOSAIC, LOCALIZER, MODALITY_LUT, PIXEL_FORMAT or TOO_LARGE.

    Source: PS3.3 C.7.6.3.1.2 Photometric Interpretation (0028,0004); C.11.1 Modality LUT.
    """
    image = series.image
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
    if "LOCALIZER" in image.image_type:  # PS3.3 C.8.2.1.1.1, C.8.3.1.1.1
        raise DicomError(Refusal.LOCALIZER, "it is a localizer (0008,0008), not a volume")
