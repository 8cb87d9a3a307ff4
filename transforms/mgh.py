"""Read FreeSurfer's .mgh and .mgz volumes guardedly and to their very end.

Source: FreeSurfer wiki, FsTutorial/MghFormat; the affine is nibabel's to the bit.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medldm.transforms.byte_stream import ByteStream
from medldm.transforms.errors import GeometryError, HeaderError, UnsupportedVolumeError, naming
from medldm.transforms.raw_volume import (
    DEFAULT_MAX_BYTES,
    RawVolume,
    VolumeGeometry,
    check_affine,
    check_shape,
)

DATA_OFFSET = 284
_DTYPES = {0: ">u1", 1: ">i4", 3: ">f4", 4: ">i2", 10: ">u2"}
MGH = np.dtype(
    {
        "names": ["version", "dims", "type", "has_geometry", "delta", "axes", "centre"],
        "formats": [">i4", "4>i4", ">i4", ">i2", "3>f4", "(3,3)>f4", "3>f4"],
        "offsets": [0, 4, 20, 28, 30, 42, 78],
        "itemsize": DATA_OFFSET,
    }
)


def read_mgh(path: str | Path, *, max_bytes: int = DEFAULT_MAX_BYTES) -> RawVolume:
    """Read a .mgh or .mgz file; its affine is that of the scanner, not of FreeSurfer's surfaces.

    Args:
        path: the file; compression is recognised by its first two bytes, not by its name.
        max_bytes: cap on the volume in memory.

    Raises:
        VolumeError: for every file that is not a sound, complete volume.
    """
    with naming(path), Path(path).open("rb") as file:
        stream = ByteStream(file)
        geometry, dtype = _judged_header(stream.peek(DATA_OFFSET), max_bytes=max_bytes)
        n_bytes = int(np.prod(geometry.shape, dtype=np.int64)) * dtype.itemsize
        stream.check_capacity(DATA_OFFSET + n_bytes, file_bytes=Path(path).stat().st_size)
        stream.skip(DATA_OFFSET)
        voxels = stream.read_exactly(n_bytes)
        stream.finish()
    array = np.frombuffer(voxels, dtype=dtype).reshape(geometry.shape, order="F")
    return RawVolume(array=array, affine=geometry.affine)


def read_mgh_geometry(path: str | Path, *, max_bytes: int = DEFAULT_MAX_BYTES) -> VolumeGeometry:
    """Read and judge only the header of a .mgh or .mgz file.

    Raises:
        VolumeError: for every file that is not a sound volume.
    """
    with naming(path), Path(path).open("rb") as file:
        return _judged_header(ByteStream(file).peek(DATA_OFFSET), max_bytes=max_bytes)[0]


def _judged_header(raw: bytes, *, max_bytes: int) -> tuple[VolumeGeometry, np.dtype]:
    if len(raw) < DATA_OFFSET:
        raise HeaderError(f"it is no MGH file, or cut in its header of {DATA_OFFSET} bytes; copy it again")
    fields = np.frombuffer(raw, dtype=MGH)[0]
    if int(fields["version"]) != 1:
        raise HeaderError(f"it is no MGH file: its version is {int(fields['version'])}, 1 is read")
    code = int(fields["type"])
    if code not in _DTYPES:
        raise UnsupportedVolumeError(f"its data type is {code}; {sorted(_DTYPES)} are read")
    dtype = np.dtype(_DTYPES[code])
    dims = tuple(int(size) for size in fields["dims"])
    if dims[3] > 1:
        raise UnsupportedVolumeError(
            f"it is a time series of {dims[3]} volumes (or of as many channels), its shape is {dims}; "
            "three axes are read: write one of the volumes, or each, to a file of its own"
        )
    shape = check_shape(dims, item_bytes=dtype.itemsize, max_bytes=max_bytes)
    affine = _affine(fields)
    check_affine(affine)
    return VolumeGeometry(shape=shape, affine=affine), dtype


def _affine(fields: np.void) -> np.ndarray:
    """Build voxel index to scanner RAS+: direction cosines times voxel edges, about the volume's centre."""
    if not int(fields["has_geometry"]):
        raise GeometryError("it holds no geometry (goodRASFlag is 0), its orientation is unknown; set it")
    with np.errstate(invalid="ignore", over="ignore"):
        scaled = fields["axes"].T * fields["delta"]
        # Rounded to float32 as nibabel does, so that its users get the same affine to the bit.
        affine = np.eye(4, dtype=np.float32)
        affine[:3, :3] = scaled
        affine[:3, 3] = fields["centre"] - scaled.dot(fields["dims"][:3]) / 2
    return affine.astype(np.float64)
