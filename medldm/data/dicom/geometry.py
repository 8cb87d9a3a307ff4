"""Measure how a stack of slices lies in space, and refuse, by the names of the slices, irregular stacks.

DICOM's patient coordinates are LPS+: x to the patient's left, y to the back, z to the head (PS3.3
C.7.6.2.1.1). The affines made here are RAS+: the first two axes change sign.

Symbols: r and c are the unit vectors of (0020,0037), r along a row (the column index grows), c along a
column; n = r x c; P_k is (0020,0032) of slice k, slices in the order of P_k . n.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medldm.data.dicom.errors import DicomError, Refusal
from medldm.data.dicom.frames import Frame
from medldm.transforms.itk_header import LPS_TO_RAS

ORIENTATION_TOLERANCE = 1e-4
"""Largest difference of direction cosines within a stack (rounding jitter of decimal strings)."""

SPACING_TOLERANCE = 0.01
"""Largest distance of a slice from its place in the regular grid, as a share of the slice spacing."""

POSITION_TOLERANCE_MM = 0.01
"""The same in mm; the larger of the two holds, because positions are rounded decimal strings."""

TILT_TOLERANCE = 1e-3
"""Largest tangent of the angle between the stacking direction and the slices' normal (0.06 degrees)."""

SAME_PLACE_MM = 1e-3
"""Slices nearer than this along the normal share a place."""


@dataclass(frozen=True, kw_only=True)
class Stack:
    """Parallel slices, sorted along their normal.

    Args:
        frames: in the order of `distances`.
        row: (3,) unit vector r, LPS.
        column: (3,) unit vector c, LPS.
        positions: (N, 3) P_k, LPS mm.
        distances: (N,) P_k . n in mm, increasing.
        spacing: mm between columns (along r), then between rows (along c).
    """

    frames: tuple[Frame, ...]
    row: np.ndarray
    column: np.ndarray
    positions: np.ndarray
    distances: np.ndarray
    spacing: tuple[float, float]

    @property
    def normal(self) -> np.ndarray:
        """Return n = r x c, (3,) LPS."""
        return np.cross(self.row, self.column)

    @property
    def shifts(self) -> np.ndarray:
        """Return (N, 2): how far each slice's first voxel lies from the first slice's along r and c, mm."""
        offsets = self.positions - self.positions[0]
        return np.stack([offsets @ self.row, offsets @ self.column], axis=1)

    def affine(self, step: np.ndarray) -> np.ndarray:
        """Return the (4, 4) RAS+ affine of voxels (column, row, slice) for a vector from slice to slice, LPS
        mm.

        Source: PS3.3 C.7.6.2.1.1, equation C.7.6.2.1-1; spacing as in PS3.3 10.7.1.3.
        """
        affine = np.eye(4)
        affine[:3, 0] = self.row * self.spacing[0]
        affine[:3, 1] = self.column * self.spacing[1]
        affine[:3, 2] = step
        affine[:3, 3] = self.positions[0]
        return LPS_TO_RAS @ affine


def make_stack(frames: Sequence[Frame]) -> Stack:
    """Sort frames of one orientation along their normal.

    Raises:
        DicomError: MISSING_GEOMETRY, INVALID_GEOMETRY, FRAMES_OF_REFERENCE or TOO_FEW_SLICES.

    Source: PS3.3 C.7.6.2.1.1 Image Position and Image Orientation (Patient), (0020,0032) and (0020,0037).
    """
    for frame in frames:
        if frame.position is None or frame.orientation is None or frame.spacing is None:
            raise DicomError(
                Refusal.MISSING_GEOMETRY,
                f"{frame} lacks ImagePositionPatient, ImageOrientationPatient or PixelSpacing; without them "
                "its place in the body is unknown",
            )
    if len({frame.image.frame_of_reference for frame in frames}) > 1:
        raise DicomError(
            Refusal.FRAMES_OF_REFERENCE,
            "its slices name different frames of reference (0020,0052); separate them",
        )
    if len(frames) < 2:
        raise DicomError(Refusal.TOO_FEW_SLICES, f"{len(frames)} slice is no volume; at least 2 are needed")
    row, column = _directions(frames)
    positions = np.array([frame.position for frame in frames], dtype=np.float64)
    distances = positions @ np.cross(row, column)
    order = np.argsort(distances, kind="stable")
    spacings = np.array([frame.spacing for frame in frames], dtype=np.float64)
    between_rows, between_columns = spacings.mean(axis=0)
    if not 0 < min(between_rows, between_columns) <= max(between_rows, between_columns) < 1e3:
        raise DicomError(
            Refusal.INVALID_GEOMETRY,
            f"PixelSpacing is {between_rows:g} x {between_columns:g} mm; correct the header",
        )
    return Stack(
        frames=tuple(frames[index] for index in order),
        row=row,
        column=column,
        positions=positions[order],
        distances=distances[order],
        spacing=(float(between_columns), float(between_rows)),
    )


