"""Read NRRD and MetaImage files whole and to their very end; header and voxels are read here, not by ITK.

ITK opens whatever file a header names. Here a header can name none: the voxels follow it in the same file,
as many as it says, and compressed ones are inflated within the cap with their checksum verified.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

import numpy as np

from medldm.transforms.byte_stream import ByteStream
from medldm.transforms.errors import CorruptVolumeError, naming
from medldm.transforms.itk_header import MAX_HEADER_BYTES, ItkHeader
from medldm.transforms.metaimage import parse_metaimage_header
from medldm.transforms.nrrd import parse_nrrd_header
from medldm.transforms.raw_volume import DEFAULT_MAX_BYTES, RawVolume, VolumeGeometry

PARSERS = {".nrrd": parse_nrrd_header, ".mha": parse_metaimage_header}
"""Suffix -> parser of its header."""


def read_itk_volume(path: str | Path, *, max_bytes: int = DEFAULT_MAX_BYTES) -> RawVolume:
    """Read a .nrrd or .mha file; its world becomes RAS+.

    Args:
        path: the file.
        max_bytes: cap on the volume in memory.

    Raises:
        VolumeError: for every file that is not a sound, complete volume, naming the file.
    """
    with naming(path), Path(path).open("rb") as file:
        header = _judged_header(file, Path(path), max_bytes=max_bytes)
        voxels = _read_voxels(file, header)
    array = np.frombuffer(voxels, dtype=header.dtype).reshape(header.shape, order="F")
    return RawVolume(array=array, affine=header.affine, notes=header.notes)


def read_itk_geometry(path: str | Path, *, max_bytes: int = DEFAULT_MAX_BYTES) -> VolumeGeometry:
    """Read and judge only the header of a .nrrd or .mha file.

    Raises:
        VolumeError: of the kind that fits, naming the file.
    """
    with naming(path), Path(path).open("rb") as file:
        header = _judged_header(file, Path(path), max_bytes=max_bytes)
    return VolumeGeometry(shape=header.shape, affine=header.affine, notes=header.notes)


def _judged_header(file: BinaryIO, path: Path, *, max_bytes: int) -> ItkHeader:
    """Judge a header by the file's name, and whether the file can hold what it declares."""
    header = PARSERS[path.suffix.lower()](file.read(MAX_HEADER_BYTES), max_bytes=max_bytes)
    held = os.fstat(file.fileno()).st_size - header.data_offset
    expected = header.n_bytes if header.packing == "none" else header.packed_bytes
    if expected is not None and held != expected:
        kind = "" if header.packing == "none" else "compressed "
        raise CorruptVolumeError(
            f"it holds {held} {kind}bytes of voxels where its header declares {expected}; it is truncated or "
            "damaged; copy it again from its source"
        )
    return header


def _read_voxels(file: BinaryIO, header: ItkHeader) -> np.ndarray:
    held = os.fstat(file.fileno()).st_size - header.data_offset
    file.seek(header.data_offset)
    stream = ByteStream(file, packing=header.packing)
    stream.check_capacity(header.n_bytes, file_bytes=held)
    voxels = stream.read_exactly(header.n_bytes)
    stream.finish(max_surplus=0)
    return voxels
