"""Judge the raw header of a NIfTI file before anything is allocated for it.

Source: nifti1.h and nifti2.h of the NIfTI Data Format Working Group; field names are theirs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import numpy as np
from nibabel.quaternions import fillpositive, quat2mat

from medldm.transforms.errors import GeometryError, HeaderError, UnsupportedVolumeError
from medldm.transforms.raw_volume import DEFAULT_MAX_BYTES, check_affine, check_shape

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
MAX_HEADER_BYTES = NIFTI_2.itemsize
_MAX_EXTENSION_BYTES = 64 * 1024**2


@dataclass(frozen=True, kw_only=True)
class NiftiHeader:
    """The fields of a NIfTI header that reading needs, already judged."""

    shape: tuple[int, int, int]
    dtype: np.dtype
    data_offset: int
    slope: float
    intercept: float
    affine: np.ndarray
    notes: tuple[str, ...] = ()

    @property
    def data_bytes(self) -> int:
        """Bytes of the voxel block in the file."""
        return self.shape[0] * self.shape[1] * self.shape[2] * self.dtype.itemsize


def parse_header(raw: bytes, *, max_bytes: int = DEFAULT_MAX_BYTES) -> NiftiHeader:
    """Judge a raw NIfTI header.

    Args:
        raw: the first 540 bytes of the (uncompressed) file, at least 348 for NIfTI-1.
        max_bytes: cap on the volume in memory.

    Raises:
        VolumeError: of the kind that fits, for every header that is not a sound 3D volume.
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
    shape = check_shape(declared, item_bytes=dtype.itemsize, max_bytes=max_bytes)
    # Signalling NaN raise the invalid flag on conversion; what is not finite is refused by name below.
    with np.errstate(invalid="ignore", over="ignore"):
        slope, intercept = _scaling(fields)
        affine, notes = _affine(fields)
    return NiftiHeader(
        shape=shape,
        dtype=dtype,
        data_offset=_data_offset(fields),
        slope=slope,
        intercept=intercept,
        affine=affine,
        notes=notes,
    )


def _fields(raw: bytes) -> tuple[np.void, ByteOrder]:
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


def _scaling(fields: np.void) -> tuple[float, float]:
    slope, intercept = float(fields["scl_slope"]), float(fields["scl_inter"])
    if not (np.isfinite(slope) and np.isfinite(intercept)):
        raise HeaderError(f"scl_slope is {slope} and scl_inter is {intercept}; both must be finite")
    return (1.0, 0.0) if slope == 0 else (slope, intercept)


def _affine(fields: np.void) -> tuple[np.ndarray, tuple[str, ...]]:
    unit = int(fields["xyzt_units"]) & 7
    if unit in (1, 3):
        name = {1: "metres", 3: "micrometres"}[unit]
        raise GeometryError(
            f"its unit of length is {name}; millimetres are read; convert the affine and xyzt_units"
        )
    if int(fields["sform_code"]) > 0:
        affine = np.vstack([np.asarray(fields["srow"], dtype=np.float64), [0, 0, 0, 1]])
        check_affine(affine)
        return affine, _form_notes(fields, affine)
    if int(fields["qform_code"]) > 0:
        affine = _quaternion_affine(fields)
        check_affine(affine)
        return affine, ()
    raise GeometryError(
        "it has neither sform nor qform (both codes are 0), its orientation is unknown; set one"
    )


def _form_notes(fields: np.void, affine: np.ndarray) -> tuple[str, ...]:
    if int(fields["qform_code"]) <= 0:
        return ()
    try:
        other = _quaternion_affine(fields)
        check_affine(other)
    except GeometryError:
        return ("its qform is not usable; the sform is taken",)
    last = np.append(np.asarray(fields["dim"][1:4], dtype=np.float64) - 1, 1)
    distance = max(np.abs((affine - other) @ corner).max() for corner in (np.array([0, 0, 0, 1.0]), last))
    return (f"sform and qform differ by {distance:.3g} mm; the sform is taken",) if distance > 0.1 else ()


def _quaternion_affine(fields: np.void) -> np.ndarray:
    """Build the qform affine: R diag(pixdim) with qfac = pixdim[0], nifti1.h 'method 2'."""
    b, c, d = (float(value) for value in fields["quatern"])
    spacing = np.asarray(fields["pixdim"][1:4], dtype=np.float64)
    if not np.isfinite([b, c, d, *spacing]).all():
        raise GeometryError("its qform holds NaN or Inf; write a finite sform or qform")
    if (spacing <= 0).any():
        raise GeometryError(f"its pixdim is {spacing.tolist()} mm; positive spacing is needed")
    # nibabel's own arithmetic and tolerance, so that its users get the same affine to the bit.
    try:
        quaternion = fillpositive([b, c, d], -3 * np.finfo(np.float32).eps)
    except ValueError as error:
        raise GeometryError(
            f"its quaternion {b:.4g}, {c:.4g}, {d:.4g} is longer than 1; rewrite qform"
        ) from error
    qfac = -1.0 if float(fields["pixdim"][0]) < 0 else 1.0
    affine = np.eye(4)
    affine[:3, :3] = np.dot(quat2mat(quaternion), np.diag(spacing * [1.0, 1.0, qfac]))
    affine[:3, 3] = fields["qoffset"]
    return affine
