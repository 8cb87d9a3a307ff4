"""Resample label maps so that structures keep their volume: linear shares, then the largest wins."""

from __future__ import annotations

import numpy as np

from medldm.transforms.resampling import AxisGrid, Grids, resample_image

_TIE = 1e-6


def resample_labels(labels: np.ndarray, grids: Grids) -> np.ndarray:
    """Resample a label map: each structure's indicator linearly, then the structure with the largest share.

    Boundaries come out smooth and volumes are kept, where nearest neighbours make staircases. Every
    structure is worked on inside its bounding box only. In a tie the structure with the smaller value wins,
    and any structure wins over background.

    Args:
        labels: (X, Y, Z) integers in any dtype.
        grids: one for each axis.

    Returns:
        (X', Y', Z') in the same dtype; only values that were there before.
    """
    shape = tuple(grid.n_out for grid in grids)
    best = np.zeros(shape, dtype=np.float32)
    total = np.zeros(shape, dtype=np.float32)
    result = np.zeros(shape, dtype=labels.dtype)
    for value in distinct_values(labels):
        if value == 0:
            continue
        mask = labels == value
        box = bounding_box(mask)
        target = tuple(_reached(grid, inside) for grid, inside in zip(grids, box, strict=True))
        if any(part.stop <= part.start for part in target):
            continue
        wider = tuple(slice(max(0, part.start - 1), part.stop + 1) for part in box)
        indicator = mask[wider].astype(np.float32)
        parts = zip(grids, wider, target, indicator.shape, strict=True)
        share = resample_image(indicator, tuple(_local(*part) for part in parts), anti_aliasing=False)
        total[target] += share
        is_better = share > best[target] + _TIE
        best[target][is_better] = share[is_better]
        result[target][is_better] = value
    result[best < 1.0 - total - _TIE] = 0
    return result


def distinct_values(labels: np.ndarray) -> np.ndarray:
    """Return the sorted distinct values of a map of non-negative integers, by counting where possible."""
    if labels.size and labels.min() >= 0 and labels.max() < 2**16:
        return np.flatnonzero(np.bincount(labels.reshape(-1).astype(np.uint16)))
    return np.unique(labels)


def bounding_box(mask: np.ndarray) -> tuple[slice, ...]:
    """Return the smallest box of (X, Y, Z) that holds all true voxels; there must be one."""
    box = []
    for axis in range(3):
        hit = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        box.append(slice(int(hit[0]), int(hit[-1]) + 1))
    return tuple(box)


def _reached(grid: AxisGrid, inside: slice) -> slice:
    """Return the output voxels that a structure inside `inside` can reach with a tent of half-width one."""
    low = int(np.floor((inside.start - 1 - grid.start) / grid.step)) + 1
    high = int(np.ceil((inside.stop - grid.start) / grid.step))
    low = 0 if inside.start == 0 else low
    high = grid.n_out if inside.stop == grid.n_in else high
    return slice(max(0, low), min(grid.n_out, high))


def _local(grid: AxisGrid, box: slice, target: slice, n_in: int) -> AxisGrid:
    """Restate a grid for the input voxels from `box.start` on and the output voxels of `target`."""
    start = grid.start + grid.step * target.start - box.start
    return AxisGrid(n_in=n_in, n_out=target.stop - target.start, start=start, step=grid.step)
