"""Decode the pixels of one file to real values, with the decoder named for each transfer syntax."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from pydicom import Dataset, uid
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import get_frame
from pydicom.pixels import get_decoder

from medldm.data.dicom.attributes import OVERLAY_BIT_POSITION
from medldm.data.dicom.codestreams import read_codestream_header
from medldm.data.dicom.errors import DicomError, Refusal
from medldm.data.dicom.files import (
    HEADER_BYTES,
    PARSE_ERRORS,
    NotDicomError,
    as_uid,
    open_dicom,
    quiet_pydicom,
)
from medldm.data.dicom.frames import Frame, ImageHeader

_PIXEL_TAGS = """
    SOPClassUID SamplesPerPixel PhotometricInterpretation PlanarConfiguration NumberOfFrames Rows Columns
    BitsAllocated BitsStored HighBit PixelRepresentation PixelData FloatPixelData DoubleFloatPixelData
    ExtendedOffsetTable ExtendedOffsetTableLengths
    """
_NATIVE = (uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian)
PLUGINS: dict[str, tuple[str, ...]] = {
    uid.RLELossless: ("pydicom",),
    uid.JPEGBaseline8Bit: ("gdcm",),
    uid.JPEGExtended12Bit: ("gdcm",),
    uid.JPEGLossless: ("gdcm",),
    uid.JPEGLosslessSV1: ("gdcm",),
    uid.JPEGLSLossless: ("pyjpegls", "gdcm"),
    uid.JPEGLSNearLossless: ("pyjpegls", "gdcm"),
    uid.JPEG2000Lossless: ("gdcm",),
    uid.JPEG2000: ("gdcm",),
}
"""Decoders by transfer syntax, named one by one so that no other package that is installed is used."""

_MODULES = {"gdcm": "gdcm", "pyjpegls": "jpeg_ls"}


def read_values(image: ImageHeader, frames: Sequence[Frame]) -> Iterator[np.ndarray]:
    """Yield the real values of some frames of one file.

    Args:
        image: the file.
        frames: frames of that file.

    Yields:
        (rows, columns) float64: stored value times slope plus intercept.

    Raises:
        DicomError: TRUNCATED, DEFLATE_LIMIT, UNSUPPORTED_SYNTAX, DECODER_MISSING, UNDECODABLE or
            PIXEL_FORMAT.

    Source: PS3.5 8.1.1 (bits), 8.2 and A.4 (compression), PS3.3 C.11.1.1.2 (Rescale Slope and Intercept).
    """
    syntax = as_uid(image.transfer_syntax)
    plugin = _plugin_of(syntax)
    dataset = _pixel_dataset(image)
    decoder = get_decoder(syntax)
    for frame in frames:
        if plugin not in ("", "pydicom"):
            _check_codestream(dataset, frame)
        try:
            with quiet_pydicom():
                if image.bits_allocated == 1 and not plugin:
                    stored = _unpack_bits(dataset.PixelData, frame)
                else:
                    stored, _ = decoder.as_array(
                        dataset,
                        index=frame.index if image.is_multiframe else 0,
                        raw=True,
                        decoding_plugin=plugin,
                        correct_unused_bits=False,  # type: ignore[arg-type]
                    )
        except (*PARSE_ERRORS, RuntimeError):
            raise DicomError(
                Refusal.UNDECODABLE, f"the pixels of {frame} cannot be decoded; restore the file"
            ) from None
        if stored.shape != (image.rows, image.columns):
            raise DicomError(Refusal.UNDECODABLE, f"the pixels of {frame} do not fill its rows and columns")
        values = _without_unused_bits(stored, frame)
        yield values.astype(np.float64) * frame.slope + frame.intercept


def _unpack_bits(data: bytes, frame: Frame) -> np.ndarray:
    """Read one frame of single bits.

    Frames follow each other bit by bit, so that one may begin and end within a byte; pydicom 3.0.2 cuts such
    a frame short.

    Returns:
        (rows, columns) uint8.

    Raises:
        ValueError: where the data end before the frame does.

    Source: PS3.5 8.1.1 and A.1, bits of a byte from the least significant.
    """
    shape = (frame.image.rows, frame.image.columns)
    n_bits = shape[0] * shape[1]
    start = frame.index * n_bits if frame.image.is_multiframe else 0
    touched = np.frombuffer(data, dtype=np.uint8)[start // 8 : (start + n_bits + 7) // 8]
    return np.unpackbits(touched, bitorder="little")[start % 8 :][:n_bits].reshape(shape)


def _check_codestream(dataset: Dataset, frame: Frame) -> None:
    """Refuse a codestream of another size or precision than the header's (PS3.5 8.2)."""
    image = frame.image
    try:
        with quiet_pydicom():
            names = ("ExtendedOffsetTable", "ExtendedOffsetTableLengths")
            offsets = (
                tuple(dataset[name].value for name in names) if all(n in dataset for n in names) else None
            )
            data = get_frame(
                dataset.PixelData, frame.index, number_of_frames=image.n_frames, extended_offsets=offsets
            )
    except PARSE_ERRORS:
        raise DicomError(Refusal.UNDECODABLE, f"{frame} is not in its file; restore the file") from None
    header = read_codestream_header(data, syntax=image.transfer_syntax)
    declared = (image.rows, image.columns, image.samples)
    if header is None or header[:3] != declared:
        found, asked = (
            "none" if size is None else " x ".join(map(str, size[:3])) for size in (header, declared)
        )
        message = f"declare a size of {found}, the header {asked}"
    elif not 1 < header.precision <= image.bits_allocated:
        message = f"declare {header.precision} bits of {image.bits_allocated}"
    else:
        return
    raise DicomError(Refusal.UNDECODABLE, f"the compressed pixels of {frame} {message}; restore the file")


