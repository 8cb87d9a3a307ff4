"""What a picture of a brain shows of its contrast, its fluid and its anatomy, measured in the picture itself.

The measures take a skull-stripped brain in any units, e.g. of the demonstration cohort. None is told what was
asked for: whether fluid is dark (T1-like) or bright (T2-like) is measured too, so that a model that ignores
its conditions scores like chance.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Volume = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

FOREGROUND = 0.12
"""Share of the range of intensities, above the background's, from which a voxel is brain."""

CONTRAST_DEPTH_MM, FLUID_DEPTH_MM = 24.0, 28.0
"""How deep in the brain contrast and fluid are measured: away from the fluid on its surface."""

FLUID_PERCENTILE, FLUID_SHARE = 1.0, 0.4
"""A voxel is fluid if it lies within this share of the way from this percentile to the median."""


def brain_mask(image: npt.ArrayLike) -> Mask:
    """Find the brain: the largest bright component, its holes filled.

    Args:
        image: (X, Y, Z), background darkest.

    Raises:
        ValueError: for another number of axes or numbers that are not finite.
    """
    volume = _check_image(image)
    low, high = np.percentile(volume, (0.5, 99.0))
    components, n_components = ndimage.label(volume > low + FOREGROUND * (high - low))
    if n_components == 0:
        return np.zeros(volume.shape, dtype=bool)
    sizes = np.bincount(components.ravel())[1:]
    return ndimage.binary_fill_holes(components == 1 + sizes.argmax())


def deep_intensities(image: npt.ArrayLike, *, spacing_mm: Sequence[float], depth_mm: float) -> Volume:
    """Return the intensities (n,) of the voxels more than `depth_mm` inside the brain."""
    depth = ndimage.distance_transform_edt(brain_mask(image), sampling=spacing_mm)
    return _check_image(image)[depth > depth_mm]


def contrast_skewness(image: npt.ArrayLike, *, spacing_mm: Sequence[float]) -> float:
    """Measure whether fluid is dark (below 0: T1-like) or bright (above 0: T2-like).

    Fluid is the rarest tissue deep in the brain and the farthest from the mean, so that it makes the tail
    of the intensities: their third standardised moment has its sign.

    Returns:
        The skewness; NaN without a deep brain or without contrast.
    """
    deep = deep_intensities(image, spacing_mm=spacing_mm, depth_mm=CONTRAST_DEPTH_MM)
    if deep.size == 0 or deep.std() == 0:
        return float("nan")
    return float((((deep - deep.mean()) / deep.std()) ** 3).mean())


def deep_fluid_ml(image: npt.ArrayLike, *, spacing_mm: Sequence[float]) -> float:
    """Measure the volume of fluid deep in the brain, mostly of the ventricles.

    Returns:
        ml; NaN without a deep brain or without contrast.
    """
    deep = deep_intensities(image, spacing_mm=spacing_mm, depth_mm=FLUID_DEPTH_MM)
    skewness = contrast_skewness(image, spacing_mm=spacing_mm)
    if deep.size == 0 or np.isnan(skewness):
        return float("nan")
    # Bright fluid becomes the dark end, too.
    ordered = deep if skewness < 0 else -deep
    end, middle = np.percentile(ordered, (FLUID_PERCENTILE, 50.0))
    n_voxels = int((ordered < end + FLUID_SHARE * (middle - end)).sum())
    return n_voxels * float(np.prod(spacing_mm)) / 1000.0


def tissue_means(image: npt.ArrayLike, labels: npt.ArrayLike, *, tissues: Sequence[int]) -> Volume:
    """Return the mean intensity (n,) of each tissue of a label map; NaN for one without a voxel."""
    volume, map_ = _check_pair(image, labels)
    return np.array([volume[map_ == value].mean() if (map_ == value).any() else np.nan for value in tissues])


def map_overlap(image: npt.ArrayLike, labels: npt.ArrayLike, *, tissues: Sequence[int]) -> dict[int, float]:
    """Measure how far the tissues seen in a picture are those of a label map.

    Inside the map's tissues each voxel is given to the tissue whose mean intensity, under this map, is
    nearest. The outline is that of `brain_mask`. Measured with a wrong map, the same picture scores what
    chance gives, for the means are the wrong map's.

    Args:
        image: (X, Y, Z).
        labels: (X, Y, Z) integers.
        tissues: values of the map that make the brain.

    Returns:
        Dice overlap of each tissue, and under the key 0 that of the outline; NaN where both are empty.
    """
    volume, map_ = _check_pair(image, labels)
    inside = np.isin(map_, tissues)
    means = tissue_means(volume, map_, tissues=tissues)
    distances = np.abs(volume[inside][:, None] - np.where(np.isnan(means), np.inf, means))
    found = np.zeros(map_.shape, dtype=np.int64)
    found[inside] = np.asarray(tissues)[distances.argmin(axis=1)]
    overlaps = {value: dice(found == value, map_ == value) for value in tissues}
    return {0: dice(brain_mask(volume), inside), **overlaps}


def dice(first: Mask, second: Mask) -> float:
    """Return 2 |A and B| / (|A| + |B|); NaN where both are empty."""
    total = int(first.sum()) + int(second.sum())
    return 2.0 * int((first & second).sum()) / total if total else float("nan")


def fit_line(asked: npt.ArrayLike, found: npt.ArrayLike) -> tuple[float, float]:
    """Return correlation (Pearson) and slope (least squares) of what was found against what was asked for.

    Pairs with a NaN are left out; NaN for fewer than three pairs or values that do not vary.
    """
    x, y = np.asarray(asked, dtype=np.float64), np.asarray(found, dtype=np.float64)
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(f"asked has the shape {x.shape}, found {y.shape}; both must be the same (n,)")
    known = ~(np.isnan(x) | np.isnan(y))
    x, y = x[known], y[known]
    if x.size < 3 or x.std() == 0 or y.std() == 0:
        return float("nan"), float("nan")
    covariance = float(((x - x.mean()) * (y - y.mean())).mean())
    return covariance / float(x.std() * y.std()), covariance / float(x.var())


def _check_image(image: npt.ArrayLike) -> Volume:
    volume = np.asarray(image, dtype=np.float64)
    if volume.ndim != 3 or not np.isfinite(volume).all():
        raise ValueError(
            f"the image has the shape {volume.shape} and "
            f"{int((~np.isfinite(volume)).sum())} numbers that are not finite; a finite (X, Y, Z) is needed"
        )
    return volume


def _check_pair(image: npt.ArrayLike, labels: npt.ArrayLike) -> tuple[Volume, npt.NDArray]:
    volume, map_ = _check_image(image), np.asarray(labels)
    if volume.shape != map_.shape:
        raise ValueError(
            f"the image has the shape {volume.shape}, the labels {map_.shape}; both must be the same"
        )
    return volume, map_
