"""Texture features of the grey-level co-occurrence matrix (GLCM), in 3D.

P(i, j) is how often grey levels i and j lie next to each other in a direction, counted both ways and made to
sum to 1. Each feature is taken in each of the 13 directions of a voxel's 26 neighbours and averaged, as
PyRadiomics does with its default settings. Its SumAverage (twice JointAverage) and SumSquares (a quarter of
Contrast plus ClusterTendency) say nothing new and are left out.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from medldm.evaluation.errors import NotMeasurableError
from medldm.evaluation.metrics.anatomy import DIRECTIONS
from medldm.evaluation.metrics.checks import Floats

_EPSILON = float(np.spacing(1))


def co_occurrence(levels: npt.NDArray[np.integer], *, n_levels: int) -> Floats:
    """Count neighbouring grey levels.

    Args:
        levels: (X, Y, Z) integers from 1 to `n_levels`; 0 is outside.
        n_levels: number of grey levels.

    Returns:
        (A, n_levels, n_levels), symmetric, each summing to 1; directions without a pair are left out.

    Raises:
        ValueError: for levels out of range.
        NotMeasurableError: for no pair of neighbours in any direction.

    Source: Haralick et al. 1973, Section III.
    """
    if levels.ndim != 3 or levels.min() < 0 or levels.max() > n_levels:
        raise ValueError(
            f"levels of shape {levels.shape} from {levels.min()} to {levels.max()} are given; (X, Y, Z) "
            f"from 0 to {n_levels} is needed"
        )
    matrices = []
    for direction in DIRECTIONS:
        # Every voxel that has a neighbour in this direction, and that neighbour.
        here, there = (
            tuple(slice(max(-s, 0), n - max(s, 0)) for s, n in zip(steps, levels.shape, strict=True))
            for steps in (direction, [-step for step in direction])
        )
        pairs = levels[here].ravel() * (n_levels + 1) + levels[there].ravel()
        joint = np.bincount(pairs, minlength=(n_levels + 1) ** 2)
        counts = joint.reshape(n_levels + 1, n_levels + 1)[1:, 1:].astype(np.float64)
        if counts.any():
            matrices.append((counts + counts.T) / (2 * counts.sum()))
    if not matrices:
        raise NotMeasurableError(
            "no two voxels of the region are neighbours; a texture needs a larger region"
        )
    return np.stack(matrices)


def glcm_features(p: Floats) -> dict[str, float]:
    """Return 22 features of co-occurrence matrices, each the mean over directions.

    Args:
        p: (A, G, G), from `co_occurrence`; levels that never occur do not matter.

    Source: PyRadiomics 3.0.1, radiomics.glcm; van Griethuysen et al. 2017; names are its own.
    """
    i, j = np.meshgrid(*2 * [np.arange(1, p.shape[1] + 1, dtype=np.float64)], indexing="ij")
    each = _moments(p, i, j) | _of_differences(p, i, j) | _of_entropies(p)
    return {name: float(values.mean()) for name, values in each.items()}


def _moments(p: Floats, i: Floats, j: Floats) -> dict[str, Floats]:
    def mean(values: Floats) -> Floats:
        return (p * values).sum(axis=(1, 2))

    centre = mean(i)
    variance = mean(i**2) - centre**2
    # A matrix of one level has no variance; its correlation counts as 1.
    covariance = mean(i * j) - centre**2
    flat = variance < 1e-12
    from_centre = i + j - 2 * centre[:, None, None]
    return {
        "Autocorrelation": mean(i * j),
        "JointAverage": centre,
        "ClusterTendency": mean(from_centre**2),
        "ClusterShade": mean(from_centre**3),
        "ClusterProminence": mean(from_centre**4),
        "Correlation": np.where(flat, 1.0, covariance / np.where(flat, 1.0, variance)),
        "JointEnergy": (p**2).sum(axis=(1, 2)),
        "MaximumProbability": p.max(axis=(1, 2)),
    }


def _of_differences(p: Floats, i: Floats, j: Floats) -> dict[str, Floats]:
    n_levels = p.shape[1]
    step = np.abs(i - j).astype(np.int64)
    of_step = np.stack([p[:, step == k].sum(axis=1) for k in range(n_levels)], axis=1)
    # Normalised features divide by the highest level that occurs.
    highest = float(np.flatnonzero(p.any(axis=(0, 1)))[-1] + 1)
    k = np.arange(n_levels, dtype=np.float64)
    average = of_step @ k
    return {
        "Contrast": of_step @ k**2,
        "DifferenceAverage": average,
        "DifferenceVariance": of_step @ k**2 - average**2,
        "DifferenceEntropy": _entropy(of_step, axis=1),
        "Id": of_step @ (1 / (1 + k)),
        "Idm": of_step @ (1 / (1 + k**2)),
        "Idn": of_step @ (1 / (1 + k / highest)),
        "Idmn": of_step @ (1 / (1 + (k / highest) ** 2)),
        "InverseVariance": of_step[:, 1:] @ (1 / k[1:] ** 2),
    }


def _of_entropies(p: Floats) -> dict[str, Floats]:
    n_levels = p.shape[1]
    margin = p.sum(axis=2)
    independent = margin[:, :, None] * margin[:, None, :]
    joint, single = _entropy(p, axis=(1, 2)), _entropy(margin, axis=1)
    cross = -(p * np.log2(independent + _EPSILON)).sum(axis=(1, 2))
    excess = np.maximum(_entropy(independent, axis=(1, 2)) - joint, 0)
    flat = single < 1e-12
    sums = np.stack(
        [np.trace(p[:, ::-1], offset=k, axis1=1, axis2=2) for k in range(1 - n_levels, n_levels)], axis=1
    )
    return {
        "JointEntropy": joint,
        "SumEntropy": _entropy(sums, axis=1),
        "Imc1": np.where(flat, 0.0, (joint - cross) / np.where(flat, 1.0, single)),
        "Imc2": np.sqrt(1 - np.exp(-2 * excess)),
        "MCC": _second_correlation(p, margin),
    }


def _second_correlation(p: Floats, margin: Floats) -> Floats:
    """Second largest |eigenvalue| of P(i, j) / sqrt(p(i) p(j)); its square is that of Haralick's Q."""
    root = np.sqrt(np.where(margin > 0, margin, 1.0))
    eigenvalues = np.abs(np.linalg.eigvalsh(p / (root[:, :, None] * root[:, None, :])))
    several = (margin > 0).sum(axis=1) > 1
    return np.where(several, np.sort(eigenvalues, axis=1)[:, -2] if p.shape[1] > 1 else 1.0, 1.0)


def _entropy(p: Floats, *, axis: int | tuple[int, ...]) -> Floats:
    return -(p * np.log2(p + _EPSILON)).sum(axis=axis)
