"""Read NRRD and MetaImage through SimpleITK, after a look at their header."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from medldm.transforms.errors import CorruptVolumeError, UnsupportedVolumeError, naming
from medldm.transforms.raw_volume import (
    DEFAULT_MAX_BYTES,
    RawVolume,
    VolumeGeometry,
    check_affine,
    check_shape,
)

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def read_with_simpleitk(path: str | Path, *, max_bytes: int = DEFAULT_MAX_BYTES) -> RawVolume:
    """Read a .nrrd or .mha file; ITK's LPS+ world becomes RAS+.

    Args:
        path: the file.
        max_bytes: cap on the volume in memory.

    Raises:
        VolumeError: of the kind that fits, naming the file.
    """
    with _named_errors(path):
        reader, geometry = _judged_header(Path(path), max_bytes=max_bytes)
        array = sitk.GetArrayFromImage(reader.Execute()).T
        return RawVolume(array=array.reshape(geometry.shape), affine=geometry.affine)


def read_itk_geometry(path: str | Path, *, max_bytes: int = DEFAULT_MAX_BYTES) -> VolumeGeometry:
    """Read and judge only the header of a .nrrd or .mha file.

    Raises:
        VolumeError: of the kind that fits, naming the file.
    """
    with _named_errors(path):
        return _judged_header(Path(path), max_bytes=max_bytes)[1]


@contextmanager
def _named_errors(path: str | Path) -> Iterator[None]:
    try:
        with naming(path):
            yield
    except RuntimeError as error:
        # ITK's own text repeats the whole path, so it is left to the chained error.
        raise CorruptVolumeError("SimpleITK cannot read it; it is damaged or truncated", file=path) from error


def _judged_header(path: Path, *, max_bytes: int) -> tuple[sitk.ImageFileReader, VolumeGeometry]:
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    if reader.GetNumberOfComponents() != 1:
        raise UnsupportedVolumeError(f"it has {reader.GetNumberOfComponents()} channels; one is read")
    shape = check_shape(tuple(reader.GetSize()), item_bytes=8, max_bytes=max_bytes)
    affine = itk_affine(reader.GetOrigin(), reader.GetSpacing(), reader.GetDirection())
    check_affine(affine)
    return reader, VolumeGeometry(shape=shape, affine=affine)


def itk_affine(
    origin: tuple[float, ...], spacing: tuple[float, ...], direction: tuple[float, ...]
) -> np.ndarray:
    """Build the (4, 4) RAS+ affine of ITK's origin, spacing and direction cosines (LPS+)."""
    n_axes = len(spacing)
    affine = np.eye(4)
    affine[:3, :3] = (np.asarray(direction).reshape(n_axes, n_axes) * np.asarray(spacing))[:3, :3]
    affine[:3, 3] = origin[:3]
    return LPS_TO_RAS @ affine
