"""Read the header of a MetaImage (.mha) ourselves, so that no library is told by a file what to open.

Source: ITK, MetaIO documentation, "MetaImage tags"; the meaning of each is that of ITK's MetaImageIO.
"""

from __future__ import annotations

import numpy as np

from medldm.transforms.errors import HeaderError, UnsupportedVolumeError
from medldm.transforms.itk_header import (
    MAX_HEADER_BYTES,
    ItkHeader,
    Packing,
    itk_affine,
    read_numbers,
    read_whole_numbers,
)
from medldm.transforms.raw_volume import DEFAULT_MAX_BYTES, check_affine, check_shape

_DTYPES = {
    "MET_CHAR": "i1",
    "MET_ASCII_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG": "i4",
    "MET_ULONG": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
_LAST = "ElementDataFile"
_SYNONYMS = {
    "TransformMatrix": ("TransformMatrix", "Rotation", "Orientation"),
    "Offset": ("Offset", "Position", "Origin"),
    "ByteOrder": ("BinaryDataByteOrderMSB", "ElementByteOrderMSB"),
}
_NAMES = (
    "ObjectType",
    "NDims",
    "BinaryData",
    "CompressedData",
    "CompressedDataSize",
    "ElementSpacing",
    "ElementSize",
    "DimSize",
    "HeaderSize",
    "ElementType",
    "ElementNumberOfChannels",
    _LAST,
    *(name for names in _SYNONYMS.values() for name in names),
)
_KNOWN = {name.lower(): name for name in _NAMES}


def parse_metaimage_header(raw: bytes, *, max_bytes: int = DEFAULT_MAX_BYTES) -> ItkHeader:
    """Judge the header of a MetaImage whose voxels lie in the same file.

    Args:
        raw: the first bytes of the file, at most `MAX_HEADER_BYTES`.
        max_bytes: cap on the volume in memory.

    Raises:
        VolumeError: of the kind that fits; also where the voxels lie in other files, by name, by list or by
            pattern: none of them is opened.
    """
    fields, offset = _read_fields(raw)
    _check_kind(fields)
    n_axes = read_whole_numbers(fields["NDims"], "NDims", count=1)[0]
    if not 1 <= n_axes <= 10:
        raise HeaderError(f"NDims is {n_axes}; 1 to 10 is allowed; the file is damaged")
    kind = fields["ElementType"]
    if kind not in _DTYPES:
        raise UnsupportedVolumeError(f"its ElementType is not read; {', '.join(_DTYPES)} are")
    is_big = _is_true(_one_of(fields, "ByteOrder") or "False", "BinaryDataByteOrderMSB")
    dtype = np.dtype(_DTYPES[kind]).newbyteorder(">" if is_big else "<")
    declared = read_whole_numbers(fields["DimSize"], "DimSize", count=n_axes)
    shape = check_shape(declared, item_bytes=dtype.itemsize, max_bytes=max_bytes)
    affine, notes = _affine(fields, n_axes)
    packing, packed_bytes = _packing(fields)
    return ItkHeader(
        shape=shape,
        dtype=dtype,
        affine=affine,
        data_offset=offset,
        packing=packing,
        packed_bytes=packed_bytes,
        notes=notes,
    )


def _read_fields(raw: bytes) -> tuple[dict[str, str], int]:
    """Return the known fields by name, and where the data begin: after the line of `ElementDataFile`."""
    fields: dict[str, str] = {}
    place = 0
    while (end := raw.find(b"\n", place)) >= 0:
        line = raw[place:end].decode("latin-1")
        separators = [line.index(one) for one in "=:" if one in line]
        if not separators:
            break
        place = end + 1
        name, value = line[: min(separators)].strip(), line[min(separators) + 1 :].strip()
        known = _KNOWN.get(name.lower())
        if known is None:
            continue
        if known != name or known in fields:
            fault = "written in other letters" if known != name else "given twice"
            raise HeaderError(f"the field {known} of its header is {fault}; it is damaged or hostile")
        fields[known] = value
        if known == _LAST:
            return _complete(fields), place
    if place == 0 and b"=" not in raw[:256]:
        raise HeaderError("it is no MetaImage: it does not begin with a header; check its name")
    raise HeaderError(
        f"its header does not end with {_LAST} within {MAX_HEADER_BYTES} bytes; it is cut or damaged"
    )


def _complete(fields: dict[str, str]) -> dict[str, str]:
    missing = [name for name in ("NDims", "DimSize", "ElementType") if name not in fields]
    if missing:
        raise HeaderError(f"its header lacks {', '.join(missing)}; it is damaged")
    return fields


def _check_kind(fields: dict[str, str]) -> None:
    if fields[_LAST] not in ("LOCAL", "Local", "local"):
        raise UnsupportedVolumeError(
            "its voxels lie in another file, which is not opened; write header and voxels into one .mha file"
        )
    if fields.get("ObjectType", "Image") != "Image":
        raise UnsupportedVolumeError("its ObjectType is not Image; it holds no volume")
    if not _is_true(fields.get("BinaryData", "True"), "BinaryData"):
        raise UnsupportedVolumeError("its voxels are written as text; write it with BinaryData = True")
    n_channels = read_whole_numbers(
        fields.get("ElementNumberOfChannels", "1"), "ElementNumberOfChannels", count=1
    )
    if n_channels != (1,):
        raise UnsupportedVolumeError(f"it has {n_channels[0]} channels; one is read")
    if read_whole_numbers(fields.get("HeaderSize", "0"), "HeaderSize", count=1) != (0,):
        raise UnsupportedVolumeError(
            "its header asks to skip bytes (HeaderSize); write the file again without"
        )


def _packing(fields: dict[str, str]) -> tuple[Packing, int | None]:
    if not _is_true(fields.get("CompressedData", "False"), "CompressedData"):
        return "none", None
    if "CompressedDataSize" not in fields:
        return "zlib", None
    return "zlib", read_whole_numbers(fields["CompressedDataSize"], "CompressedDataSize", count=1)[0]


def _affine(fields: dict[str, str], n_axes: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """Build voxel index to RAS+ millimetres; each row of the file's matrix is the direction of an axis."""
    notes: tuple[str, ...] = ()
    spacing = fields.get("ElementSpacing", fields.get("ElementSize"))
    if spacing is None:
        spacing, notes = "1 " * n_axes, ("its header gives no spacing: 1 mm is taken for each axis",)
    edges = read_numbers(spacing, "ElementSpacing", count=n_axes)
    matrix, offset = _one_of(fields, "TransformMatrix"), _one_of(fields, "Offset")
    axes = np.eye(n_axes)
    if matrix is not None:
        axes = read_numbers(matrix, "TransformMatrix", count=n_axes**2).reshape(n_axes, n_axes)
    origin = np.zeros(n_axes) if offset is None else read_numbers(offset, "Offset", count=n_axes)
    affine = itk_affine(origin, edges, axes.T)
    check_affine(affine)
    return affine, notes


def _one_of(fields: dict[str, str], name: str) -> str | None:
    """Return a field that may have one of several names.

    Raises:
        HeaderError: where it is there under two names.
    """
    found = [fields[other] for other in _SYNONYMS[name] if other in fields]
    if len(found) > 1:
        raise HeaderError(f"its header gives {name} under {len(found)} names; it is damaged or hostile")
    return found[0] if found else None


def _is_true(text: str, field: str) -> bool:
    if text.lower() not in ("true", "false", "1", "0", "yes", "no"):
        raise HeaderError(f"the field {field} of its header is neither True nor False; it is damaged")
    return text.lower() in ("true", "1", "yes")
