"""Read NIfTI files guardedly and to their very end, so that truncation and flipped bytes are found."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medldm.transforms.byte_stream import ByteStream
from medldm.transforms.errors import naming
from medldm.transforms.nifti_header import MAX_HEADER_BYTES, AffineChoice, NiftiHeader, parse_header
from medldm.transforms.raw_volume import DEFAULT_MAX_BYTES, RawVolume, VolumeNumber


def read_nifti_header(
    path: str | Path, *, affine: AffineChoice | None = None, max_bytes: int = DEFAULT_MAX_BYTES
) -> NiftiHeader:
    """Read and judge only the header of a .nii or .nii.gz file; arguments as `read_nifti`.

    Raises:
        VolumeError: for every file that is not a sound NIfTI volume.
    """
    with naming(path), Path(path).open("rb") as file:
        return parse_header(ByteStream(file).peek(MAX_HEADER_BYTES), affine=affine, max_bytes=max_bytes)


def read_nifti(
    path: str | Path,
    *,
    affine: AffineChoice | None = None,
    max_bytes: int = DEFAULT_MAX_BYTES,
    volume: VolumeNumber | None = None,
) -> RawVolume:
    """Read a .nii or .nii.gz file to its very end.

    Args:
        path: the file; compression is recognised by its first two bytes, not by its name.
        affine: which of sform and qform counts where they are at odds; None refuses such a file.
        max_bytes: cap on the volume in memory, voxels times at least 4 bytes.
        volume: which volume of a file with several along its fourth axis; None for a file of one. The others
            are read past, never held in memory.

    Returns:
        The volume with slope and intercept applied, in the file's own axes.

    Raises:
        VolumeError: for every file that is not a sound, complete NIfTI volume.
    """
    with naming(path), Path(path).open("rb") as file:
        stream = ByteStream(file)
        start = stream.peek(MAX_HEADER_BYTES)
        header = parse_header(start, affine=affine, max_bytes=max_bytes, volume=volume)
        n_bytes, index = header.volume_bytes, volume.index if volume else 0
        stream.check_capacity(
            header.data_offset + n_bytes * header.n_volumes, file_bytes=Path(path).stat().st_size
        )
        stream.skip(header.data_offset)
        stream.skip(n_bytes * index, "the voxels")
        voxels = stream.read_exactly(n_bytes)
        stream.skip(n_bytes * (header.n_volumes - 1 - index), "the voxels")
        stream.finish()
    array = np.frombuffer(voxels, dtype=header.dtype).reshape(header.shape, order="F")
    if (header.slope, header.intercept) != (1.0, 0.0):
        array = _scale(array, header)
    return RawVolume(array=array, affine=header.affine, notes=header.notes)


def _scale(array: np.ndarray, header: NiftiHeader) -> np.ndarray:
    scaled = array.astype(np.float32 if array.dtype.itemsize <= 4 else np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        np.multiply(scaled, header.slope, out=scaled)
        np.add(scaled, header.intercept, out=scaled)
    return scaled
