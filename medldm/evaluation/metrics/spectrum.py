"""Radial power spectrum of volumes, in cycles per millimetre, and how far two sets' spectra lie apart.

Blur, checkerboards and missing or added noise show here, at the frequency where they act, whatever the
anatomy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.fft import rfftn

from medldm.evaluation.errors import NotMeasurableError
from medldm.evaluation.metrics.checks import Floats, check_features, check_volume, check_weights


class RadialSpectrum(NamedTuple):
    """Mean power in shells of frequency.

    Attributes:
        frequency: (K,) middle of each shell, in cycles per mm.
        power: (K,) mean squared magnitude of the Fourier coefficients, divided by the number of voxels: white
            noise of variance v has the power v in every shell. NaN where a shell has no coefficient.
    """

    frequency: Floats
    power: Floats


def radial_power_spectrum(
    volume: npt.ArrayLike,
    spacing_mm: Sequence[float],
    *,
    n_shells: int = 16,
    highest: float | None = None,
    window: bool = True,
) -> RadialSpectrum:
    """Average the power of a volume over shells of equal spatial frequency.

    Args:
        volume: (X, Y, Z), finite.
        spacing_mm: of each axis.
        n_shells: of equal width between 0 and `highest`.
        highest: in cycles per mm; without it the Nyquist frequency of the coarsest axis, 1 / (2 max spacing).
            Give the same value for volumes to be compared.
        window: subtract the mean and taper towards the borders with a Hann window, so that the jump between
            opposite faces does not hide the high frequencies.

    Raises:
        ValueError: for a volume, spacing or shells that do not fit.
    """
    image = check_volume(volume)
    spacing = np.asarray(spacing_mm, dtype=np.float64)
    if spacing.shape != (3,) or not (spacing > 0).all():
        raise ValueError(f"spacing_mm is {tuple(spacing_mm)}; three numbers above 0, in mm, are needed")
    top = 0.5 / spacing.max() if highest is None else highest
    if n_shells < 2 or not top > 0:
        raise ValueError(
            f"n_shells {n_shells} and highest {top} are given; at least 2 and above 0 are needed"
        )
    squared = np.abs(rfftn(_taper(image) if window else image)) ** 2 / image.size
    shell, count = _shells(image.shape, spacing, n_shells=n_shells, highest=top)
    inside = shell < n_shells
    total, number = (
        np.bincount(shell[inside], weights=each[inside], minlength=n_shells)
        for each in (squared * count, np.broadcast_to(count, shell.shape))
    )
    power = np.where(number > 0, total / np.maximum(number, 1), np.nan)
    return RadialSpectrum(frequency=(np.arange(n_shells) + 0.5) * top / n_shells, power=power)


def spectral_distance(
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    *,
    weights: tuple[npt.ArrayLike | None, npt.ArrayLike | None] = (None, None),
) -> float:
    """Return the root-mean-square difference of two sets' mean spectra, in decibels.

    Args:
        first: (N, K) power of each case in the same shells, above 0 (`power_of_cases`).
        second: (M, K).
        weights: how often each case counts, for the bootstrap.

    Returns:
        0 for equal spectra; a gain g of all intensities gives |20 log10 g|.

    Raises:
        ValueError: for arrays that do not fit.
        NotMeasurableError: for power that is not above 0.
    """
    a, b = (_mean_decibels(each, w) for each, w in zip((first, second), weights, strict=True))
    if a.shape != b.shape:
        raise ValueError(
            f"spectra of {len(a)} and {len(b)} shells are given; use the same n_shells and highest"
        )
    return float(np.sqrt(((a - b) ** 2).mean()))


def power_of_cases(
    volumes: Sequence[npt.ArrayLike], spacing_mm: Sequence[float], *, n_shells: int = 16
) -> Floats:
    """Return the power (N, n_shells) of volumes of one spacing in the shells of `radial_power_spectrum`.

    Each volume is divided by its standard deviation first, so that units do not count, only the shape.

    Raises:
        ValueError: for no volumes.
        NotMeasurableError: for a volume without contrast.
    """
    rows = []
    for volume in volumes:
        image = check_volume(volume)
        if image.std() == 0:
            raise NotMeasurableError(
                "a volume has one value everywhere; its spectrum has no shape. Leave it out"
            )
        rows.append(radial_power_spectrum(image / image.std(), spacing_mm, n_shells=n_shells).power)
    return np.stack(rows)


def _taper(image: Floats) -> Floats:
    tapered = image - image.mean()
    for axis, size in enumerate(image.shape):
        # The half-sample Hann window is nowhere 0, so that an axis of one voxel survives.
        window = np.sin(np.pi * (np.arange(size) + 0.5) / size) ** 2
        window /= np.sqrt((window**2).mean())
        tapered = tapered * window.reshape([-1 if each == axis else 1 for each in range(3)])
    return tapered


def _shells(
    shape: tuple[int, ...], spacing: Floats, *, n_shells: int, highest: float
) -> tuple[npt.NDArray[np.int64], Floats]:
    """Return the shell of each coefficient of rfftn and how many coefficients of fftn it stands for."""
    x, y = (np.fft.fftfreq(size, d=step) for size, step in zip(shape[:2], spacing[:2], strict=True))
    z = np.fft.rfftfreq(shape[2], d=spacing[2])
    radius = np.sqrt(x[:, None, None] ** 2 + y[:, None] ** 2 + z**2)
    count = np.full(len(z), 2.0)
    count[0] = 1.0
    if shape[2] % 2 == 0:
        count[-1] = 1.0
    # The Nyquist frequency itself belongs to the last shell, in spite of rounding.
    shell = np.floor(radius / highest * n_shells * (1 - 1e-12)).astype(np.int64)
    return np.minimum(shell, n_shells), count


def _mean_decibels(power: npt.ArrayLike, weights: npt.ArrayLike | None) -> Floats:
    array = check_features(power, "power", n_min=1)
    if not (array > 0).all():
        raise NotMeasurableError(
            "power that is 0 or less has no decibels; leave volumes without contrast out"
        )
    w = check_weights(weights, len(array))
    return w @ (10 * np.log10(array)) / w.sum()
