"""How far the intensities of a tissue lie apart in two sets: Wasserstein distance of its histograms.

Each case gives the same number of quantiles of the tissue's voxels, so that every case counts the same
whatever the tissue's size, and a set is the pool of its cases' quantiles. The distance is in the intensities'
unit: Hounsfield units for CT.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from medldm.evaluation.errors import TooFewCasesError
from medldm.evaluation.metrics.checks import Floats, check_features, check_volume, check_weights


def tissue_quantiles(
    image: npt.ArrayLike,
    labels: npt.ArrayLike | None = None,
    *,
    structure: int | None = None,
    n_quantiles: int = 200,
) -> Floats:
    """Return evenly spread quantiles of a tissue's intensities.

    Args:
        image: (X, Y, Z), finite.
        labels: (X, Y, Z); needed for a structure.
        structure: value in the labels, 0 for the background; None takes all voxels.
        n_quantiles: at the levels (i + 1/2) / n.

    Returns:
        (n_quantiles,), increasing; NaN where the tissue has no voxel.

    Raises:
        ValueError: for shapes that differ, a structure without labels, or fewer than 1 quantile.
    """
    volume = check_volume(image)
    if n_quantiles < 1:
        raise ValueError(f"n_quantiles is {n_quantiles}; at least 1 is needed")
    values = volume.ravel()
    if structure is not None:
        if labels is None:
            raise ValueError(
                f"structure {structure} is asked for without labels; give the label map or structure=None"
            )
        array = np.asarray(labels)
        if array.shape != volume.shape:
            raise ValueError(
                f"the image has the shape {volume.shape} and the labels {array.shape}; give matching ones"
            )
        values = volume[array == structure]
    if values.size == 0:
        return np.full(n_quantiles, np.nan)
    return np.quantile(values, (np.arange(n_quantiles) + 0.5) / n_quantiles)


class HistogramPair:
    """Two sets' pooled intensities, sorted once, for the many distances of a bootstrap.

    The distance is the integral of |F - G| over the intensities, F and G being the distribution functions.

    Args:
        first: (N, Q) quantiles of each case; rows of NaN are left out.
        second: (M, Q).

    Raises:
        ValueError: for arrays that do not fit.
        TooFewCasesError: where no case of a set shows the tissue.

    Source: Vallender 1974, Calculation of the Wasserstein Distance Between Probability Distributions on the
    Line.

    Examples:
        >>> round(HistogramPair(np.zeros((2, 3)), np.full((4, 3), 7.0)).distance(), 6)
        7.0
    """

    def __init__(self, first: npt.ArrayLike, second: npt.ArrayLike) -> None:
        sets = [np.asarray(rows, dtype=np.float64) for rows in (first, second)]
        self._n = [len(rows) for rows in sets]
        self._shown = [~np.isnan(rows).any(axis=1) for rows in sets]
        if not all(shown.any() for shown in self._shown):
            raise TooFewCasesError("no case of a set shows this tissue")
        kept = [
            check_features(rows[shown], "quantiles", n_min=1)
            for rows, shown in zip(sets, self._shown, strict=True)
        ]
        values = np.concatenate([rows.ravel() for rows in kept])
        n_of_case = np.repeat([rows.shape[1] for rows in kept], [len(rows) for rows in kept])
        case = np.repeat(np.arange(len(n_of_case)), n_of_case)
        order = np.argsort(values, kind="stable")
        self._case, self._gaps = case[order[:-1]], np.diff(values[order])
        self._n_quantiles = [rows.shape[1] for rows in kept]

    def distance(self, first: npt.ArrayLike | None = None, second: npt.ArrayLike | None = None) -> float:
        """Return the 1-Wasserstein distance with these weights (N,) and (M,), all 1 where none are given.

        Raises:
            ValueError: for weights that do not fit.
            TooFewCasesError: where the weights leave no case that shows the tissue.
        """
        masses = []
        for which, given in enumerate((first, second)):
            weight = check_weights(given, self._n[which])[self._shown[which]]
            if not weight.any():
                raise TooFewCasesError("no case of a set shows this tissue")
            masses.append(weight / (weight.sum() * self._n_quantiles[which]))
        # The difference of the two distribution functions between neighbouring values.
        difference = np.cumsum(np.concatenate([masses[0], -masses[1]])[self._case])
        return float(np.abs(difference) @ self._gaps)


def stack_quantiles(
    cases: Sequence[tuple[npt.ArrayLike, npt.ArrayLike | None]], *, structure: int | None = None
) -> Floats:
    """Return the quantiles (N, Q) of one tissue in (image, labels) cases, as `tissue_quantiles`."""
    return np.stack([tissue_quantiles(image, labels, structure=structure) for image, labels in cases])
