"""Judge the raw header of a NIfTI file before anything is allocated for it.

Source: nifti1.h and nifti2.h of the NIfTI Data Format Working Group; field names are theirs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import numpy as np

from medldm.transforms.errors import HeaderError, UnsupportedVolumeError
from medldm.transforms.foreign_formats import packed_format
from medldm.transforms.nifti_affine import AffineChoice, choose_affine
from medldm.transforms.raw_volume import DEFAULT_MAX_BYTES, VolumeNumber, check_shape

ByteOrder = Literal["<", ">"]

DTYPES = {
    2: "u1",
    4: "i2",
    8: "i4",
    16: "f4",
    64: "f8",
    256: "i1",
    512: "u2",
    768: "u4",
    1024: "i8",
    1280: "u8",
}
"""NIfTI datatype code -> NumPy type; complex, RGB, bit and 128-bit types are refused."""


def _layout(itemsize: int, fields: str) -> np.dtype:
    """Make a structured type from "name:format@offset" items."""
    names, formats, offsets = zip(*(re.split("[:@]", item) for item in fields.split()), strict=True)
    offsets_bytes = [int(offset) for offset in offsets]
    return np.dtype({"names": names, "formats": formats, "offsets": offsets_bytes, "itemsize": itemsize})


NIFTI_1 = _layout(
    348,
    "sizeof_hdr:i4@0 dim:8i2@40 datatype:i2@70 bitpix:i2@72 pixdim:8f4@76 vox_offset:f4@108 "
    "scl_slope:f4@112 scl_inter:f4@116 xyzt_units:u1@123 qform_code:i2@252 sform_code:i2@254 "
    "quatern:3f4@256 qoffset:3f4@268 srow:(3,4)f4@280 magic:S4@344",
)
NIFTI_2 = _layout(
    540,
    "sizeof_hdr:i4@0 magic:S8@4 datatype:i2@12 bitpix:i2@14 dim:8i8@16 pixdim:8f8@104 vox_offset:i8@168 "
    "scl_slope:f8@176 scl_inter:f8@184 qform_code:i4@344 sform_code:i4@348 quatern:3f8@352 "
    "qoffset:3f8@376 srow:(3,4)f8@400 xyzt_units:i4@500",
)
_UNITS_OF_TIME = {8: "s", 16: "ms", 24: "us"}
"""xyzt_units, bits 3 to 5; other codes are no unit of time."""
MAX_HEADER_BYTES = NIFTI_2.itemsize
_MAX_EXTENSION_BYTES = 64 * 1024**2


@dataclass(frozen=True, kw_only=True)
class NiftiHeader:
    """The fields of a NIfTI header that reading needs, already judged; `shape` is that of one volume."""

    shape: tuple[int, int, int]
    dtype: np.dtype
    data_offset: int
    slope: float
    intercept: float
    affine: np.ndarray
    n_volumes: int = 1
    notes: tuple[str, ...] = ()

    @property
    def volume_bytes(self) -> int:
        """Bytes of one volume in the file."""
        return self.shape[0] * self.shape[1] * self.shape[2] * self.dtype.itemsize


def parse_header(
    raw: bytes,
    *,
    affine: AffineChoice | None = None,
    max_bytes: int = DEFAULT_MAX_BYTES,
    volume: VolumeNumber | None = None,
) -> NiftiHeader:
    """Judge a raw NIfTI header.

    Args:
        raw: the first 540 bytes of the (uncompressed) file, at least 348 for NIfTI-1.
        affine: which of sform and qform counts where they are at odds; None refuses such a file.
        max_bytes: cap on the volume in memory.
        volume: which of several volumes is meant; None for a file of one.

    Raises:
        VolumeError: of the kind that fits, for every header that is not one of a sound 3D volume, or of as
            many as `volume` says.
    """
    fields, order = _fields(raw)
    n_axes = int(fields["dim"][0])
    if not 1 <= n_axes <= 7:
        raise HeaderError(f"its header declares {n_axes} axes; 1 to 7 is allowed; the file is damaged")
    code = int(fields["datatype"])
    if code not in DTYPES:
        raise UnsupportedVolumeError(
            f"its datatype code is {code}; allowed are real numbers: {sorted(DTYPES)}"
        )
    dtype = np.dtype(DTYPES[code]).newbyteorder(order)
    if int(fields["bitpix"]) != 8 * dtype.itemsize:
        raise HeaderError(f"bitpix is {int(fields['bitpix'])}, datatype {code} has {8 * dtype.itemsize}")
    declared = tuple(int(size) for size in fields["dim"][1 : n_axes + 1])
    if volume is None:
        _refuse_several_volumes(declared, fields)
    else:
        declared = _one_of_several(declared, volume)
    shape = check_shape(declared, item_bytes=dtype.itemsize, max_bytes=max_bytes)
    # Signalling NaN raise the invalid flag on conversion; what is not finite is refused by name below.
    with np.errstate(invalid="ignore", over="ignore"):
        slope, intercept, scaling_notes = _scaling(fields)
        chosen, notes = choose_affine(fields, choice=affine)
    return NiftiHeader(
        shape=shape,
        dtype=dtype,
        data_offset=_data_offset(fields),
        slope=slope,
        intercept=intercept,
        affine=chosen,
        n_volumes=1 if volume is None else volume.count,
        notes=(*scaling_notes, *notes),
    )


def _fields(raw: bytes) -> tuple[np.void, ByteOrder]:
    if (found := packed_format(raw)) is not None:
        raise UnsupportedVolumeError(f"it is {found} in spite of its name; unpack it first")
    orders: tuple[ByteOrder, ...] = ("<", ">")
    for layout in (NIFTI_1, NIFTI_2):
        for order in orders:
            ordered = layout.newbyteorder(order)
            if len(raw) < layout.itemsize:
                continue
            fields = np.frombuffer(raw[: layout.itemsize], dtype=ordered)[0]
            if int(fields["sizeof_hdr"]) == layout.itemsize:
                return _checked_magic(fields), order
    raise HeaderError("it is not a NIfTI file (header size neither 348 nor 540) or it is cut in the header")


def _checked_magic(fields: np.void) -> np.void:
    magic = bytes(fields["magic"])[:3].rstrip(b"\0")
    if magic in (b"ni1", b"ni2"):
        raise UnsupportedVolumeError("it is one half of an .hdr/.img pair; convert it to a single .nii file")
    if magic not in (b"n+1", b"n+2"):
        raise HeaderError("its magic is not 'n+1' or 'n+2'; Analyze files are not read; convert to NIfTI")
    return fields


def _data_offset(fields: np.void) -> int:
    offset = float(fields["vox_offset"])
    least = int(fields["sizeof_hdr"]) + 4
    if not (np.isfinite(offset) and least <= offset <= _MAX_EXTENSION_BYTES and offset == int(offset)):
        raise HeaderError(f"vox_offset is {offset:g}; {least} to {_MAX_EXTENSION_BYTES} is allowed")
    return int(offset)


def _scaling(fields: np.void) -> tuple[float, float, tuple[str, ...]]:
    """Return slope, intercept and notes; as nibabel and ITK do, no number in either means unscaled."""
    slope, intercept = float(fields["scl_slope"]), float(fields["scl_inter"])
    are_finite = (bool(np.isfinite(slope)), bool(np.isfinite(intercept)))
    if not any(are_finite):
        note = f"scl_slope is {slope} and scl_inter is {intercept}: its values are taken unscaled"
        return 1.0, 0.0, (note,)
    if not all(are_finite):
        raise HeaderError(
            f"scl_slope is {slope} and scl_inter is {intercept}; both must be finite, or neither (unscaled)"
        )
    return (1.0, 0.0, ()) if slope == 0 else (slope, intercept, ())


def _one_of_several(declared: tuple[int, ...], volume: VolumeNumber) -> tuple[int, ...]:
    """Return the shape of one volume, where the file holds as many as it should along its fourth axis."""
    n_volumes = declared[3] if len(declared) > 3 else 1
    if n_volumes != volume.count or any(size != 1 for size in declared[4:]):
        raise UnsupportedVolumeError(
            f"its shape is {declared}, {n_volumes} on the fourth axis, but {volume.count} channels are "
            "declared for it; correct the declaration, or write each channel along the fourth axis"
        )
    return declared[:3]


def _refuse_several_volumes(declared: tuple[int, ...], fields: np.void) -> None:
    """Name a file of several volumes for what it is: the fourth axis is time (nifti1.h, dim[4])."""
    n_volumes = declared[3] if len(declared) > 3 else 1
    if n_volumes < 2 or any(size != 1 for size in declared[4:]):
        return
    unit = _UNITS_OF_TIME.get(int(fields["xyzt_units"]) & 0x38)
    step = float(fields["pixdim"][4])
    is_time = unit is not None and np.isfinite(step) and step > 0
    kind = f"a time series of {n_volumes} volumes" + (f", one each {step:g} {unit}" if is_time else "")
    other = "" if is_time else " (or of as many channels: its header gives no unit of time)"
    raise UnsupportedVolumeError(
        f"it is {kind}{other}, its shape is {declared}; three axes are read: write one of the volumes, or "
        "their mean, or each, to a file of its own, for example with nibabel.four_to_three"
    )
