"""Radiomics-like features of a volume: first order, texture (GLCM) and wavelet energies.

Needs no pretrained network, so that its distances mean the same in every laboratory. First order and GLCM
follow the definitions of PyRadiomics 3.0.1; its Energy and TotalEnergy, which grow with the number of voxels,
are left out.
"""

from __future__ import annotations

from itertools import product

import numpy as np
import numpy.typing as npt

from medldm.evaluation.errors import NotMeasurableError
from medldm.evaluation.features.glcm import co_occurrence, glcm_features
from medldm.evaluation.metrics.checks import Floats, check_volume


def radiomics_features(
    volume: npt.ArrayLike,
    mask: npt.ArrayLike | None = None,
    *,
    n_bins: int = 32,
    limits: tuple[float, float] | None = None,
) -> dict[str, float]:
    """Return the features of one volume by name.

    Args:
        volume: (X, Y, Z), finite.
        mask: (X, Y, Z), voxels that count for first order and texture; without it all. Wavelets see the whole
            volume.
        n_bins: grey levels.
        limits: intensities of the first and last level's outer edges, the same for the sets compared; voxels
            beyond count to those levels. Without it the volume's own range, which hides differences of gain
            and offset from the texture.

    Returns:
        16 first-order features, 22 of texture, 7 for each of 2 wavelet levels and 1 for the rest.

    Raises:
        ValueError: for arrays that do not fit, an empty mask, fewer than 2 bins, or limits out of order.
    """
    image = check_volume(volume)
    inside = np.ones(image.shape, dtype=bool) if mask is None else np.asarray(mask) != 0
    if inside.shape != image.shape or not inside.any():
        raise ValueError(
            f"the mask has the shape {inside.shape} and {int(inside.sum())} voxels, the volume the shape "
            f"{image.shape}; a mask of that shape that is not empty is needed"
        )
    levels = grey_levels(image, inside, n_bins=n_bins, limits=limits)
    features = {f"first_order_{k}": v for k, v in first_order_features(image[inside], levels[inside]).items()}
    texture = glcm_features(co_occurrence(levels, n_levels=n_bins))
    features |= {f"glcm_{name}": value for name, value in texture.items()}
    return features | {f"wavelet_{name}": value for name, value in wavelet_energies(image).items()}


def grey_levels(
    image: Floats, inside: npt.NDArray[np.bool_], *, n_bins: int, limits: tuple[float, float] | None
) -> npt.NDArray[np.int64]:
    """Return grey levels 1 to `n_bins` inside and 0 outside, in bins of equal width."""
    low, high = (float(image[inside].min()), float(image[inside].max())) if limits is None else limits
    if n_bins < 2 or high < low or (limits is not None and high == low):
        raise ValueError(
            f"{n_bins} bins from {low} to {high}; at least 2 bins and limits in order are needed"
        )
    if high == low:
        return inside.astype(np.int64)
    edges = np.linspace(low, high, n_bins + 1)
    return np.where(inside, np.digitize(image, edges).clip(1, n_bins), 0)


def first_order_features(values: npt.ArrayLike, levels: npt.NDArray[np.int64]) -> dict[str, float]:
    """Return 16 features of intensities; Entropy in bits and Uniformity are of their grey levels.

    Args:
        values: (n,) intensities.
        levels: (n,) grey level of each.

    Source: PyRadiomics 3.0.1, radiomics.firstorder. Kurtosis is 3 for a normal distribution.
    """
    x = np.asarray(values, dtype=np.float64)
    p10, p25, p75, p90 = np.percentile(x, (10, 25, 75, 90))
    central = x - x.mean()
    variance = float((central**2).mean())
    robust = x[(x >= p10) & (x <= p90)]
    counts = np.bincount(levels)
    p = counts[counts > 0] / len(x)
    return {
        "10Percentile": float(p10),
        "90Percentile": float(p90),
        "Entropy": float(-(p * np.log2(p)).sum()) + 0.0,
        "InterquartileRange": float(p75 - p25),
        "Kurtosis": float((central**4).mean() / variance**2) if variance > 0 else 0.0,
        "Maximum": float(x.max()),
        "Mean": float(x.mean()),
        "MeanAbsoluteDeviation": float(np.abs(central).mean()),
        "Median": float(np.median(x)),
        "Minimum": float(x.min()),
        "Range": float(np.ptp(x)),
        "RobustMeanAbsoluteDeviation": float(np.abs(robust - robust.mean()).mean()),
        "RootMeanSquared": float(np.sqrt((x**2).mean())),
        "Skewness": float((central**3).mean() / variance**1.5) if variance > 0 else 0.0,
        "Uniformity": float((p**2).sum()),
        "Variance": variance,
    }


def haar_bands(volume: npt.ArrayLike) -> dict[str, Floats]:
    """Split a volume into the 8 bands of one orthonormal Haar step.

    Args:
        volume: (X, Y, Z); an odd axis repeats its last plane.

    Returns:
        "LLL" to "HHH", letters in the order of the axes, each half the size. Their energies sum to
        the volume's.

    Source: Mallat 1989, with the Haar filters (1, 1) / sqrt(2) and (1, -1) / sqrt(2).
    """
    image = check_volume(volume)
    image = np.pad(image, [(0, size % 2) for size in image.shape], mode="edge")
    bands = {"": image}
    for axis in range(3):
        halves: dict[str, Floats] = {}
        for name, band in bands.items():
            even, odd = (band.take(range(start, band.shape[axis], 2), axis=axis) for start in (0, 1))
            halves[name + "L"], halves[name + "H"] = (even + odd) / np.sqrt(2), (even - odd) / np.sqrt(2)
        bands = halves
    return bands


def wavelet_energies(volume: npt.ArrayLike, *, n_levels: int = 2) -> dict[str, float]:
    """Return log10 of the mean squared coefficient of each band, after the volume's mean is taken away.

    Args:
        volume: (X, Y, Z).
        n_levels: halvings, at least 1.

    Returns:
        "1_LLH" to "1_HHH" for the finest level and so on, and "LLL" for what is left; -12 at least.

    Raises:
        NotMeasurableError: for fewer than 1 level, or more than the volume's axes can be halved.
    """
    image = check_volume(volume)
    if n_levels < 1 or min(image.shape) < 2**n_levels:
        raise NotMeasurableError(
            f"{n_levels} levels for a volume of {image.shape}; 1 up to log2 of the shortest axis fit"
        )
    energies, rest = {}, image - image.mean()
    for level in range(1, n_levels + 1):
        bands = haar_bands(rest)
        rest = bands["LLL"]
        for name in map("".join, product("LH", repeat=3)):
            if name != "LLL":
                energies[f"{level}_{name}"] = _log_energy(bands[name])
    return energies | {"LLL": _log_energy(rest)}


def _log_energy(band: Floats) -> float:
    return float(np.log10(max(float((band**2).mean()), 1e-12)))
