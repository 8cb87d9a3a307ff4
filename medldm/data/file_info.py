"""Look at one file of a cohort: its header, or header and every voxel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from medldm.files import hash_array
from medldm.transforms.errors import VolumeError
from medldm.transforms.load import round_label_values
from medldm.transforms.raw_volume import spacing_of
from medldm.transforms.readers import check_voxels_finite, read_geometry, read_raw_volume, volume_suffix

MOST_LABELS, MOST_LABEL_VALUE = 16, 255
"""An image of so few values, none higher, looks like a label map."""
MAX_FEW_VALUES = 256
_NPY_SPACING_MM = (1.0, 1.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class FileInfo:
    """What is known of one volume file.

    Args:
        problem: why the file is refused; all else is then empty.
        shape: (I, J, K) in the file's axes.
        affine: (4, 4) nested tuples, mm.
        notes: remarks of the reader.
        minimum: smallest voxel; None where only the header was read, as all below.
        maximum: largest voxel.
        content_hash: SHA-256 of shape and float32 voxels in the file's axes.
        label_counts: value -> voxels, label maps only.
        few_values: an image's values where these are at most 256 integers from 0 to 65535; None for others.
    """

    problem: str = ""
    shape: tuple[int, ...] = ()
    affine: tuple[tuple[float, ...], ...] = ()
    notes: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    content_hash: str = ""
    label_counts: Mapping[int, int] | None = None
    few_values: tuple[int, ...] | None = None

    @property
    def n_values(self) -> int | None:
        """Return how many values an image has, if these are few and low, as in a label map; else None."""
        values = self.few_values
        is_few = bool(values) and len(values or ()) <= MOST_LABELS and max(values or ()) <= MOST_LABEL_VALUE
        return len(values or ()) if is_few else None

    @property
    def spacing(self) -> np.ndarray:
        """Return (3,) mm in the file's axes."""
        return spacing_of(np.asarray(self.affine))

    @property
    def orientation(self) -> str:
        """Return the file's axis codes, such as "LPS"."""
        return "".join(nib.aff2axcodes(np.asarray(self.affine)))

    def to_dict(self) -> dict[str, Any]:
        """Return what goes into the cache as JSON, whose keys are texts."""
        return {key: value for key, value in self.__dict__.items() if value is not None}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FileInfo:
        """Rebuild from `to_dict`."""
        plain = dict(values)
        plain["shape"] = tuple(plain["shape"])
        plain["affine"] = tuple(tuple(row) for row in plain["affine"])
        plain["notes"] = tuple(plain["notes"])
        if "few_values" in plain:
            plain["few_values"] = tuple(plain["few_values"])
        if "label_counts" in plain:
            plain["label_counts"] = {int(value): int(count) for value, count in plain["label_counts"].items()}
        return cls(**plain)


def inspect_header(path: str | Path) -> FileInfo:
    """Read the header only; a refused file comes back with its reason."""
    try:
        geometry = read_geometry(path, spacing_mm=_spacing_for(path))
    except VolumeError as error:
        return FileInfo(problem=error.reason)
    except OSError as error:
        return FileInfo(problem=f"it cannot be opened ({error.strerror})")
    return FileInfo(
        shape=geometry.shape, affine=tuple(map(tuple, geometry.affine.tolist())), notes=geometry.notes
    )


def inspect_voxels(path: str | Path, *, is_label: bool) -> FileInfo:
    """Read the whole file; a refused one comes back with its reason."""
    try:
        raw = read_raw_volume(path, spacing_mm=_spacing_for(path))
        check_voxels_finite(raw.array)
        array, notes = round_label_values(raw.array) if is_label else (raw.array, ())
    except VolumeError as error:
        return FileInfo(problem=error.reason)
    except OSError as error:
        return FileInfo(problem=f"it cannot be opened ({error.strerror})")
    return FileInfo(
        shape=tuple(int(size) for size in raw.array.shape),
        affine=tuple(map(tuple, raw.affine.tolist())),
        notes=(*raw.notes, *notes),
        minimum=float(array.min()),
        maximum=float(array.max()),
        content_hash=hash_array(np.asfortranarray(array, dtype=np.float32).T),
        label_counts=count_labels(array) if is_label else None,
        few_values=None if is_label else _few_values(array),
    )


def _few_values(array: np.ndarray) -> tuple[int, ...] | None:
    """Return the values of an array that might be a label map by them, None for one that cannot."""
    if array.min() < 0 or array.max() >= 2**16 or (array != np.rint(array)).any():
        return None
    values = np.flatnonzero(np.bincount(array.ravel(order="K").astype(np.uint16)))
    return tuple(values.tolist()) if len(values) <= MAX_FEW_VALUES else None


def count_labels(array: np.ndarray) -> dict[int, int]:
    """Count the voxels of each value of an integer-valued array."""
    flat = array.ravel(order="K")
    if array.max() < 2**16:
        counts = np.bincount(flat.astype(np.uint16))
        return {int(value): int(counts[value]) for value in np.flatnonzero(counts)}
    values, counts = np.unique(flat, return_counts=True)
    return {int(value): int(count) for value, count in zip(values, counts, strict=True)}


def _spacing_for(path: str | Path) -> tuple[float, float, float] | None:
    """A .npy file has no spacing of its own; any will do to look at its voxels."""
    return _NPY_SPACING_MM if volume_suffix(path) == ".npy" else None
