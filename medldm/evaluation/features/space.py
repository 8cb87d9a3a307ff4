"""One scale for all features: standardised, and reduced to as many components as the cases can carry."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medldm.evaluation.errors import NotMeasurableError
from medldm.evaluation.metrics.checks import Floats, check_features


@dataclass(frozen=True, kw_only=True)
class FeatureKind:
    """How a report names features.

    Args:
        key: end of the figures' keys.
        name: in brackets after the figures' titles.
        meaning: one sentence about a distance in these features.
        note: about where the features come from.
    """

    key: str
    name: str
    meaning: str
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class FeatureSpace:
    """A linear map from raw features to standardised ones, fitted to the real training set alone.

    Args:
        mean: (D,).
        scale: (D,) standard deviation.
        kept: (D,) features that vary in the training set.
        components: (K, D') principal directions of the kept features, most important first.
    """

    mean: Floats
    scale: Floats
    kept: npt.NDArray[np.bool_]
    components: Floats

    def standardise(self, features: npt.ArrayLike) -> Floats:
        """Return (N, D') features with mean 0 and standard deviation 1 on the training set.

        Raises:
            ValueError: for another number of features than fitted.
        """
        array = check_features(features, "features", n_min=1)
        if array.shape[1] != len(self.mean):
            raise ValueError(f"{array.shape[1]} features are given; the space was fitted to {len(self.mean)}")
        return ((array - self.mean) / self.scale)[:, self.kept]

    def reduce(self, features: npt.ArrayLike, n_components: int) -> Floats:
        """Return the first principal components (N, K) of standardised features.

        Args:
            features: (N, D) raw.
            n_components: K; fewer where the space has fewer.

        Raises:
            ValueError: for another number of features than fitted, or fewer than 1 component.
        """
        if n_components < 1:
            raise ValueError(f"n_components is {n_components}; at least 1 is needed")
        return self.standardise(features) @ self.components[:n_components].T


def fit_feature_space(features: npt.ArrayLike) -> FeatureSpace:
    """Measure mean, scale and principal components of the real training set.

    Args:
        features: (N, D).

    Raises:
        ValueError: for features that do not fit.
        NotMeasurableError: where none varies.
        TooFewCasesError: for fewer than 2 cases.
    """
    array = check_features(features, "the real training set")
    mean, scale = array.mean(axis=0), array.std(axis=0)
    kept = scale > 1e-9 * np.maximum(np.abs(mean), 1e-3)
    if not kept.any():
        raise NotMeasurableError(
            "no feature varies over the real training set; are all its volumes the same?"
        )
    scale = np.where(kept, scale, 1.0)
    standard = ((array - mean) / scale)[:, kept]
    _, singular, components = np.linalg.svd(standard, full_matrices=False)
    return FeatureSpace(
        mean=mean, scale=scale, kept=kept, components=components[singular > 1e-9 * singular[0]]
    )
