"""Open single DICOM files: recognise them, inflate within a limit, read only the tags that are needed."""

from __future__ import annotations

import io
import logging
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pydicom
from pydicom import config as pydicom_config
from pydicom import uid
from pydicom.errors import BytesLengthException, InvalidDicomError

from medldm.data.dicom.errors import DicomError, Refusal
from medldm.errors import MedldmError
from medldm.transforms.errors import VolumeError

HEADER_BYTES = 16 * 1024**2
"""Cap on what is inflated of a deflated file before its pixel data is reached."""

PARSE_ERRORS = (
    BytesLengthException,
    InvalidDicomError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    NotImplementedError,
    OverflowError,
    EOFError,
    RecursionError,
    MemoryError,
    struct.error,
    zlib.error,
)
"""What pydicom raises on damaged files. Its messages repeat header texts and are never passed on."""

LAZY_ERRORS = (*PARSE_ERRORS, OSError)
"""The same where sequences are used, which pydicom parses as they are asked for, from memory."""

_LONG_VRS = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
_META_BYTES = 64 * 1024
_LOCK = threading.RLock()


class NotDicomError(MedldmError, ValueError):
    """Report a file that is not DICOM; a scan counts and passes over it."""


@dataclass(frozen=True, kw_only=True)
class OpenedFile:
    """A data set with the encoding it was stored in.

    Args:
        dataset: the tags asked for.
        transfer_syntax: UID by which the pixel data is decoded; a deflated file counts as Explicit VR Little
            Endian.
        series_uid: (0020,000E); empty where the file ends before it or it cannot be parsed.
        sop_class: (0008,0016), or (0002,0002) where the file ends before it; empty where neither is there.
        pixel_bytes: bytes from the pixel data element to the end of the file; None for deflated files.
    """

    dataset: pydicom.Dataset
    transfer_syntax: uid.UID
    series_uid: str
    sop_class: uid.UID
    pixel_bytes: int | None


