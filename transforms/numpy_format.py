"""Read .npy arrays for volumes without a medical header: microscopy, shapes, simulations."""

from __future__ import annotations

import os
from pathlib import Path
from tokenize import TokenError
from typing import BinaryIO

import numpy as np

from medldm.transforms.errors import (
    CorruptVolumeError,
    GeometryError,
    HeaderError,
    UnsupportedVolumeError,
    naming,
)
from medldm.transforms.raw_volume import (
    DEFAULT_MAX_BYTES,
    RawVolume,
    VolumeGeometry,
    check_affine,
    check_shape,
)

_DAMAGED = (
    ValueError,
    KeyError,
    EOFError,
    OverflowError,
    SyntaxError,
    TypeError,
    TokenError,
    RecursionError,
    MemoryError,
)
"""What NumPy raises for headers that are no Python literals of its own."""


def read_npy(
    path: str | Path, *, spacing_mm: tuple[float, float, float] | None, max_bytes: int = DEFAULT_MAX_BYTES
) -> RawVolume:
    """Read a three-axis .npy array; its axes are taken as X, Y, Z in RAS+.

    Args:
        path: the file; pickled objects are refused.
        spacing_mm: mm per voxel and axis, which the format cannot carry.
        max_bytes: cap on the volume in memory.

    Raises:
        VolumeError: of the kind that fits, naming the file.
    """
    with naming(path):
        affine = _affine_from_spacing(spacing_mm)
        with Path(path).open("rb") as file:
            shape, dtype, is_fortran = _judged_header(file, max_bytes=max_bytes)
            array = np.fromfile(file, dtype=dtype)
    return RawVolume(array=array.reshape(shape, order="F" if is_fortran else "C"), affine=affine)


def read_npy_geometry(
    path: str | Path, *, spacing_mm: tuple[float, float, float] | None, max_bytes: int = DEFAULT_MAX_BYTES
) -> VolumeGeometry:
    """Read and judge only the header of a .npy file.

    Raises:
        VolumeError: of the kind that fits, naming the file.
    """
    with naming(path):
        affine = _affine_from_spacing(spacing_mm)
        with Path(path).open("rb") as file:
            return VolumeGeometry(shape=_judged_header(file, max_bytes=max_bytes)[0], affine=affine)


def _judged_header(file: BinaryIO, *, max_bytes: int) -> tuple[tuple[int, int, int], np.dtype, bool]:
    declared, dtype, is_fortran = _read_header(file)
    shape = check_shape(declared, item_bytes=dtype.itemsize, max_bytes=max_bytes)
    n_bytes = shape[0] * shape[1] * shape[2] * dtype.itemsize
    held = os.fstat(file.fileno()).st_size - file.tell()
    if held != n_bytes:
        raise CorruptVolumeError(f"it holds {held} bytes of voxels where its header declares {n_bytes}")
    return shape, dtype, is_fortran


def _affine_from_spacing(spacing_mm: tuple[float, float, float] | None) -> np.ndarray:
    if spacing_mm is None:
        raise GeometryError("a .npy array carries no spacing; give spacing_mm=(x, y, z) in millimetres")
    spacing = np.asarray(spacing_mm, dtype=np.float64)
    if spacing.shape != (3,):
        raise GeometryError(f"spacing_mm is {spacing_mm}; three numbers in millimetres are needed")
    affine = np.diag([*spacing, 1.0])
    check_affine(affine)
    return affine


def _read_header(file: BinaryIO) -> tuple[tuple[int, ...], np.dtype, bool]:
    try:
        version = np.lib.format.read_magic(file)
        reader = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[
            version
        ]
        shape, is_fortran, dtype = reader(file)
    except _DAMAGED as error:
        raise HeaderError("its .npy header is damaged or of an unknown version; write it again") from error
    if dtype.kind not in "iufb":
        raise UnsupportedVolumeError(f"its dtype is {dtype}; real numbers are read")
    if len(shape) != 3:
        raise UnsupportedVolumeError(f"its shape is {shape}; exactly three axes are read")
    return shape, dtype, is_fortran
