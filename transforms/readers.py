"""Choose the reader that fits a file's name; every reader returns a judged RawVolume."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medldm.errors import MissingFileError
from medldm.transforms.errors import UnsupportedVolumeError, VoxelValueError
from medldm.transforms.foreign_formats import foreign_format
from medldm.transforms.itk_formats import read_itk_geometry, read_itk_volume
from medldm.transforms.mgh import read_mgh, read_mgh_geometry
from medldm.transforms.nifti import read_nifti, read_nifti_header
from medldm.transforms.nifti_affine import AffineChoice
from medldm.transforms.numpy_format import read_npy, read_npy_geometry
from medldm.transforms.raw_volume import DEFAULT_MAX_BYTES, RawVolume, VolumeGeometry, VolumeNumber

NIFTI_SUFFIXES = (".nii", ".nii.gz")
ITK_SUFFIXES = (".nrrd", ".mha")
MGH_SUFFIXES = (".mgz", ".mgh", ".mgh.gz")
VOLUME_SUFFIXES = (*NIFTI_SUFFIXES, *ITK_SUFFIXES, *MGH_SUFFIXES, ".npy")


def volume_suffix(path: str | Path) -> str | None:
    """Return the suffix of a readable volume file (".nii.gz" counts as one), None for other files."""
    name = Path(path).name.lower()
    return next(
        (suffix for suffix in sorted(VOLUME_SUFFIXES, key=len, reverse=True) if name.endswith(suffix)), None
    )


def volume_stem(path: str | Path) -> str:
    """Return the file's name without its volume suffix: "a/sub-1.nii.gz" gives "sub-1"."""
    name = Path(path).name
    return name[: len(name) - len(volume_suffix(path) or "")]


def read_raw_volume(
    path: str | Path,
    *,
    spacing_mm: tuple[float, float, float] | None = None,
    affine: AffineChoice | None = None,
    max_bytes: int = DEFAULT_MAX_BYTES,
    volume: VolumeNumber | None = None,
) -> RawVolume:
    """Read a volume file in its own axes.

    Args:
        path: .nii, .nii.gz, .nrrd, .mha, .mgz, .mgh or .npy.
        spacing_mm: mm per voxel, needed for .npy and refused for all other formats, which carry their own.
        affine: which of a NIfTI file's sform and qform counts where they are at odds; None refuses it.
        max_bytes: cap on the volume in memory.
        volume: which volume of a NIfTI file with several; None for a file of one.

    Raises:
        VolumeError: of the kind that fits, naming the file.
        FileNotFoundError: where there is no such file.
    """
    path = Path(path)
    suffix = _checked_suffix(path)
    if volume is not None and suffix not in NIFTI_SUFFIXES:
        raise UnsupportedVolumeError(
            f"it is a {suffix} file; several channels in one file are read from NIfTI alone; convert it",
            file=path,
        )
    if suffix == ".npy":
        return read_npy(path, spacing_mm=spacing_mm, max_bytes=max_bytes)
    if suffix in ITK_SUFFIXES:
        return read_itk_volume(path, max_bytes=max_bytes)
    if suffix in MGH_SUFFIXES:
        return read_mgh(path, max_bytes=max_bytes)
    return read_nifti(path, affine=affine, max_bytes=max_bytes, volume=volume)


def read_geometry(
    path: str | Path,
    *,
    spacing_mm: tuple[float, float, float] | None = None,
    affine: AffineChoice | None = None,
    max_bytes: int = DEFAULT_MAX_BYTES,
) -> VolumeGeometry:
    """Read and judge only the header of a volume file; arguments and errors as `read_raw_volume`."""
    path = Path(path)
    suffix = _checked_suffix(path)
    if suffix == ".npy":
        return read_npy_geometry(path, spacing_mm=spacing_mm, max_bytes=max_bytes)
    if suffix in ITK_SUFFIXES:
        return read_itk_geometry(path, max_bytes=max_bytes)
    if suffix in MGH_SUFFIXES:
        return read_mgh_geometry(path, max_bytes=max_bytes)
    header = read_nifti_header(path, affine=affine, max_bytes=max_bytes)
    return VolumeGeometry(shape=header.shape, affine=header.affine, notes=header.notes)


def _checked_suffix(path: Path) -> str:
    if not path.is_file():
        raise MissingFileError(f"no file {path.name} in its folder; check the path")
    suffix = volume_suffix(path)
    if suffix is None:
        found = foreign_format(path)
        reason = f"it is {found}" if found else "its format is not known; convert DICOM with `medldm prepare`"
        raise UnsupportedVolumeError(f"{reason}; {', '.join(VOLUME_SUFFIXES)} are read", file=path)
    return suffix


def check_voxels_finite(array: np.ndarray, *, file: str | Path | None = None) -> None:
    """Refuse NaN and infinite voxels.

    Raises:
        VoxelValueError: with their number.
    """
    with np.errstate(invalid="ignore"):
        if array.dtype.kind != "f" or np.isfinite([array.min(), array.max()]).all():
            return
    n_bad = int(array.size - np.isfinite(array).sum())
    raise VoxelValueError(
        f"{n_bad} of {array.size} voxels are NaN or Inf; repair or remove the file", file=file
    )
