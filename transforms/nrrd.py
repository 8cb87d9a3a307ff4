"""Read the header of a NRRD file ourselves, so that no library is told by a file what to open.

Source: teem, "Definition of NRRD File Format"; where it leaves a choice, as ITK's NrrdImageIO chose.
"""

from __future__ import annotations

import re

import numpy as np

from medldm.transforms.errors import GeometryError, HeaderError, UnsupportedVolumeError
from medldm.transforms.itk_header import (
    MAX_HEADER_BYTES,
    ItkHeader,
    Packing,
    itk_affine,
    read_numbers,
    read_whole_numbers,
)
from medldm.transforms.raw_volume import DEFAULT_MAX_BYTES, check_affine, check_shape

_TYPE_NAMES = {
    "i1": "signed char/int8/int8_t",
    "u1": "uchar/unsigned char/uint8/uint8_t",
    "i2": "short/short int/signed short/signed short int/int16/int16_t",
    "u2": "ushort/unsigned short/unsigned short int/uint16/uint16_t",
    "i4": "int/signed int/int32/int32_t",
    "u4": "uint/unsigned int/uint32/uint32_t",
    "i8": "longlong/long long/long long int/signed long long/signed long long int/int64/int64_t",
    "u8": "ulonglong/unsigned long long/unsigned long long int/uint64/uint64_t",
    "f4": "float",
    "f8": "double",
}
_DTYPES = {name: kind for kind, names in _TYPE_NAMES.items() for name in names.split("/")}
_ENCODINGS: dict[str, Packing] = {"raw": "none", "gzip": "gzip", "gz": "gzip"}
_TO_LPS = {
    "lps": (1, 1, 1),
    "leftposteriorsuperior": (1, 1, 1),
    "las": (1, -1, 1),
    "leftanteriorsuperior": (1, -1, 1),
    "ras": (-1, -1, 1),
    "rightanteriorsuperior": (-1, -1, 1),
}
_OTHER_SPACES = ("scannerxyz", "3drighthanded", "3dlefthanded")
_FIELD_NAMES = (
    "dimension type blocksize encoding endian content min max oldmin oldmax datafile lineskip "
    "byteskip sampleunits sizes spacings thicknesses axismins axismaxs centers centerings labels "
    "units kinds number space spacedimension spaceunits spaceorigin spacedirections measurementframe "
)
"""Names without blanks and in small letters; "space directions" and "spacedirections" are one field."""
_FIELDS = frozenset(_FIELD_NAMES.split())
_BEGINNING = re.compile(rb"NRRD000[1-5]\r?\n")
_LINE = re.compile(rb"([^\r\n]*)\r?\n")


def parse_nrrd_header(raw: bytes, *, max_bytes: int = DEFAULT_MAX_BYTES) -> ItkHeader:
    """Judge the header of a NRRD file whose voxels lie in the same file.

    Args:
        raw: the first bytes of the file, at most `MAX_HEADER_BYTES`.
        max_bytes: cap on the volume in memory.

    Raises:
        VolumeError: of the kind that fits; also where the voxels lie in other files, by name, by LIST or by
            pattern: none of them is opened.
    """
    fields, offset = _read_fields(raw)
    if "datafile" in fields:
        raise UnsupportedVolumeError(
            "its voxels lie in another file, which is not opened; write header and voxels into one .nrrd file"
        )
    for name, words in (("lineskip", "lines"), ("byteskip", "bytes")):
        if read_whole_numbers(fields.get(name, "0"), name, count=1) != (0,):
            raise UnsupportedVolumeError(f"its header asks to skip {words}; write the file again without")
    packing = _ENCODINGS.get(fields["encoding"].lower())
    if packing is None:
        raise UnsupportedVolumeError("its encoding is not read; raw and gzip are; write it again")
    dtype = _dtype(fields)
    n_axes = read_whole_numbers(fields["dimension"], "dimension", count=1)[0]
    if not 1 <= n_axes <= 16:
        raise HeaderError(f"its dimension is {n_axes}; 1 to 16 is allowed; the file is damaged")
    sizes = read_whole_numbers(fields["sizes"], "sizes", count=n_axes)
    vectors = _vectors(fields, n_axes)
    if vectors is not None:
        sizes = _without_channels(sizes, vectors)
    shape = check_shape(sizes, item_bytes=dtype.itemsize, max_bytes=max_bytes)
    affine, notes = _affine_without_space(fields, n_axes) if vectors is None else _affine(fields, vectors)
    check_affine(affine)
    return ItkHeader(
        shape=shape, dtype=dtype, affine=affine, data_offset=offset, packing=packing, notes=notes
    )


def _read_fields(raw: bytes) -> tuple[dict[str, str], int]:
    """Return the fields by name, and where the data begin: after the first empty line."""
    start = _BEGINNING.match(raw)
    if start is None:
        raise HeaderError("it is no NRRD file: it does not begin with NRRD0001 to NRRD0005; check its name")
    fields: dict[str, str] = {}
    place = start.end()
    while match := _LINE.match(raw, place):
        place = match.end()
        line = match.group(1).decode("latin-1")
        if not line:
            missing = [name for name in ("type", "dimension", "sizes", "encoding") if name not in fields]
            if missing:
                raise HeaderError(f"its header lacks {', '.join(missing)}; it is damaged")
            return fields, place
        if not line.startswith("#"):
            _add_field(fields, line)
    raise HeaderError(
        f"its header does not end with an empty line within {MAX_HEADER_BYTES} bytes; it is cut or damaged"
    )


