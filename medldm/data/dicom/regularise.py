"""Resample a tilted, shifted, gappy or unevenly spaced stack to a regular grid.

The slices are parallel planes at the distances d_k along their normal, each shifted in its plane by s_k. A
new voxel at in-plane place u and distance d lies between the planes k and k + 1. Its value is

    (1 - w) I_k(u - s_k) + w I_(k+1)(u - s_(k+1)),    w = (d - d_k) / (d_(k+1) - d_k),

with I_k interpolated linearly in its plane. Any field that is linear in space comes out exactly, and a slice
that lies on the new grid, unshifted, comes out to the bit.
"""

from __future__ import annotations

import math

import numpy as np

from medldm.data.dicom.errors import DicomError, Refusal
from medldm.data.dicom.geometry import Stack, grid_tolerance_mm, missing_multiples, refuse_duplicates

MAX_GAP_STEPS = 4
"""Wider gaps, in steps of the new grid, are not interpolated."""


def regularise_stack(
    stack: Stack, voxels: np.ndarray, *, max_bytes: int
) -> tuple[np.ndarray, np.ndarray, str]:
    """Resample to the slices' own pixel spacing and a constant slice spacing.

    Args:
        stack: the slices' places.
        voxels: (columns, rows, slices) float32, in the order of `stack`.
        max_bytes: cap on the result as float32.

    Returns:
        (X, Y, Z) float32; its (4, 4) RAS+ affine; a sentence for the log.

    Raises:
        DicomError: DUPLICATE_POSITIONS; VARIABLE_SPACING or MISSING_SLICES where a gap is wider than four
            steps; TOO_LARGE.
    """
    refuse_duplicates(stack)
    step_mm = _step_mm(stack)
    gaps = np.diff(stack.distances) / step_mm
    if gaps.max() > MAX_GAP_STEPS + 0.01:
        widest = int(gaps.argmax())
        raise DicomError(
            Refusal.MISSING_SLICES if missing_multiples(stack) is not None else Refusal.VARIABLE_SPACING,
            f"the gap after {stack.frames[widest]} is {gaps[widest]:.1f} slice steps wide; up to "
            f"{MAX_GAP_STEPS} are interpolated; restore the slices",
        )
    n_slices = math.floor((stack.distances[-1] - stack.distances[0]) / step_mm + 0.01) + 1
    origin, shape = _in_plane_extent(stack, voxels.shape[:2])
    if math.prod((*shape, n_slices)) * 4 > max_bytes:
        raise DicomError(
            Refusal.TOO_LARGE, f"resampled it takes more than the cap of {max_bytes} bytes; raise max_bytes"
        )
    resampled = _resample(stack, voxels, step_mm=step_mm, origin=origin, shape=(*shape, n_slices))
    affine = stack.affine(stack.normal * step_mm)
    lps = stack.row * origin[0] + stack.column * origin[1]
    affine[:3, 3] += lps * np.array([-1.0, -1.0, 1.0])
    note = (
        f"resampled from {len(stack.frames)} irregular slices to {n_slices} slices {step_mm:.3f} mm apart; "
        "values between slices and beside them are interpolated or filled with the smallest value"
    )
    return resampled, affine, note


def _step_mm(stack: Stack) -> float:
    """Choose the smallest regular step, so that no slice is lost; clustered slices do not count."""
    steps = np.diff(stack.distances)
    multiples = missing_multiples(stack)
    if multiples is not None:
        return float(steps.sum() / multiples.sum())
    mean = float(steps.mean())
    if np.abs(
        stack.distances - stack.distances[0] - mean * np.arange(len(steps) + 1)
    ).max() <= grid_tolerance_mm(mean):
        return mean
    return max(float(steps.min()), 0.25 * float(np.median(steps)))


def _in_plane_extent(stack: Stack, shape: tuple[int, ...]) -> tuple[np.ndarray, tuple[int, int]]:
    """Return the grid's first voxel relative to the first slice's, (2,) mm, and its columns and rows."""
    spacing = np.array(stack.spacing)
    first = np.floor(stack.shifts.min(axis=0) / spacing + 0.01) * spacing
    last = np.ceil(stack.shifts.max(axis=0) / spacing - 0.01) * spacing
    grown = np.rint((last - first) / spacing).astype(int)
    return first, (int(shape[0] + grown[0]), int(shape[1] + grown[1]))


def _resample(
    stack: Stack, voxels: np.ndarray, *, step_mm: float, origin: np.ndarray, shape: tuple[int, int, int]
) -> np.ndarray:
    fill = float(voxels.min())
    resampled = np.empty(shape, dtype=np.float32)
    planes: dict[int, np.ndarray] = {}
    for index in range(shape[2]):
        distance = stack.distances[0] + index * step_mm
        lower = int(
            np.clip(np.searchsorted(stack.distances, distance, side="right") - 1, 0, len(stack.frames) - 2)
        )
        weight = (distance - stack.distances[lower]) / (stack.distances[lower + 1] - stack.distances[lower])
        weight = float(np.clip(np.rint(weight) if abs(weight - np.rint(weight)) < 0.01 else weight, 0, 1))
        planes = {k: plane for k, plane in planes.items() if k >= lower}
        for k in (lower, lower + 1):
            if k not in planes:
                planes[k] = _shifted(
                    voxels[:, :, k], stack, stack.shifts[k] - origin, shape=shape[:2], fill=fill
                )
        resampled[:, :, index] = (1 - weight) * planes[lower] + weight * planes[lower + 1]
    return resampled


def _shifted(
    plane: np.ndarray, stack: Stack, shift_mm: np.ndarray, *, shape: tuple[int, ...], fill: float
) -> np.ndarray:
    """Place a slice in the grid's plane; the value at voxel i is the slice's at i - shift / spacing."""
    for axis in range(2):
        plane = _interpolated(
            plane, -shift_mm[axis] / stack.spacing[axis], axis=axis, size=shape[axis], fill=fill
        )
    return plane


def _interpolated(plane: np.ndarray, offset: float, *, axis: int, size: int, fill: float) -> np.ndarray:
    """Sample linearly along one axis at 0 + offset, 1 + offset, ...; `fill` outside the plane."""
    whole = round(offset) if abs(offset - round(offset)) < 1e-3 else math.floor(offset)
    fraction = 0.0 if abs(offset - whole) < 1e-3 else offset - whole
    index = np.arange(size) + whole
    is_inside = (index >= 0) & (index + (fraction > 0) < plane.shape[axis])
    lower = np.clip(index, 0, plane.shape[axis] - 1)
    upper = np.clip(index + 1, 0, plane.shape[axis] - 1)
    sampled = plane.take(lower, axis=axis)
    if fraction > 0:
        sampled = (1 - fraction) * sampled + fraction * plane.take(upper, axis=axis)
    return np.where(is_inside[:, None] if axis == 0 else is_inside[None, :], sampled, fill)