def _pixel_dataset(image: ImageHeader) -> Dataset:
    n_pixels = image.rows * image.columns * image.n_frames
    try:
        opened = open_dicom(
            image.path,
            tags=[*_PIXEL_TAGS.split(), OVERLAY_BIT_POSITION],
            with_pixels=True,
            max_inflated_bytes=HEADER_BYTES + n_pixels * image.bits_allocated // 8,
        )
    except NotDicomError:
        raise DicomError(Refusal.UNREADABLE, "a file changed since the scan; scan again") from None
    dataset = opened.dataset
    if "PixelData" not in dataset:
        if "FloatPixelData" in dataset or "DoubleFloatPixelData" in dataset:
            raise DicomError(
                Refusal.PIXEL_FORMAT,
                "its pixels are floating-point (7FE0,0008 or 7FE0,0009); integers are read",
            )
        raise DicomError(Refusal.TRUNCATED, "a file ends before its pixel data is complete; restore the file")
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = opened.transfer_syntax
    return dataset


def _plugin_of(syntax: uid.UID) -> str:
    """Return the decoder's name, empty for native pixel data."""
    if syntax in _NATIVE:
        return ""
    if syntax not in PLUGINS:
        raise DicomError(
            Refusal.UNSUPPORTED_SYNTAX,
            f"transfer syntax {syntax} is not read; convert the files to Explicit VR Little Endian",
        )
    present = [plugin for plugin in PLUGINS[syntax] if plugin == "pydicom" or _has_module(_MODULES[plugin])]
    if not present:
        raise DicomError(
            Refusal.DECODER_MISSING,
            f"transfer syntax {syntax} needs a decoder that is not installed; pip install 'medldm[dicom]'",
        )
    if present[0] == "gdcm":
        _silence_gdcm()
    return present[0]


def _has_module(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


@lru_cache(maxsize=1)
def _silence_gdcm() -> None:
    """Keep GDCM from writing to the terminal: it reports damage as text, and pydicom as an error."""
    gdcm: Any = importlib.import_module("gdcm")
    gdcm.Trace.WarningOff()
    gdcm.Trace.ErrorOff()
    gdcm.Trace.DebugOff()


def _without_unused_bits(stored: np.ndarray, frame: Frame) -> np.ndarray:
    """Keep the stored bits of each voxel and extend their sign.

    Bits above are dropped where the header declares an overlay in them. Elsewhere they must be a
    continuation of the stored bits or the padding value, or the header and the pixels contradict each other.

    Source: PS3.5 8.1.1 and 8.1.2; (0028,0101) Bits Stored, (0028,0102) High Bit, (60xx,0102) Overlay Bit
    Position.
    """
    image = frame.image
    width, n_bits = stored.dtype.itemsize * 8, image.bits_stored
    low = image.high_bit + 1 - n_bits
    if not 0 < n_bits <= width or low < 0 or image.high_bit >= width:
        raise DicomError(
            Refusal.PIXEL_FORMAT,
            f"it stores {n_bits} bits up to bit {image.high_bit} of {width}; correct the header",
        )
    if n_bits == width:
        return stored
    kind = np.dtype(f"i{stored.dtype.itemsize}" if image.is_signed else f"u{stored.dtype.itemsize}")
    kept = np.left_shift(stored.view(kind), width - n_bits - low) >> (width - n_bits)
    if low or image.has_overlay_bits:
        return kept
    differs = kept != stored.view(kind)
    if image.padding is not None:
        padding = np.array(image.padding).astype(kind)
        differs &= stored.view(kind) != padding
        kept = np.where(stored.view(kind) == padding, padding, kept)
    if differs.any():
        raise DicomError(
            Refusal.PIXEL_FORMAT,
            f"{int(differs.sum())} voxels of {frame} exceed the {n_bits} bits its header declares; correct "
            "BitsStored",
        )
    return kept