def _add_field(fields: dict[str, str], line: str) -> None:
    """Add "field: value"; "key:=value" says nothing of the format and is passed over."""
    name, colon, value = line.partition(": ")
    if ":=" in name:
        return
    known = re.sub(r"\s", "", name).lower()
    if not colon or known not in _FIELDS:
        raise HeaderError("its header has a line that the format does not know; it is damaged or hostile")
    if known in fields:
        raise HeaderError(f"the field {known!r} of its header is given twice; it is damaged or hostile")
    fields[known] = value.strip()


def _dtype(fields: dict[str, str]) -> np.dtype:
    kind = _DTYPES.get(" ".join(fields["type"].lower().split()))
    if kind is None:
        raise UnsupportedVolumeError(
            "its type is not read; whole numbers of 8 to 64 bits, float and double are"
        )
    dtype = np.dtype(kind)
    if dtype.itemsize == 1:
        return dtype
    order = fields.get("endian", "").lower()
    if order not in ("little", "big"):
        raise HeaderError("its header does not say whether it is little or big endian; it is damaged")
    return dtype.newbyteorder("<" if order == "little" else ">")


def _vectors(fields: dict[str, str], n_axes: int) -> list[np.ndarray | None] | None:
    """Return the step along each axis, (3,) mm in the file's space, None for an axis of channels."""
    if "spacedirections" not in fields:
        if "space" in fields or "spacedimension" in fields:
            raise GeometryError("its header names a space but no space directions; write them into it")
        return None
    # "(1, 0, 0)" is one vector in spite of its blanks.
    parts = re.findall(r"\([^()]*\)|[^\s()]+", fields["spacedirections"])
    if len(parts) != n_axes:
        raise HeaderError(f"it has {len(parts)} space directions; one for each of {n_axes} axes is needed")
    return [None if part.lower() == "none" else _vector(part, "space directions") for part in parts]


def _vector(text: str, field: str) -> np.ndarray:
    if not (text.startswith("(") and text.endswith(")")):
        raise HeaderError(f"the field {field!r} of its header holds no vector (x,y,z); it is damaged")
    return read_numbers(text[1:-1].replace(",", " "), field, count=3)


def _without_channels(sizes: tuple[int, ...], vectors: list[np.ndarray | None]) -> tuple[int, ...]:
    n_channels = int(
        np.prod([size for size, one in zip(sizes, vectors, strict=True) if one is None], dtype=object)
    )
    if n_channels != 1:
        raise UnsupportedVolumeError(f"it has {n_channels} channels; one is read")
    return tuple(size for size, one in zip(sizes, vectors, strict=True) if one is not None)


def _affine(fields: dict[str, str], vectors: list[np.ndarray | None]) -> tuple[np.ndarray, tuple[str, ...]]:
    steps = [one for one in vectors if one is not None]
    if len(steps) != 3:
        raise UnsupportedVolumeError(f"it has {len(steps)} axes in space; three are read")
    signs, notes = _space_signs(fields)
    origin = np.zeros(3)
    if fields.get("spaceorigin", "none").lower() == "none":
        notes = (*notes, "its header gives no origin: 0 is taken")
    else:
        origin = _vector(fields["spaceorigin"], "space origin")
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        columns = np.stack(steps, axis=1) * signs[:, None]
        # Lengths and cosines apart, as ITK keeps them, so that its users get the same affine.
        lengths = np.sqrt((columns**2).sum(axis=0))
        return itk_affine(origin * signs, lengths, columns * (1 / lengths)), notes


def _space_signs(fields: dict[str, str]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return what turns the file's space into LPS+, (3,), and what is to be said of it."""
    if "space" in fields and "spacedimension" in fields:
        raise HeaderError("its header has both a space and a space dimension; it is damaged")
    name = re.sub(r"[-\s]", "", fields.get("space", "")).lower()
    if name in _TO_LPS:
        return np.array(_TO_LPS[name], dtype=np.float64), ()
    if name and name not in _OTHER_SPACES:
        raise UnsupportedVolumeError("its space is not read; spaces of three axes such as LPS and RAS are")
    if not name:
        read_whole_numbers(fields.get("spacedimension", ""), "space dimension", count=1)
    return np.ones(3), ("its header names no anatomical space: its axes are taken for LPS+, as ITK does",)


def _affine_without_space(fields: dict[str, str], n_axes: int) -> tuple[np.ndarray, tuple[str, ...]]:
    if "axismins" in fields or "axismaxs" in fields:
        raise GeometryError(
            "its header places it by axis mins, without a space; write space directions into it"
        )
    notes = ["its header names no anatomical space: its axes are taken for LPS+, as ITK does"]
    if "spacings" not in fields:
        notes.append("its header gives no spacing: 1 mm is taken for each axis")
        return itk_affine(np.zeros(3), np.ones(3), np.eye(3)), tuple(notes)
    spacing = read_numbers(fields["spacings"], "spacings", count=n_axes)
    return itk_affine(np.zeros(3), spacing[:3], np.eye(3)), tuple(notes)
