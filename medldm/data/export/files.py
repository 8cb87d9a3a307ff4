"""Put the files of a case where a layout wants them, unchanged where they are right as they are."""

from __future__ import annotations

import gzip
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from medldm.errors import StorageError
from medldm.files import write_atomically
from medldm.transforms.load import round_label_values
from medldm.transforms.nifti import read_nifti_header
from medldm.transforms.raw_volume import RawVolume
from medldm.transforms.readers import NIFTI_SUFFIXES, read_raw_volume, volume_suffix
from medldm.transforms.write_nifti import write_nifti

_GZIP_LEVEL = 6
_GZIP_NAMED = 0x08 | 0x10
"""Flags of a gzip file that keeps the name of what it holds, or a comment (RFC 1952, 2.3.1)."""
_TEXTS = ("descrip", "aux_file", "db_name", "intent_name", "data_type")


def place_image(source: Path, target: Path, *, link: str) -> None:
    """Put an image at `target`, a .nii.gz file, with the same voxels and affine.

    A sound NIfTI file goes there byte for byte, gzipped where it is not. Another format, and a NIfTI file
    whose header other tools may read in another way or which holds texts, is written anew.
    """
    if _is_plain_nifti(source):
        _place_nifti(source, target, link=link)
    else:
        raw = read_raw_volume(source)
        write_nifti(target, raw.array, raw.affine, dtype=storage_type(raw.array))


def storage_type(array: np.ndarray) -> np.dtype:
    """Return the type in which NIfTI holds an array exactly: its own, or a smaller one of 64-bit integers."""
    kind = array.dtype.newbyteorder("=")
    if kind.kind == "b":
        return np.dtype(np.uint8)
    if kind.kind in "iu" and kind.itemsize == 8:
        return np.result_type(np.min_scalar_type(int(array.min())), np.min_scalar_type(int(array.max())))
    return kind


def place_label(
    source: Path,
    target: Path,
    *,
    link: str,
    affine: np.ndarray,
    mapping: Mapping[int, int] | None = None,
) -> bool:
    """Put a label map at `target`, a .nii.gz file.

    Args:
        source: the label map.
        target: where it goes.
        link: see `ExportOptions`.
        affine: of its image; the label map's own may differ by rounding.
        mapping: value -> value in the export, without 0; None keeps the values.

    Returns:
        Whether the file is the source's own, byte for byte but for gzip.
    """
    if mapping is None and _is_plain_nifti(source, affine=affine):
        _place_nifti(source, target, link=link)
        return True
    labels = read_labels(source).array
    labels = labels if mapping is None else map_values(labels, mapping)
    write_nifti(target, labels, affine, dtype=labels.dtype)
    return False


def read_labels(path: Path) -> RawVolume:
    """Read a label map as the smallest unsigned integers that hold it, in the axes of its file."""
    raw = read_raw_volume(path)
    labels, _ = round_label_values(raw.array, file=path)
    return RawVolume(array=labels.astype(np.min_scalar_type(int(labels.max()))), affine=raw.affine)


def map_values(labels: np.ndarray, mapping: Mapping[int, int]) -> np.ndarray:
    """Give the structures of a label map other values; 0 stays.

    Args:
        labels: unsigned integers, all of them 0 or in `mapping`.
        mapping: value -> new value.

    Returns:
        The smallest unsigned integers that hold the new values, of the same shape.
    """
    values, inverse = np.unique(labels, return_inverse=True)
    mapped = np.array([mapping[int(value)] if value else 0 for value in values], dtype=np.int64)
    return mapped.astype(np.min_scalar_type(int(mapped.max())))[inverse].reshape(labels.shape)


def _is_plain_nifti(path: Path, *, affine: np.ndarray | None = None) -> bool:
    """Tell whether every reader takes the file for what this package does: one affine, one way to read it.

    With an affine, the file is judged as a label map: stored as integers, without scaling, on that affine.
    """
    if volume_suffix(path) not in NIFTI_SUFFIXES or _is_gzip(path) != path.name.lower().endswith(".gz"):
        return False
    header = read_nifti_header(path)
    if header.notes or _holds_texts(path):
        return False
    if affine is None:
        return True
    is_integer = header.dtype.kind in "iu" and (header.slope, header.intercept) == (1.0, 0.0)
    return is_integer and np.array_equal(header.affine, affine)


def _is_gzip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def _holds_texts(path: Path) -> bool:
    """Tell whether a file holds texts, which may name a person: fields, extensions, what gzip keeps."""
    with path.open("rb") as file:
        start = file.read(4)
    has_name = start[:2] == b"\x1f\x8b" and bool(start[3] & _GZIP_NAMED)
    header: Any = nib.load(path).header
    texts = [bytes(header[name]) for name in _TEXTS if name in header]
    return has_name or bool(header.extensions) or any(text.strip(b"\0 ") for text in texts)


def _place_nifti(source: Path, target: Path, *, link: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if not _is_gzip(source):
        write_atomically(target, gzip.compress(source.read_bytes(), _GZIP_LEVEL, mtime=0))
    elif link == "copy":
        shutil.copyfile(source, target)
    elif link == "symbolic":
        target.symlink_to(source.resolve())
    else:
        _hard_link(source, target)


def _hard_link(source: Path, target: Path) -> None:
    try:
        os.link(source.resolve(), target)
    except OSError as error:
        raise StorageError(
            f"{source.name} cannot be linked into the output ({error.strerror}): hard links need one disk; "
            "give --link copy or --link symbolic"
        ) from error
