"""Read a scanned series to a volume in RAS+."""

from __future__ import annotations

import logging
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from monai.data import MetaTensor

from medldm.data.dicom.errors import DicomError, Refusal
from medldm.data.dicom.frames import Frame
from medldm.data.dicom.geometry import Stack, make_stack, regular_step
from medldm.data.dicom.pixels import read_values
from medldm.data.dicom.regularise import regularise_stack
from medldm.data.dicom.scan import choose_series, scan_dicom
from medldm.data.dicom.series import DicomSeries, check_kind
from medldm.transforms.errors import GeometryError
from medldm.transforms.orientation import to_ras_affine, turn
from medldm.transforms.raw_volume import DEFAULT_MAX_BYTES, check_affine

logger = logging.getLogger(__name__)


def read_series(
    series: DicomSeries, *, regularise: bool = False, max_bytes: int = DEFAULT_MAX_BYTES
) -> MetaTensor:
    """Read a series as (1, X, Y, Z) float32, RAS+, in real units (Hounsfield units for CT).

    MONOCHROME1 stays as stored: it says how to display values, not what they mean (PS3.3 C.7.6.3.1.2).
    Voxels that hold (0028,0120) Pixel Padding Value stay as stored, too.

    Args:
        series: from `scan_dicom`.
        regularise: resample tilted, shifted, gappy and unevenly spaced stacks to a regular grid, and say so
            in the log.
        max_bytes: cap on the volume as float32.

    Returns:
        MetaTensor whose meta holds `affine` (RAS+), `original_affine` (columns, rows, slices) and `notes`;
        nothing of the header.

    Raises:
        DicomError: with the name of the reason.
    """
    if series.refusal is not None and not (regularise and series.is_irregular):
        raise series.refusal
    check_kind(series, max_bytes=max_bytes)
    stack = make_stack(series.frames)
    notes: list[str] = []
    if series.is_irregular:
        voxels, affine, note = regularise_stack(stack, _read_slices(stack), max_bytes=max_bytes)
        notes.append(note)
        logger.warning("series %d: %s", series.number, note)
    else:
        affine = stack.affine(regular_step(stack))
        voxels = _read_slices(stack)
    notes += _remarks(series)
    return _to_ras(voxels, affine, notes)


def grid_of(series: DicomSeries) -> tuple[tuple[int, int, int], np.ndarray]:
    """Return the grid of a regular series by its headers alone, as `read_series` reads it.

    Returns:
        (X, Y, Z) voxels and the (4, 4) affine, RAS+.

    Raises:
        DicomError: where the series is not regular.
    """
    if series.refusal is not None:
        raise series.refusal
    stack = make_stack(series.frames)
    affine, axes, _ = to_ras_affine(stack.affine(regular_step(stack)), series.shape)
    first, second, third = (series.shape[axis] for axis in axes)
    return (first, second, third), affine


def read_dicom(
    folder: str | Path,
    *,
    modality: str | None = None,
    description: str | None = None,
    min_slices: int = 2,
    regularise: bool = False,
    max_bytes: int = DEFAULT_MAX_BYTES,
) -> MetaTensor:
    """Scan a folder and read the one series in it that fits.

    Args:
        folder: tree of DICOM files.
        modality: see `choose_series`.
        description: see `choose_series`.
        min_slices: see `choose_series`.
        regularise: see `read_series`.
        max_bytes: see `read_series`.

    Raises:
        DicomError: NO_MATCH, AMBIGUOUS, or, where one series was found and refused, its reason.

    Examples:
        >>> volume = read_dicom("study", modality="CT")  # doctest: +SKIP
        >>> volume.shape, volume.affine  # doctest: +SKIP
    """
    scan = scan_dicom(folder, max_bytes=max_bytes)
    chosen = choose_series(
        scan, modality=modality, description=description, min_slices=min_slices, regularise=regularise
    )
    if len(chosen) == 1:
        return read_series(chosen[0], regularise=regularise, max_bytes=max_bytes)
    if len(chosen) > 1:
        raise DicomError(
            Refusal.AMBIGUOUS,
            f"series {', '.join(str(series.number) for series in chosen)} fit; narrow the choice by "
            "modality, description or min_slices, or read each with read_series",
        )
    refused = [series.refusal for series in scan.series if series.refusal is not None]
    if len(scan.series) == 1 and refused:
        raise refused[0]
    raise DicomError(
        Refusal.NO_MATCH,
        f"none of {len(scan.series)} series among {scan.n_files} files fits; {len(refused)} were refused:\n"
        + scan.table(),
    )


def _read_slices(stack: Stack) -> np.ndarray:
    """Return (columns, rows, slices) float32, each file opened once."""
    image = stack.frames[0].image
    voxels = np.empty((len(stack.frames), image.rows, image.columns), dtype=np.float32)
    by_file: dict[Path, list[tuple[int, Frame]]] = defaultdict(list)
    for place, frame in enumerate(stack.frames):
        by_file[frame.image.path].append((place, frame))
    for entries in by_file.values():
        values = read_values(entries[0][1].image, [frame for _, frame in entries])
        for (place, _), slice_values in zip(entries, values, strict=True):
            voxels[place] = slice_values
    return voxels.transpose(2, 1, 0)


def _remarks(series: DicomSeries) -> list[str]:
    notes = []
    number, n_volumes = series.volume
    if n_volumes > 1:
        notes.append(
            f"it is volume {number} of {n_volumes} of one series: a time series, or several echoes, "
            "b-values or image types"
        )
    if any(frame.image.is_lossy for frame in series.frames):
        notes.append("its pixels were compressed with loss (0028,2110)")
    if any(frame.image.photometric == "MONOCHROME1" for frame in series.frames):
        notes.append("it is MONOCHROME1; values are kept as stored, not inverted")
    if any(frame.image.padding is not None for frame in series.frames):
        notes.append("it declares a Pixel Padding Value (0028,0120); such voxels are kept as stored")
    return notes


def _to_ras(voxels: np.ndarray, affine: np.ndarray, notes: list[str]) -> MetaTensor:
    try:
        check_affine(affine)
    except GeometryError as error:
        raise DicomError(Refusal.INVALID_GEOMETRY, error.reason) from error
    turned_affine, axes, flips = to_ras_affine(affine, voxels.shape)
    turned = np.ascontiguousarray(turn(voxels, axes, flips))
    meta = {
        "original_affine": affine,
        "original_shape": tuple(int(size) for size in voxels.shape),
        "notes": tuple(notes),
    }
    return MetaTensor(torch.from_numpy(turned)[None], affine=torch.from_numpy(turned_affine), meta=meta)
