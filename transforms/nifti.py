"""Read NIfTI files guardedly and to their very end, so that truncation and flipped bytes are found."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from medldm.transforms.errors import CorruptVolumeError, naming
from medldm.transforms.nifti_header import MAX_HEADER_BYTES, NiftiHeader, parse_header
from medldm.transforms.raw_volume import DEFAULT_MAX_BYTES, RawVolume

_CHUNK = 1 << 18
_MAX_DEFLATE_RATIO = 1032
_MAX_TRAILING_BYTES = 1024**2


def read_nifti_header(path: str | Path, *, max_bytes: int = DEFAULT_MAX_BYTES) -> NiftiHeader:
    """Read and judge only the header of a .nii or .nii.gz file.

    Raises:
        VolumeError: for every file that is not a sound NIfTI volume.
    """
    with naming(path), Path(path).open("rb") as file:
        return parse_header(_ByteStream(file).peek(MAX_HEADER_BYTES), max_bytes=max_bytes)


def read_nifti(path: str | Path, *, max_bytes: int = DEFAULT_MAX_BYTES) -> RawVolume:
    """Read a .nii or .nii.gz file to its very end.

    Args:
        path: the file; compression is recognised by its first two bytes, not by its name.
        max_bytes: cap on the volume in memory, voxels times at least 4 bytes.

    Returns:
        The volume with slope and intercept applied, in the file's own axes.

    Raises:
        VolumeError: for every file that is not a sound, complete NIfTI volume.
    """
    with naming(path), Path(path).open("rb") as file:
        stream = _ByteStream(file)
        header = parse_header(stream.peek(MAX_HEADER_BYTES), max_bytes=max_bytes)
        stream.check_capacity(header.data_offset + header.data_bytes, file_bytes=Path(path).stat().st_size)
        stream.skip(header.data_offset)
        voxels = stream.read_exactly(header.data_bytes)
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


class _ByteStream:
    """The uncompressed bytes of a file in bounded pieces, gzip checksums verified."""

    def __init__(self, file: BinaryIO) -> None:
        self._is_gzip = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        self._pieces = _inflate(file) if self._is_gzip else iter(lambda: file.read(_CHUNK), b"")
        self._pending = b""

    def check_capacity(self, n_bytes: int, *, file_bytes: int) -> None:
        """Refuse, before allocation, a file too short to hold what its header declares."""
        most = file_bytes * _MAX_DEFLATE_RATIO if self._is_gzip else file_bytes
        if n_bytes > most:
            raise CorruptVolumeError(
                f"its header declares {n_bytes} bytes but the file of {file_bytes} bytes cannot hold them; "
                "it is truncated or its header is damaged"
            )

    def peek(self, n_bytes: int) -> bytes:
        while len(self._pending) < n_bytes and (piece := next(self._pieces, b"")):
            self._pending += piece
        return self._pending[:n_bytes]

    def skip(self, n_bytes: int) -> None:
        while n_bytes > 0:
            piece = self._next_piece("the header extensions")
            used = min(n_bytes, len(piece))
            self._pending = piece[used:]
            n_bytes -= used

    def read_exactly(self, n_bytes: int) -> np.ndarray:
        target = np.empty(n_bytes, dtype=np.uint8)
        view = target.data
        filled = 0
        while filled < n_bytes:
            piece = self._next_piece("the voxels")
            used = min(n_bytes - filled, len(piece))
            view[filled : filled + used] = memoryview(piece)[:used]
            self._pending = piece[used:]
            filled += used
        return target

    def finish(self) -> None:
        """Read to the end, so that a gzip checksum is verified; refuse more than 1 MiB after the voxels."""
        surplus = len(self._pending)
        for piece in self._pieces:
            surplus += len(piece)
            if surplus > _MAX_TRAILING_BYTES:
                raise CorruptVolumeError(
                    "more than 1 MiB follows the voxels its header declares; it is damaged"
                )

    def _next_piece(self, where: str) -> bytes:
        piece = self._pending or next(self._pieces, b"")
        self._pending = b""
        if not piece:
            raise CorruptVolumeError(
                f"it ends inside {where}; it is truncated; copy it again from its source"
            )
        return piece


def _inflate(file: BinaryIO) -> Iterator[bytes]:
    """Inflate a gzip file, member after member; zlib verifies CRC-32 and length of each (RFC 1952)."""
    inflater = zlib.decompressobj(wbits=31)
    has_begun = False
    try:
        while compressed := file.read(_CHUNK):
            while compressed:
                if inflater.eof:
                    if not compressed.strip(b"\0"):
                        break
                    inflater = zlib.decompressobj(wbits=31)
                if piece := inflater.decompress(compressed, 16 * _CHUNK):
                    yield piece
                has_begun = True
                compressed = inflater.unused_data if inflater.eof else inflater.unconsumed_tail
        # zlib may keep output back once its input is used up, because each call's output is bounded.
        while has_begun and not inflater.eof and (piece := inflater.decompress(b"", 16 * _CHUNK)):
            yield piece
    except zlib.error as error:
        raise CorruptVolumeError(
            "its gzip data are damaged (checksum or structure); copy it again"
        ) from error
    if has_begun and not inflater.eof:
        raise CorruptVolumeError(
            "its gzip data end too early; it is truncated; copy it again from its source"
        )