class _ClampedFile(io.BufferedReader):
    """A file whose reads never ask for more than it holds, whatever length a damaged element declares."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path))
        self.n_bytes = self.seek(0, io.SEEK_END)
        self.seek(0)

    def read(self, size: int | None = -1, /) -> bytes:
        left = max(0, self.n_bytes - self.tell())
        return super().read(left if size is None or size < 0 else min(size, left))


@contextmanager
def quiet_pydicom() -> Iterator[None]:
    """Keep pydicom from judging values and writing header texts to the log; what matters is judged here."""
    log = logging.getLogger("pydicom")
    with _LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        level, mode = log.level, pydicom_config.settings.reading_validation_mode
        log.setLevel(logging.CRITICAL + 1)
        pydicom_config.settings.reading_validation_mode = pydicom_config.IGNORE
        try:
            yield
        finally:
            pydicom_config.settings.reading_validation_mode = mode
            log.setLevel(level)


@contextmanager
def refusing_damage(what: str) -> Iterator[None]:
    """Turn what pydicom raises on damaged files into a refusal that says nothing of the header.

    Args:
        what: names the kind of file in the message.

    Raises:
        DicomError: UNREADABLE.
    """
    try:
        with quiet_pydicom():
            yield
    except VolumeError:
        raise
    except LAZY_ERRORS:
        raise DicomError(Refusal.UNREADABLE, f"{what} is damaged; restore the file") from None


def open_dicom(
    path: Path, *, tags: Sequence[Any], with_pixels: bool = False, max_inflated_bytes: int = HEADER_BYTES
) -> OpenedFile:
    """Read some tags of a file, with or without preamble, in any transfer syntax.

    Args:
        path: the file.
        tags: keywords or tags; all others are skipped unread, so that identities never enter memory.
        with_pixels: read past (7FE0,0010) PixelData, which must then be among `tags`.
        max_inflated_bytes: cap on a deflated data set.

    Raises:
        NotDicomError: where the file is not DICOM.
        DicomError: UNREADABLE or DEFLATE_LIMIT.

    Source: PS3.10 7.1 (preamble and file meta information), PS3.5 A.5 (deflated transfer syntax).
    """
    with _open(path) as file:
        has_preamble, declared, offset = _read_meta(file)
        source: BinaryIO = file
        is_deflated = declared == uid.DeflatedExplicitVRLittleEndian
        if is_deflated:
            file.seek(offset)
            source = io.BytesIO(_inflate(file, limit=max_inflated_bytes, is_whole=with_pixels))
        source.seek(0)
        try:
            with quiet_pydicom():
                dataset = pydicom.dcmread(
                    source, force=True, specific_tags=list(tags), stop_before_pixels=not with_pixels
                )
            sop_class = _sop_class(dataset)
        except PARSE_ERRORS:
            if has_preamble:
                raise DicomError(Refusal.UNREADABLE, "a file's header is damaged; restore the file") from None
            raise NotDicomError("no DICOM data set") from None
        pixel_bytes = None if is_deflated else file.n_bytes - file.tell()
    if not has_preamble and not sop_class:
        raise NotDicomError("no DICOM data set")
    syntax = uid.ExplicitVRLittleEndian if is_deflated else declared or _guessed_syntax(dataset)
    return OpenedFile(
        dataset=dataset,
        transfer_syntax=as_uid(syntax),
        series_uid=_series_uid(dataset),
        sop_class=sop_class,
        pixel_bytes=pixel_bytes,
    )


def _sop_class(dataset: pydicom.FileDataset) -> uid.UID:
    with quiet_pydicom():
        declared = dataset.get("SOPClassUID") or dataset.file_meta.get("MediaStorageSOPClassUID") or ""
    return as_uid(str(declared))


def _series_uid(dataset: pydicom.FileDataset) -> str:
    try:
        with quiet_pydicom():
            return str(dataset.get("SeriesInstanceUID") or "").strip()
    except PARSE_ERRORS:
        return ""


def as_uid(text: str) -> uid.UID:
    """Return a UID without judging its form; damaged ones are refused where they are used."""
    return uid.UID(text, validation_mode=pydicom_config.IGNORE)


def _open(path: Path) -> _ClampedFile:
    try:
        return _ClampedFile(path)
    except OSError as error:
        raise DicomError(
            Refusal.UNREADABLE, f"a file cannot be opened ({error.strerror}); check its permissions"
        ) from None


def _read_meta(file: BinaryIO) -> tuple[bool, str | None, int]:
    """Return whether there is a preamble, the declared transfer syntax and where the data set begins."""
    head = file.read(132)
    has_preamble = head[128:] == b"DICM"
    if not has_preamble and not _begins_like_dicom(head):
        raise NotDicomError("no DICM prefix")
    offset, syntax = (132 if has_preamble else 0), None
    while offset < _META_BYTES:
        file.seek(offset)
        start = file.read(12)
        if len(start) < 8 or start[:2] != b"\x02\x00":
            break
        is_long = start[4:6] in _LONG_VRS
        if is_long and len(start) < 12:
            break
        length = struct.unpack_from("<I", start, 8)[0] if is_long else struct.unpack_from("<H", start, 6)[0]
        begin = offset + (12 if is_long else 8)
        if start[2:4] == b"\x10\x00":
            file.seek(begin)
            syntax = file.read(min(length, 64)).rstrip(b"\0 ").decode("ascii", "replace")
        offset = begin + length
    return has_preamble, syntax or None, offset


def _begins_like_dicom(head: bytes) -> bool:
    """Recognise a bare data set: its first tag is of group 0002 or 0008, in either byte order."""
    if len(head) < 16:
        return False
    little, big = struct.unpack_from("<HH", head), struct.unpack_from(">HH", head)
    return any(group in (0x0002, 0x0008) and element <= 0x0070 for group, element in (little, big))


def _inflate(file: BinaryIO, *, limit: int, is_whole: bool) -> bytes:
    """Inflate up to `limit` bytes; a longer stream is refused where all of it is needed and cut elsewhere."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    pieces: list[bytes] = []
    n_bytes = 0
    while n_bytes <= limit and not inflater.eof:
        chunk = inflater.unconsumed_tail or file.read(64 * 1024)
        if not chunk:
            if is_whole:
                raise DicomError(Refusal.TRUNCATED, "a deflated file ends early; restore the file")
            break
        try:
            piece = inflater.decompress(chunk, limit + 1 - n_bytes)
        except zlib.error:
            raise DicomError(Refusal.UNREADABLE, "a deflated file is damaged; restore the file") from None
        pieces.append(piece)
        n_bytes += len(piece)
    if is_whole and n_bytes > limit:
        raise DicomError(
            Refusal.DEFLATE_LIMIT,
            f"a deflated file inflates to more than the {limit} bytes its header accounts for; it is "
            "damaged or hostile",
        )
    return b"".join(pieces)


def _guessed_syntax(dataset: pydicom.Dataset) -> str:
    is_implicit, is_little = dataset.original_encoding
    if is_implicit:
        return uid.ImplicitVRLittleEndian
    return uid.ExplicitVRLittleEndian if is_little else uid.ExplicitVRBigEndian
