"""Change a label map: grow, shrink, remove or add a structure, by millimetres.

Distances are between voxel centres, Euclidean, with the spacing of each axis. So a structure grown by d holds
the voxels whose centre is at most d from one of its own. As its surface lies up to half a voxel beyond its
outermost centres, balls grow and shrink by 0.2 to 0.3 voxels less than d where voxels are isotropic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import ndimage

from medldm.configs import Config
from medldm.errors import ConfigError


@dataclass(kw_only=True)
class LabelChange(Config):
    """Describe a change of one structure.

    Args:
        operation: "grow", "shrink", "remove", or "add" (a ball).
        structure: value in the label map.
        amount_mm: distance to grow or shrink by, or radius of the added ball, in mm; "remove" has none.
        centre: voxel (i, j, k) of the added ball, counted from 0, fractions allowed; only for "add".
        overwrite: values of other structures that "grow" and "add" may take voxels from; background always.
        fill: value of the voxels that "shrink" and "remove" set free; None takes, for each, the value of the
            nearest voxel outside of the structure.

    Raises:
        ValueError: if an argument is outside its range or not the operation's.
    """

    operation: Literal["grow", "shrink", "remove", "add"]
    structure: int
    amount_mm: float | None = None
    centre: tuple[float, ...] | None = None
    overwrite: tuple[int, ...] = ()
    fill: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.structure < 1:
            raise ConfigError(
                f"structure is {self.structure}: a value above 0, which is background, is needed"
            )
        if self.operation == "remove" and self.amount_mm is not None:
            raise ConfigError(f"amount_mm is {self.amount_mm}, but 'remove' removes all: leave it out")
        if self.operation != "remove" and not (self.amount_mm is not None and 0 < self.amount_mm < np.inf):
            raise ConfigError(f"amount_mm is {self.amount_mm}: {self.operation!r} needs a length above 0 mm")
        if (self.operation == "add") != (self.centre is not None):
            raise ConfigError(f"centre is {self.centre}: a voxel (i, j, k) for 'add', none for the others")
        if self.fill == self.structure:
            raise ConfigError(f"fill is {self.fill}, the structure itself: choose another value, or 0")


def change_labels(labels: np.ndarray, change: LabelChange, *, spacing_mm: Sequence[float]) -> np.ndarray:
    """Return a new label map with one structure changed.

    Args:
        labels: (X, Y, Z) integers. Not changed.
        change: what to do.
        spacing_mm: distance of neighbouring voxel centres along each axis, in mm.

    Returns:
        (X, Y, Z) of the same type; a wider one if the structure's value needs it.

    Raises:
        ConfigError: if the structure is not there (unless it is added), or the centre is outside of the map.

    Examples:
        >>> labels = np.zeros((9, 9, 9), np.uint8)
        >>> change = LabelChange(operation="add", structure=1, amount_mm=2, centre=(4, 4, 4))
        >>> ball = change_labels(labels, change, spacing_mm=(1, 1, 1))
        >>> int(ball.sum()), int(labels.sum())
        (33, 0)
    """
    if labels.ndim != 3 or labels.dtype.kind not in "iu":
        raise ValueError(
            f"labels have shape {labels.shape} and type {labels.dtype}: (X, Y, Z) integers needed"
        )
    mask = labels == change.structure
    if change.operation == "add":
        taken = _ball(labels.shape, change, spacing_mm=spacing_mm)
    elif not mask.any():
        raise ConfigError(
            f"no voxel of the label map has the value {change.structure}: it has "
            f"{[int(value) for value in np.unique(labels) if value]}; {change.operation!r} needs it"
        )
    elif change.operation == "grow":
        taken = ndimage.distance_transform_edt(~mask, sampling=spacing_mm) <= change.amount_mm
    else:
        return _set_free(labels, mask, change, spacing_mm=spacing_mm)
    allowed = np.isin(labels, [0, *change.overwrite])
    result = labels.astype(np.promote_types(labels.dtype, np.min_scalar_type(change.structure)))
    result[taken & allowed] = change.structure
    return result


def count_changes(before: np.ndarray, after: np.ndarray) -> dict[int, int]:
    """Return for each value the voxels it has won (above 0) or lost, leaving out those without change."""
    values = np.union1d(before, after)
    counts = {int(value): int((after == value).sum()) - int((before == value).sum()) for value in values}
    return {value: count for value, count in counts.items() if count}


def _ball(shape: tuple[int, ...], change: LabelChange, *, spacing_mm: Sequence[float]) -> np.ndarray:
    centre = change.centre or ()
    if len(centre) != 3 or not all(0 <= c <= n - 1 for c, n in zip(centre, shape, strict=True)):
        raise ConfigError(
            f"centre is {centre}: a voxel (i, j, k) of the map is needed, 0 to {[n - 1 for n in shape]}"
        )
    offsets = [(np.arange(n) - c) * mm for n, c, mm in zip(shape, centre, spacing_mm, strict=True)]
    x, y, z = np.meshgrid(*offsets, indexing="ij", sparse=True)
    return np.sqrt(x**2 + y**2 + z**2) <= (change.amount_mm or 0.0)


def _set_free(
    labels: np.ndarray, mask: np.ndarray, change: LabelChange, *, spacing_mm: Sequence[float]
) -> np.ndarray:
    if mask.all():
        raise ConfigError(f"the value {change.structure} fills the whole map: nothing tells where it ends")
    depth, nearest = ndimage.distance_transform_edt(mask, sampling=spacing_mm, return_indices=True)
    freed = mask if change.operation == "remove" else mask & (depth <= change.amount_mm)
    fill = labels[tuple(nearest)] if change.fill is None else change.fill
    kind = np.promote_types(labels.dtype, np.min_scalar_type(change.fill or 0))
    return np.where(freed, fill, labels).astype(kind)
