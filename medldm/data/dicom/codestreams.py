"""Hold a compressed frame's own header against the DICOM header before a decoder sees it.

Decoders written in C trust the size and precision a codestream declares: a damaged one makes them allocate
without limit or crash the process.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from pydicom import uid

_FRAME_MARKERS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
_JPEG_2000 = (uid.JPEG2000Lossless, uid.JPEG2000)


class CodestreamHeader(NamedTuple):
    """What a codestream says of its image."""

    rows: int
    columns: int
    samples: int
    precision: int


def read_codestream_header(frame: bytes, *, syntax: str) -> CodestreamHeader | None:
    """Read the header of a JPEG, JPEG-LS or JPEG 2000 codestream.

    Returns:
        None where there is no such header.

    Source: ITU-T T.81 B.2.2 (frame header), ITU-T T.87 C.2.2 (SOF55), ITU-T T.800 A.5.1 (SIZ).
    """
    try:
        return _jpeg_2000(frame) if syntax in _JPEG_2000 else _jpeg(frame)
    except (struct.error, IndexError):
        return None


def _jpeg(frame: bytes) -> CodestreamHeader | None:
    if frame[:2] != b"\xff\xd8":
        return None
    offset = 2
    while frame[offset] == 0xFF:
        marker = frame[offset + 1]
        if marker == 0xFF:
            offset += 1
            continue
        if marker in _FRAME_MARKERS:
            precision, rows, columns, samples = struct.unpack_from(">BHHB", frame, offset + 4)
            return CodestreamHeader(rows=rows, columns=columns, samples=samples, precision=precision)
        offset += 2 + max(2, struct.unpack_from(">H", frame, offset + 2)[0])
    return None


def _jpeg_2000(frame: bytes) -> CodestreamHeader | None:
    """Read SIZ, which follows SOC at once; a JP2 wrapper, which DICOM forbids, may stand before."""
    begin = frame.find(b"\xff\x4f\xff\x51")
    if begin < 0 or begin > 1024:
        return None
    x_size, y_size, x_offset, y_offset = struct.unpack_from(">IIII", frame, begin + 8)
    (samples,) = struct.unpack_from(">H", frame, begin + 40)
    return CodestreamHeader(y_size - y_offset, x_size - x_offset, samples, (frame[begin + 42] & 0x7F) + 1)
