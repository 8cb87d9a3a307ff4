"""What every measure asks of the arrays it is given."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from medldm.evaluation.errors import NotMeasurableError, TooFewCasesError

Floats = npt.NDArray[np.float64]


def check_features(features: npt.ArrayLike, name: str, *, n_min: int = 2) -> Floats:
    """Return features as (N, D) float64.

    Args:
        features: (N, D), finite; one row for each case.
        name: of the set, for messages.
        n_min: cases that the measure needs.

    Raises:
        ValueError: for another number of axes, or no columns.
        NotMeasurableError: for values that are not finite.
        TooFewCasesError: for fewer than `n_min` cases.
    """
    array = np.asarray(features, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] == 0:
        raise ValueError(f"{name} has the shape {array.shape}; (N, D) is needed, one row for each case")
    if len(array) < n_min:
        raise TooFewCasesError(f"{name} has {len(array)} cases; this measure needs at least {n_min}")
    if not np.isfinite(array).all():
        rows = np.flatnonzero(~np.isfinite(array).all(axis=1))
        raise NotMeasurableError(
            f"{name} holds values that are not finite, first in row {rows[0]}; leave such cases out"
        )
    return array


def check_two_sets(first: npt.ArrayLike, second: npt.ArrayLike, *, n_min: int = 2) -> tuple[Floats, Floats]:
    """Return two sets of features of the same width as float64.

    Raises:
        ValueError: as `check_features`, or where the numbers of columns differ.
        TooFewCasesError: for fewer than `n_min` cases in either.
    """
    a = check_features(first, "the first set", n_min=n_min)
    b = check_features(second, "the second set", n_min=n_min)
    if a.shape[1] != b.shape[1]:
        raise ValueError(
            f"the sets have {a.shape[1]} and {b.shape[1]} features; extract both with the same settings"
        )
    return a, b


def check_weights(weights: npt.ArrayLike | None, n: int) -> Floats:
    """Return weights as (n,) float64, all 1 where none are given.

    Raises:
        ValueError: for another shape, a negative weight, or none above 0.
    """
    if weights is None:
        return np.ones(n)
    array = np.asarray(weights, dtype=np.float64)
    if array.shape != (n,) or not (array >= 0).all() or not array.any():
        raise ValueError(
            f"weights of shape {array.shape} are given; ({n},) numbers >= 0, not all 0, are needed"
        )
    return array


def check_volume(volume: npt.ArrayLike) -> Floats:
    """Return a volume as (X, Y, Z) float64.

    Raises:
        ValueError: for another number of axes, or an empty axis.
        NotMeasurableError: for values that are not finite.
    """
    array = np.asarray(volume, dtype=np.float64)
    if array.ndim != 3 or 0 in array.shape:
        raise ValueError(f"the volume has the shape {array.shape}; (X, Y, Z) is needed")
    if not np.isfinite(array).all():
        raise NotMeasurableError(
            f"the volume holds {int((~np.isfinite(array)).sum())} voxels that are not finite; "
            "repair or leave it out"
        )
    return array
