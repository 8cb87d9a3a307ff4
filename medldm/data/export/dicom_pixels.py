"""Bring voxels to the 16-bit integers of DICOM, exactly where they are such integers."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np
from pydicom.valuerep import format_number_as_ds

from medldm.files import hash_array
from medldm.transforms.errors import VoxelValueError

_LEVELS = 2**16 - 1


@dataclass(frozen=True, kw_only=True)
class StoredPixels:
    """A volume as DICOM stores it: value = slope * stored + intercept (PS3.3 C.7.6.16.2.9, C.11.1).

    Args:
        stored: (I, J, K) int16 or uint16.
        slope: as a decimal string of at most 16 characters.
        intercept: the same.
        step: None where every value is exact, else the slope, of which values come back within a half.
    """

    stored: np.ndarray
    slope: str = "1"
    intercept: str = "0"
    step: float | None = None

    @property
    def content_hash(self) -> str:
        """Return what identifies the values."""
        text = f"{hash_array(self.stored)}|{self.slope}|{self.intercept}"
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def is_identity(self) -> bool:
        """Tell whether what is stored are the values."""
        return (self.slope, self.intercept) == ("1", "0")


def store_pixels(values: np.ndarray) -> StoredPixels:
    """Bring the voxels of a volume (I, J, K) to 16 bits.

    Whole numbers that span at most 65,536 values are stored exactly; other numbers in 65,536 steps from the
    smallest to the largest.

    Raises:
        VoxelValueError: for NaN or Inf.
    """
    lowest, highest = float(values.min()), float(values.max())
    if not (math.isfinite(lowest) and math.isfinite(highest)):
        raise VoxelValueError("NaN or Inf voxels cannot be stored in DICOM; repair the volume")
    if values.dtype.kind in "iub" or np.array_equal(values, np.rint(values)):
        if lowest >= -(2**15) and highest < 2**15:
            return StoredPixels(stored=values.astype(np.int16))
        if lowest >= 0 and highest <= _LEVELS:
            return StoredPixels(stored=values.astype(np.uint16))
        if highest - lowest <= _LEVELS and abs(lowest) < 1e15:
            shifted = values.astype(np.int64) - int(lowest)
            return StoredPixels(stored=shifted.astype(np.uint16), intercept=str(int(lowest)))
    slope, intercept = _decimal((highest - lowest) / _LEVELS), _decimal(lowest)
    if float(slope) <= 0:
        slope = "1"  # all voxels are one number
    scaled = np.rint((values.astype(np.float64) - float(intercept)) / float(slope))
    return StoredPixels(
        stored=np.clip(scaled, 0, _LEVELS).astype(np.uint16),
        slope=slope,
        intercept=intercept,
        step=float(slope),
    )


def _decimal(number: float) -> str:
    return str(format_number_as_ds(float(number)))
