"""How well a segmentation agrees with the truth: Dice and Hausdorff distance, structure by structure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from scipy.ndimage import binary_erosion, distance_transform_edt

from medldm.data.overlap import count_overlap, dice_coefficients
from medldm.evaluation.metrics.checks import Floats


def dice_scores(predicted: npt.ArrayLike, truth: npt.ArrayLike, *, n_structures: int) -> Floats:
    """Return the Dice coefficient (K,) of structures 1..K; NaN where neither map has the structure."""
    a, b = (torch.from_numpy(np.ascontiguousarray(each)) for each in (predicted, truth))
    counts = count_overlap(a, b, n_structures + 1)
    return dice_coefficients(counts)[1:].numpy()


def hausdorff95_mm(
    predicted: npt.ArrayLike, truth: npt.ArrayLike, spacing_mm: Sequence[float], *, n_structures: int
) -> Floats:
    """Return the 95th percentile Hausdorff distance (K,) of structures 1..K in mm.

    The larger of the two directions' 95th percentiles of distances from surface voxels to the other surface.
    A structure that only one map has gets the volume's diagonal, so that missing it never improves a mean;
    NaN where neither has it.
    """
    a, b = np.asarray(predicted), np.asarray(truth)
    edges = np.asarray(spacing_mm, dtype=np.float64)
    diagonal = float(np.linalg.norm(np.array(a.shape) * edges))
    distances = []
    for structure in range(1, n_structures + 1):
        first, second = (mask & ~binary_erosion(mask) for mask in (a == structure, b == structure))
        if first.any() and second.any():
            ways = ((first, second), (second, first))
            to_other = [distance_transform_edt(~there, sampling=tuple(edges))[here] for here, there in ways]
            distances.append(max(float(np.percentile(each, 95)) for each in to_other))
        else:
            distances.append(diagonal if first.any() or second.any() else np.nan)
    return np.array(distances, dtype=np.float64)


def only_known(scores: npt.ArrayLike, known: npt.NDArray[np.bool_] | None) -> Floats:
    """Return scores (..., K) with NaN for structures that the true map does not cover.

    Args:
        scores: of structures.
        known: of the scores' shape, or one that broadcasts to it; None where the map covers all.
    """
    values = np.asarray(scores, dtype=np.float64)
    return values if known is None else np.where(known, values, np.nan)


def choose_column(scores: Floats, structure: int | None) -> Floats:
    """Return one structure's scores (N,), or each case's mean over the structures that have one."""
    if structure is not None:
        return scores[:, structure]
    counts = np.isfinite(scores).sum(axis=1)
    return np.where(counts > 0, np.nansum(scores, axis=1) / np.maximum(counts, 1), np.nan)


def weighted_mean(column: Floats, weights: Floats) -> float:
    """Return the weighted mean of the entries that are not NaN; NaN where the weights leave none."""
    known = np.isfinite(column) & (weights > 0)
    if not known.any():
        return float("nan")
    return float(weights[known] @ column[known] / weights[known].sum())
