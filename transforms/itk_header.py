"""What the header of an ITK file says once we have read it; no other file is ever named by it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import numpy as np

from medldm.transforms.errors import HeaderError

MAX_HEADER_BYTES = 2**20
"""A longer header is no header of a volume."""
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")
_NUMBER = re.compile(
    r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,4})?|[+-]?(?:nan|inf)", re.IGNORECASE
)
_MAX_NUMBERS, _MAX_DIGITS = 64, 400

Packing = Literal["none", "gzip", "zlib"]


@dataclass(frozen=True, kw_only=True)
class ItkHeader:
    """The fields of a header that reading needs, already judged.

    Args:
        shape: (I, J, K) voxels.
        dtype: of a stored voxel, with its byte order.
        affine: (4, 4) float64, voxel index to RAS+ millimetres.
        data_offset: bytes of the header; the voxels follow in the same file and end it.
        packing: how the voxels are compressed.
        packed_bytes: of the compressed voxels, where the header says so.
        notes: remarks that do not refuse the file.
    """

    shape: tuple[int, int, int]
    dtype: np.dtype
    affine: np.ndarray
    data_offset: int
    packing: Packing = "none"
    packed_bytes: int | None = None
    notes: tuple[str, ...] = ()

    @property
    def n_bytes(self) -> int:
        """Bytes of the voxels, uncompressed."""
        return self.shape[0] * self.shape[1] * self.shape[2] * self.dtype.itemsize


def itk_affine(origin: np.ndarray, spacing: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """Build the (4, 4) RAS+ affine of an origin, spacing and direction cosines in ITK's LPS+ world.

    Args:
        origin: (N,) mm, N at least 3; the first three count.
        spacing: (N,) mm.
        direction: (N, N), the direction of each axis in a column.
    """
    affine = np.eye(4)
    with np.errstate(over="ignore", invalid="ignore"):
        affine[:3, :3] = (direction * spacing)[:3, :3]
        affine[:3, 3] = origin[:3]
        return LPS_TO_RAS @ affine


def read_whole_numbers(text: str, field: str, *, count: int | None = None) -> tuple[int, ...]:
    """Read whole numbers of a field, of at most 18 digits.

    Args:
        text: of the field, numbers between blanks.
        field: its name, for the error; the text itself may hold anything and is not repeated.
        count: how many there must be; None for 1 to 64.

    Raises:
        HeaderError: naming the field.
    """
    return tuple(int(word) for word in _words(text, field, count=count, pattern=_WHOLE, kind="whole numbers"))


def read_numbers(text: str, field: str, *, count: int | None = None) -> np.ndarray:
    """Read numbers of a field, float64 (count,); arguments and errors as `read_whole_numbers`."""
    words = _words(text, field, count=count, pattern=_NUMBER, kind="numbers")
    return np.array([float(word) for word in words], dtype=np.float64)


def _words(text: str, field: str, *, count: int | None, pattern: re.Pattern[str], kind: str) -> list[str]:
    words = text.split()
    found = [word for word in words if len(word) <= _MAX_DIGITS and pattern.fullmatch(word)]
    is_counted = 1 <= len(words) <= _MAX_NUMBERS if count is None else len(words) == count
    if len(found) != len(words) or not is_counted:
        wanted = f"1 to {_MAX_NUMBERS}" if count is None else str(count)
        raise HeaderError(
            f"the field {field!r} of its header holds {len(words)} words, {len(found)} of them {kind}; "
            f"{wanted} {kind} are needed; it is damaged"
        )
    return words
