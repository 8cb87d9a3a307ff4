"""The uncompressed bytes of a volume file, plain, gzip or zlib, in bounded pieces and to the very end."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import BinaryIO, Literal

import numpy as np

from medldm.transforms.errors import CorruptVolumeError

_CHUNK = 1 << 18
_MAX_DEFLATE_RATIO = 1032
MAX_TRAILING_BYTES = 1024**2


class ByteStream:
    """The uncompressed bytes of a file from where it stands, in bounded pieces, checksums verified.

    Args:
        file: open for reading.
        packing: how it is compressed; "auto" is gzip where its first two bytes say so, else none.
    """

    def __init__(self, file: BinaryIO, *, packing: Literal["auto", "none", "gzip", "zlib"] = "auto") -> None:
        if packing == "auto":
            start = file.tell()
            packing = "gzip" if file.read(2) == b"\x1f\x8b" else "none"
            file.seek(start)
        self._is_packed = packing != "none"
        plain = iter(lambda: file.read(_CHUNK), b"")
        self._pieces = _inflate(file, kind=packing) if packing in ("gzip", "zlib") else plain
        self._pending = b""

    def check_capacity(self, n_bytes: int, *, file_bytes: int) -> None:
        """Refuse, before allocation, a file too short to hold what its header declares."""
        most = file_bytes * _MAX_DEFLATE_RATIO if self._is_packed else file_bytes
        if n_bytes > most:
            raise CorruptVolumeError(
                f"its header declares {n_bytes} bytes but the file of {file_bytes} bytes cannot hold them; "
                "it is truncated or its header is damaged"
            )

    def peek(self, n_bytes: int) -> bytes:
        """Return the next bytes, fewer at the end of the file, without taking them."""
        while len(self._pending) < n_bytes and (piece := next(self._pieces, b"")):
            self._pending += piece
        return self._pending[:n_bytes]

    def skip(self, n_bytes: int, what: str = "the header extensions") -> None:
        """Take and drop the next bytes; `what` they are, for the error of a file that ends before."""
        while n_bytes > 0:
            piece = self._next_piece(what)
            used = min(n_bytes, len(piece))
            self._pending = piece[used:]
            n_bytes -= used

    def read_exactly(self, n_bytes: int) -> np.ndarray:
        """Take the next bytes, uint8 (n_bytes,).

        Raises:
            CorruptVolumeError: where the file ends before.
        """
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

    def finish(self, max_surplus: int = MAX_TRAILING_BYTES) -> None:
        """Read to the end, so that a checksum is verified; refuse more surplus bytes than these."""
        surplus = len(self._pending)
        while surplus <= max_surplus and (piece := next(self._pieces, b"")):
            surplus += len(piece)
        if surplus > max_surplus:
            raise CorruptVolumeError(
                f"more than {max_surplus} bytes follow the voxels its header declares; it is damaged"
            )

    def _next_piece(self, where: str) -> bytes:
        piece = self._pending or next(self._pieces, b"")
        self._pending = b""
        if not piece:
            raise CorruptVolumeError(
                f"it ends inside {where}; it is truncated; copy it again from its source"
            )
        return piece


def _inflate(file: BinaryIO, *, kind: str) -> Iterator[bytes]:
    """Inflate to the end of a file: one zlib stream, or gzip members one after the other.

    zlib verifies Adler-32 (RFC 1950), or CRC-32 and length of each member (RFC 1952).
    """
    wbits = {"gzip": 31, "zlib": 15}[kind]
    inflater = zlib.decompressobj(wbits=wbits)
    has_begun = False
    try:
        while compressed := file.read(_CHUNK):
            while compressed:
                if inflater.eof:
                    if kind == "gzip" and not compressed.strip(b"\0"):
                        break
                    if kind == "zlib":
                        raise CorruptVolumeError(
                            "bytes follow the end of its compressed voxels; it is damaged"
                        )
                    inflater = zlib.decompressobj(wbits=wbits)
                if piece := inflater.decompress(compressed, 16 * _CHUNK):
                    yield piece
                has_begun = True
                compressed = inflater.unused_data if inflater.eof else inflater.unconsumed_tail
        # zlib may keep output back once its input is used up, because each call's output is bounded.
        while has_begun and not inflater.eof and (piece := inflater.decompress(b"", 16 * _CHUNK)):
            yield piece
    except zlib.error as error:
        raise CorruptVolumeError(
            f"its {kind} data are damaged (checksum or structure); copy it again"
        ) from error
    if has_begun and not inflater.eof:
        raise CorruptVolumeError(
            f"its {kind} data end too early; it is truncated; copy it again from its source"
        )
