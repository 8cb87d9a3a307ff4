"""How much label maps of two sets overlap, every pair of them: which maps are the same anatomy?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from medldm.evaluation.metrics.checks import Floats

CHUNK_VOXELS = 1 << 16
"""Voxels at a time: counts of fewer than 2^24 are exact in float32."""


def overlap_table(
    first: Sequence[npt.ArrayLike],
    second: Sequence[npt.ArrayLike],
    *,
    n_structures: int,
    known: tuple[npt.NDArray[np.bool_] | None, npt.NDArray[np.bool_] | None] = (None, None),
) -> Floats:
    """Return the Dice coefficient of every pair of two sets, the mean over structures.

    Args:
        first: Q maps 0..K of one shape.
        second: T maps of the same.
        n_structures: K.
        known: (Q, K) and (T, K), which structures the maps cover; None for all.

    Returns:
        (Q, T); a structure that neither map of a pair has, or that one of them does not cover, does not
        count; two empty maps agree by 1, two that cover no structure in common by 0.

    Raises:
        ValueError: for no maps, or shapes that differ.

    Source: Dice 1945: 2 |A and B| / (|A| + |B|).
    """
    a, b = (_flatten(each) for each in (first, second))
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"maps of {a.shape[1]} and {b.shape[1]} voxels are given; one shape is needed")
    common = np.zeros((n_structures, len(a), len(b)))
    for start in range(0, a.shape[1], CHUNK_VOXELS):
        parts = [each[:, start : start + CHUNK_VOXELS] for each in (a, b)]
        for structure in np.intersect1d(np.unique(parts[0]), np.unique(parts[1])):
            if 0 < structure <= n_structures:
                masks = [(part == structure).astype(np.float32) for part in parts]
                common[structure - 1] += masks[0] @ masks[1].T
    sizes = [_count(each, n_structures) for each in (a, b)]
    total = sizes[0][:, :, None] + sizes[1][:, None, :]
    dice = np.divide(2 * common, total, out=np.zeros_like(total), where=total > 0)
    if any(each is not None for each in known):
        rows = [
            np.ones((len(each), n_structures), dtype=bool) if of is None else of
            for each, of in zip((a, b), known, strict=True)
        ]
        compared = rows[0].T[:, :, None] & rows[1].T[:, None, :]
        dice, total = np.where(compared, dice, 0.0), np.where(compared, total, 0.0)
        n_counted = (total > 0).sum(axis=0)
        alike = np.where(compared.any(axis=0), 1.0, 0.0)
        return np.where(n_counted > 0, dice.sum(axis=0) / np.maximum(n_counted, 1), alike)
    n_known = (total > 0).sum(axis=0)
    return np.where(n_known > 0, dice.sum(axis=0) / np.maximum(n_known, 1), 1.0)


def _flatten(maps: Sequence[npt.ArrayLike]) -> npt.NDArray[np.int32]:
    arrays = [np.asarray(each) for each in maps]
    if len({each.shape for each in arrays}) != 1:
        raise ValueError(
            f"maps of shapes {sorted({each.shape for each in arrays})} are given; some of each set, cropped "
            "or padded to one shape, are needed"
        )
    return np.stack([each.ravel() for each in arrays]).astype(np.int32)


def _count(maps: npt.NDArray[np.int32], n_structures: int) -> Floats:
    """Return the voxels (K, N) of each structure in each map."""
    counts = [np.bincount(each, minlength=n_structures + 1)[1 : n_structures + 1] for each in maps]
    return np.stack(counts, axis=1).astype(np.float64)
