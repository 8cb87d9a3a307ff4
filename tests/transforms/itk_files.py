"""MetaImage and NRRD files made in code, whole and hostile."""

from __future__ import annotations

import zlib

import numpy as np

VOXELS = np.arange(24, dtype="<i2")
"""Of a volume of 2 x 3 x 4."""


def metaimage(data: bytes = VOXELS.tobytes(), *, ending: str = "\n", **fields: str | None) -> bytes:
    """Return a .mha file; a field that is None is left out."""
    own = {
        "ObjectType": "Image",
        "NDims": "3",
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "CompressedData": "False",
        "TransformMatrix": "1 0 0 0 1 0 0 0 1",
        "Offset": "1 2 3",
        "ElementSpacing": "1 2 3",
        "DimSize": "2 3 4",
        "ElementType": "MET_SHORT",
        **fields,
    }
    last = own.pop("ElementDataFile", "LOCAL")
    lines = [f"{name} = {value}" for name, value in own.items() if value is not None]
    return (ending.join([*lines, f"ElementDataFile = {last}"]) + ending).encode("latin-1") + data


def packed_metaimage(data: bytes = VOXELS.tobytes(), **fields: str | None) -> bytes:
    """Return a compressed .mha file."""
    packed = zlib.compress(data)
    return metaimage(packed, **{"CompressedData": "True", "CompressedDataSize": str(len(packed)), **fields})


def nrrd(data: bytes = VOXELS.tobytes(), *, ending: str = "\n", **fields: str | None) -> bytes:
    """Return a .nrrd file; the name of a field has _ for blanks, one that is None is left out."""
    own = {
        "type": "short",
        "dimension": "3",
        "space": "left-posterior-superior",
        "sizes": "2 3 4",
        "space_directions": "(1,0,0) (0,2,0) (0,0,3)",
        "endian": "little",
        "encoding": "raw",
        "space_origin": "(1,2,3)",
        **fields,
    }
    lines = [f"{name.replace('_', ' ')}: {value}" for name, value in own.items() if value is not None]
    return (ending.join(["NRRD0004", *lines]) + ending + ending).encode("latin-1") + data
