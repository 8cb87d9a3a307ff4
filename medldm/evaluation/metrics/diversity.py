"""How much the cases of a set differ from each other, real beside synthetic.

A model that draws the same few volumes again and again has a high similarity between its samples (MS-SSIM)
and a small distance between their features, next to those of real subjects. One that gives all volumes the
same brightness, contrast or grain has both like patients' nearly, and small spreads of these three.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from monai.metrics.regression import KernelType, compute_ms_ssim

from medldm.evaluation.errors import NotMeasurableError, TooFewCasesError
from medldm.evaluation.metrics.checks import Floats, check_features, check_volume, check_weights

MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Of the scales, from fine to coarse; Wang et al. 2003, Section 3.2."""
IndexPairs = npt.NDArray[np.int64]


def choose_pairs(n: int, *, n_pairs: int = 200, seed: int = 0) -> IndexPairs:
    """Draw different pairs i < j of n cases.

    Returns:
        (P, 2), all n (n - 1) / 2 pairs where there are no more than `n_pairs`.

    Raises:
        TooFewCasesError: for fewer than 2 cases.
    """
    if n < 2:
        raise TooFewCasesError(f"{n} case; pairs need at least 2")
    every = np.stack(np.triu_indices(n, 1), axis=1)
    if len(every) <= n_pairs:
        return every
    return every[np.sort(np.random.default_rng(seed).permutation(len(every))[:n_pairs])]


def pairwise_ms_ssim(
    volumes: Sequence[npt.ArrayLike], pairs: IndexPairs, *, data_range: float, batch_size: int = 16
) -> Floats:
    """Return the multi-scale structural similarity of pairs of volumes.

    Volumes too small for five scales get as many as fit, with the paper's weights for those, made to sum to
    1.

    Args:
        volumes: each (X, Y, Z), all of one shape, at least 7 voxels along each axis.
        pairs: (P, 2) indices, from `choose_pairs`.
        data_range: span of the intensities, such as 2 for [-1, 1]; the same for the sets compared.
        batch_size: pairs at a time.

    Returns:
        (P,), 1 for equal volumes; negative similarities at a scale count as 0.

    Raises:
        ValueError: for shapes that differ, or a range not above 0.
        NotMeasurableError: for volumes that are too small.

    Source: Wang, Simoncelli and Bovik 2003, Eq. 7, as monai.metrics.regression.compute_ms_ssim computes it.
    """
    arrays = [check_volume(volume) for volume in volumes]
    if len({array.shape for array in arrays}) != 1:
        raise ValueError(
            f"volumes of shapes {sorted({a.shape for a in arrays})} are given; crop or pad to one shape"
        )
    if not data_range > 0:
        raise ValueError(f"data_range is {data_range}; the span of the intensities, above 0, is needed")
    kernel_size, weights = _fit_scales(min(arrays[0].shape))
    stack = torch.from_numpy(np.stack(arrays).astype(np.float32))[:, None]
    values = []
    for start in range(0, len(pairs), batch_size):
        first, second = torch.from_numpy(pairs[start : start + batch_size]).T
        similarity = compute_ms_ssim(
            stack[first],
            stack[second],
            spatial_dims=3,
            data_range=data_range,
            kernel_type=KernelType.GAUSSIAN,
            kernel_size=kernel_size,
            kernel_sigma=1.5 * kernel_size / 11,
            weights=weights,
        )
        values.append(similarity.flatten())
    return torch.cat(values).double().numpy()


def pairwise_feature_distance(features: npt.ArrayLike, pairs: IndexPairs) -> Floats:
    """Return the Euclidean distance (P,) of the features (N, D) of each pair.

    Raises:
        ValueError: for features that do not fit.
    """
    array = check_features(features, "features")
    return np.linalg.norm(array[pairs[:, 0]] - array[pairs[:, 1]], axis=1)


def mean_over_pairs(
    values: npt.ArrayLike, pairs: IndexPairs, *, weights: npt.ArrayLike | None, n: int
) -> float:
    """Return the mean of pair values, each pair weighted with the product of its cases' weights.

    Args:
        values: (P,).
        pairs: (P, 2).
        weights: (n,) how often each case counts, for the bootstrap.
        n: number of cases.

    Returns:
        NaN where the weights leave no pair.
    """
    w = check_weights(weights, n)
    of_pairs = w[pairs[:, 0]] * w[pairs[:, 1]]
    total = of_pairs.sum()
    return float(of_pairs @ np.asarray(values, dtype=np.float64) / total) if total > 0 else math.nan


def case_statistics(volume: npt.ArrayLike) -> Floats:
    """Return brightness, contrast and grain of a volume (X, Y, Z), (3,) in its units.

    They are the mean, the standard deviation, and the root mean square of the differences of neighbours over
    sqrt(2), which of white noise is its standard deviation.

    Raises:
        ValueError: for an array that is no volume, or holds what is no number.
    """
    array = check_volume(volume).astype(np.float64)
    squares = np.concatenate([np.diff(array, axis=axis).ravel() ** 2 for axis in range(array.ndim)])
    grain = math.sqrt(squares.mean() / 2) if squares.size else 0.0
    return np.array([array.mean(), array.std(), grain])


def spread_over_cases(values: npt.ArrayLike, *, weights: npt.ArrayLike | None = None) -> float:
    """Return the standard deviation of values (n,) over cases, unbiased in its square.

    Args:
        values: one for each case.
        weights: (n,) how often each case counts, for the bootstrap.

    Returns:
        NaN where the weights leave one case.
    """
    array = np.asarray(values, dtype=np.float64)
    w = check_weights(weights, len(array))
    total = float(w.sum())
    if total <= 1:
        return math.nan
    deviations = array - w @ array / total
    return math.sqrt(float(w @ deviations**2) / (total - 1))


def _fit_scales(shortest: int) -> tuple[int, tuple[float, ...]]:
    """Return kernel size and weights: the paper's kernel of 11 voxels where 3 scales hold it, else 7."""
    for kernel_size, fewest in ((11, 3), (7, 1)):
        # The coarsest scale must hold one kernel, also by MONAI's own stricter rule.
        n_scales = sum(shortest // max(2**n, n**2) >= kernel_size for n in range(len(MS_SSIM_WEIGHTS)))
        if n_scales >= fewest:
            kept = MS_SSIM_WEIGHTS[:n_scales]
            return kernel_size, tuple(weight / sum(kept) for weight in kept)
    raise NotMeasurableError(f"the shortest axis has {shortest} voxels; MS-SSIM needs at least 7")
