"""Choose between the two affines of a NIfTI header, and refuse to guess where both cannot be right.

Source: nifti1.h of the NIfTI Data Format Working Group, "3D image orientation and location in space".
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from nibabel.quaternions import fillpositive, quat2mat

from medldm.errors import ConfigError
from medldm.transforms.errors import GeometryError
from medldm.transforms.raw_volume import MAX_SPACING_MM, MIN_SPACING_MM, check_affine, spacing_of

AffineChoice = Literal["sform", "qform"]
AFFINE_CHOICES: tuple[AffineChoice, ...] = ("sform", "qform")
SCALE_TOLERANCE = 0.01
"""Voxel edges that differ by more, relatively, are not the same."""
_NOTED_MM = 0.1


def check_affine_choice(choice: str | None) -> AffineChoice | None:
    """Return the choice, None for none.

    Raises:
        ConfigError: for another text than "sform" and "qform".
    """
    for known in AFFINE_CHOICES:
        if choice == known:
            return known
    if choice is not None:
        raise ConfigError(f"affine is {choice!r}: choose {' or '.join(AFFINE_CHOICES)}, or leave it out")
    return None


def choose_affine(
    fields: np.void, *, choice: AffineChoice | None = None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the affine of a header, the sform where both are there and agree, and notes.

    Two affines that only turn or shift the volume are both sound: a scanner's and a template's space. Other
    sizes of voxels, or a mirror image, mean that one of them is wrong.

    Args:
        fields: of a NIfTI-1 or NIfTI-2 header.
        choice: which counts where both are there; None refuses a file whose two are at odds.

    Returns:
        (4, 4) float64, and remarks that do not refuse the file.

    Raises:
        GeometryError: where neither is there, the one that counts is not sound, or the two are at odds.
    """
    _check_unit(fields)
    has_sform, has_qform = int(fields["sform_code"]) > 0, int(fields["qform_code"]) > 0
    if not (has_sform or has_qform):
        raise GeometryError(
            "it has neither sform nor qform (both codes are 0), its orientation is unknown; set one"
        )
    if has_sform and not has_qform:
        affine = _sform(fields)
        return affine, _pixdim_notes(affine, fields, choice=choice)
    if has_qform and not has_sform:
        return _qform(fields), ()
    return _of_two(fields, choice=choice)


def _of_two(fields: np.void, *, choice: AffineChoice | None) -> tuple[np.ndarray, tuple[str, ...]]:
    taken, passed = ("qform", "sform") if choice == "qform" else ("sform", "qform")
    read = {"sform": _sform, "qform": _qform}
    affine = read[taken](fields)
    try:
        other = read[passed](fields)
    except GeometryError:
        return affine, (f"its {passed} is not usable; the {taken} is taken",)
    if conflict := _conflict(affine, other, names=(taken, passed)):
        if choice is None:
            raise GeometryError(_ask(conflict))
        return affine, (f"{conflict}; the {taken} is taken, as asked",)
    last = np.append(np.asarray(fields["dim"][1:4], dtype=np.float64) - 1, 1)
    distance = max(np.abs((affine - other) @ corner).max() for corner in (np.array([0, 0, 0, 1.0]), last))
    is_noted = distance > _NOTED_MM
    return affine, (
        (f"sform and qform differ by {distance:.3g} mm; the {taken} is taken",) if is_noted else ()
    )


def _conflict(affine: np.ndarray, other: np.ndarray, *, names: tuple[str, str]) -> str:
    """Say why two affines cannot both be right; empty where one is the other turned or shifted."""
    if _differ(spacing_of(affine), spacing_of(other)):
        sizes = [_mm(spacing_of(each)) for each in (affine, other)]
        return f"its {names[0]} has voxels of {sizes[0]}, its {names[1]} of {sizes[1]}"
    if np.linalg.det(affine[:3, :3]) * np.linalg.det(other[:3, :3]) < 0:
        return f"its {names[0]} mirrors its {names[1]}: left and right, or another pair, are swapped"
    return ""


def _pixdim_notes(affine: np.ndarray, fields: np.void, *, choice: AffineChoice | None) -> tuple[str, ...]:
    """Hold an sform without a qform against pixdim, where other tools take the sizes of voxels from."""
    pixdim = np.asarray(fields["pixdim"][1:4], dtype=np.float64)
    is_plausible = (
        np.isfinite(pixdim).all() and ((pixdim >= MIN_SPACING_MM) & (pixdim <= MAX_SPACING_MM)).all()
    )
    spacing = spacing_of(affine)
    if not is_plausible or not _differ(spacing, pixdim):
        return ()
    conflict = f"its sform has voxels of {_mm(spacing)}, its pixdim says {_mm(pixdim)}"
    if choice is None and not _differ(spacing, np.ones(3)):
        raise GeometryError(_ask(conflict))
    return (f"{conflict}; the sform is taken",)


def _ask(conflict: str) -> str:
    return (
        f"{conflict}; find out which is right and correct the header, or choose: `medldm prepare --affine "
        "sform` (or qform), LoadVolume(affine=...) in Python"
    )


def _differ(one: np.ndarray, other: np.ndarray) -> bool:
    return bool((np.abs(one / other - 1.0) > SCALE_TOLERANCE).any())


def _mm(spacing: np.ndarray) -> str:
    return " x ".join(f"{edge:.4g}" for edge in spacing) + " mm"


def _check_unit(fields: np.void) -> None:
    unit = int(fields["xyzt_units"]) & 7
    if unit in (1, 3):
        name = {1: "metres", 3: "micrometres"}[unit]
        raise GeometryError(
            f"its unit of length is {name}; millimetres are read; convert the affine and xyzt_units"
        )


def _sform(fields: np.void) -> np.ndarray:
    affine = np.vstack([np.asarray(fields["srow"], dtype=np.float64), [0, 0, 0, 1]])
    check_affine(affine)
    return affine


def _qform(fields: np.void) -> np.ndarray:
    affine = _quaternion_affine(fields)
    check_affine(affine)
    return affine


def _quaternion_affine(fields: np.void) -> np.ndarray:
    """Build the qform affine: R diag(pixdim) with qfac = pixdim[0], nifti1.h 'method 2'."""
    b, c, d = (float(value) for value in fields["quatern"])
    spacing = np.asarray(fields["pixdim"][1:4], dtype=np.float64)
    if not np.isfinite([b, c, d, *spacing]).all():
        raise GeometryError("its qform holds NaN or Inf; write a finite sform or qform")
    if (spacing <= 0).any():
        raise GeometryError(f"its pixdim is {spacing.tolist()} mm; positive spacing is needed")
    # nibabel's own arithmetic and tolerance, so that its users get the same affine to the bit.
    try:
        quaternion = fillpositive([b, c, d], -3 * np.finfo(np.float32).eps)
    except ValueError as error:
        raise GeometryError(
            f"its quaternion {b:.4g}, {c:.4g}, {d:.4g} is longer than 1; rewrite qform"
        ) from error
    qfac = -1.0 if float(fields["pixdim"][0]) < 0 else 1.0
    affine = np.eye(4)
    affine[:3, :3] = np.dot(quat2mat(quaternion), np.diag(spacing * [1.0, 1.0, qfac]))
    affine[:3, 3] = fields["qoffset"]
    return affine