def _directions(frames: Sequence[Frame]) -> tuple[np.ndarray, np.ndarray]:
    """Average the direction cosines over the slices, so that rounding jitter cancels, and normalise them."""
    cosines = np.array([frame.orientation for frame in frames], dtype=np.float64)
    row, column = cosines.mean(axis=0).reshape(2, 3)
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if not all(abs(length - 1) < 0.01 for length in lengths) or abs(row @ column) > 1e-3:
        raise DicomError(
            Refusal.INVALID_GEOMETRY,
            f"ImageOrientationPatient holds vectors of length {lengths[0]:.4f} and {lengths[1]:.4f} with "
            f"inner product {row @ column:.4f}; two orthogonal unit vectors are needed",
        )
    return row / lengths[0], column / lengths[1]


def grid_tolerance_mm(step_mm: float) -> float:
    """Return how far a slice may lie from its place in the regular grid."""
    return max(SPACING_TOLERANCE * step_mm, POSITION_TOLERANCE_MM)


def regular_step(stack: Stack) -> np.ndarray:
    """Return the vector from slice to slice of a regular stack.

    It is the mean of the true vectors between positions, so that first and last slice fall on their stored
    positions.

    Returns:
        (3,) LPS mm.

    Raises:
        DicomError: DUPLICATE_POSITIONS, MISSING_SLICES, VARIABLE_SPACING, GANTRY_TILT or SHIFTED_SLICES,
            naming slices.
    """
    refuse_duplicates(stack)
    n_steps = len(stack.frames) - 1
    step = (stack.positions[-1] - stack.positions[0]) / n_steps
    step_mm = float(stack.distances[-1] - stack.distances[0]) / n_steps
    tolerance = grid_tolerance_mm(step_mm)
    off_grid = np.abs(stack.distances - stack.distances[0] - step_mm * np.arange(n_steps + 1))
    if off_grid.max() > tolerance:
        raise _irregular(stack)
    drift = step - (step @ stack.normal) * stack.normal
    tangent = float(np.linalg.norm(drift)) / step_mm
    along = np.linalg.norm(
        stack.positions - stack.positions[0] - np.outer(np.arange(n_steps + 1), step), axis=1
    )
    if along.max() > tolerance:
        slice_ = stack.frames[int(along.argmax())]
        raise DicomError(
            Refusal.SHIFTED_SLICES,
            f"{slice_} lies {along.max():.3f} mm beside its place in the stack; {tolerance:.3f} mm is "
            "allowed; read it with regularise=True to resample",
        )
    if tangent > TILT_TOLERANCE:
        raise DicomError(
            Refusal.GANTRY_TILT,
            f"the slices from {stack.frames[0]} to {stack.frames[-1]} are stacked "
            f"{np.degrees(np.arctan(tangent)):.2f} degrees off their normal; read them with "
            "regularise=True to resample",
        )
    return step


def refuse_duplicates(stack: Stack) -> None:
    """Refuse slices that share a place and that no attribute tells apart.

    Raises:
        DicomError: TIME_SERIES where most places hold several slices, else DUPLICATE_POSITIONS.
    """
    is_same = np.diff(stack.distances) < SAME_PLACE_MM
    same = np.flatnonzero(is_same)
    counts = np.bincount(np.cumsum(np.concatenate([[False], ~is_same])))
    if (counts > 1).mean() > 0.5:
        raise DicomError(
            Refusal.TIME_SERIES,
            f"it is a time series (4D): {len(counts)} places hold up to {counts.max()} slices each, so "
            f"{counts.max()} time points (or echoes, b-values, ...), and no attribute says which slice is of "
            "which; export each time point as a series of its own, or with (0020,0100) Temporal Position "
            "Identifier",
        )
    if same.size:
        pairs = "; ".join(f"{stack.frames[k]} and {stack.frames[k + 1]}" for k in same[:3])
        raise DicomError(
            Refusal.DUPLICATE_POSITIONS,
            f"{same.size} pairs of slices share a place and no attribute assigns them to volumes: {pairs}; "
            "keep one of each pair",
        )


def missing_multiples(stack: Stack) -> np.ndarray | None:
    """Tell a stack with missing slices from one of variable spacing.

    Returns:
        (N-1,) how many regular steps lie between neighbours, at least one of them over 1; None where the
        steps are not whole multiples of the smallest, or where most of them are over 1.
    """
    steps = np.diff(stack.distances)
    smallest = steps.min()
    base = float(steps[steps < smallest + 2 * grid_tolerance_mm(smallest)].mean())
    multiples = np.rint(steps / base)
    is_multiple = np.abs(steps - multiples * base) <= 2 * grid_tolerance_mm(base) * multiples
    n_gaps = int((multiples > 1).sum())
    return multiples.astype(int) if is_multiple.all() and 0 < n_gaps <= len(steps) / 2 else None


def _irregular(stack: Stack) -> DicomError:
    steps = np.diff(stack.distances)
    multiples = missing_multiples(stack)
    if multiples is not None:
        gaps = np.flatnonzero(multiples > 1)
        names = "; ".join(f"{multiples[k] - 1} after {stack.frames[k]}" for k in gaps[:5])
        return DicomError(
            Refusal.MISSING_SLICES,
            f"{int((multiples - 1).sum())} slices are missing: {names}; restore them, or read the series "
            "with regularise=True to interpolate them",
        )
    odd = int(np.abs(steps - np.median(steps)).argmax())
    return DicomError(
        Refusal.VARIABLE_SPACING,
        f"its slices are {steps.min():.3f} to {steps.max():.3f} mm apart, {steps[odd]:.3f} mm after "
        f"{stack.frames[odd]}; read it with regularise=True to resample",
    )
