"""Fidelity results: every set is compared with the real test set.

The columns of a result are the synthetic set, the real training set and noise, each against the real test
set, which neither the model nor any encoder saw. So compared, copying the training set earns nothing.
Measures that depend on the number of cases are given the same number of each set.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from medldm.evaluation.cases.sets import CaseSet, CaseSets
from medldm.evaluation.features.kinds import CONTRASTIVE, RADIOMICS, FeatureKind
from medldm.evaluation.features.sets import SetFeatures, standardise_sets
from medldm.evaluation.metrics.bootstrap import Estimate, bootstrap_interval, bootstrap_mean
from medldm.evaluation.metrics.checks import Floats, TooFewCasesError
from medldm.evaluation.metrics.frechet import extrapolated_frechet_distance, frechet_distance
from medldm.evaluation.metrics.histograms import HistogramPair, stack_quantiles
from medldm.evaluation.metrics.kernel_distance import (
    median_distance,
    mmd_permutation_test,
    polynomial_kernel,
    rbf_kernel,
    squared_mmd,
)
from medldm.evaluation.metrics.precision_recall import measure_manifolds
from medldm.evaluation.metrics.spectrum import spectral_distance
from medldm.evaluation.sections.metric_result import (
    Column,
    Description,
    MetricResult,
    at_least_zero,
    compute_result,
)

COLUMN_SETS: dict[Column, str] = {"synthetic": "synthetic", "real": "train", "noise": "noise"}

FRECHET = Description(
    key="fidelity.frechet",
    title="Frechet distance (radiomics)",
    meaning="How far the normal distributions of texture and intensity features lie apart.",
    better="lower",
)
MANIFOLD_MEANINGS = {
    "precision": "Share of the set's cases that lie among real test cases.",
    "recall": "Share of real test cases that lie among the set's cases: which kinds of patient it can show.",
    "density": "How densely real test cases surround the set's cases; about 1 for equal distributions.",
    "coverage": "Share of real test cases with a case of the set near by; low where kinds of patient are "
    "missing.",
}


def fidelity_results(
    sets: CaseSets, features: SetFeatures, *, n_resamples: int, seed: int
) -> list[MetricResult]:
    """Compute the fidelity results."""
    make = _Comparison(sets, n_resamples=n_resamples, seed=seed)
    results = [
        make.frechet(features.reduced, FRECHET),
        make.mmd(features.radiomics),
        make.kid(features.radiomics, RADIOMICS),
    ]
    if features.contrastive is not None:
        # Features of length sqrt(D) give kernel values of cosines, not of cosines / D.
        scaled = {name: each * np.sqrt(each.shape[1]) for name, each in features.contrastive.items()}
        results.append(make.kid(scaled, CONTRASTIVE))
    results += make.manifolds(features.reduced)
    results.append(make.spectrum(features.power))
    results += make.histograms()
    return results


def feature_results(
    sets: CaseSets, features: dict[str, Floats], kind: FeatureKind, *, n_resamples: int, seed: int
) -> list[MetricResult]:
    """Compute the Frechet distance and KID in further features.

    Args:
        sets: whose cases they are of.
        features: (N, D) raw, by "train", "test", "synthetic" and "noise", in the order of the cases.
        kind: how the report names them.
        n_resamples: of the intervals.
        seed: of the resamples.

    Raises:
        ValueError: for features that do not fit, or none that varies over the real training set.
    """
    make = _Comparison(sets, n_resamples=n_resamples, seed=seed)
    standardised, reduced = standardise_sets(features)
    description = Description(
        key=f"fidelity.frechet_{kind.key}",
        title=f"Frechet distance ({kind.name})",
        meaning=kind.meaning,
        better="lower",
    )
    return [make.frechet(reduced, description, kind.note), make.kid(standardised, kind)]


class _Comparison:
    """Compare each column's set with the real test set."""

    def __init__(self, sets: CaseSets, *, n_resamples: int, seed: int) -> None:
        self.sets = sets
        self.n_resamples = n_resamples
        self.seed = seed
        self.n_matched = min(len(sets.train), len(sets.test), len(sets.synthetic), len(sets.noise))

    def part(self, column: Column) -> CaseSet:
        part: CaseSet = getattr(self.sets, COLUMN_SETS[column])
        return part

    def interval(
        self, column: Column, statistic: Callable[[Floats, Floats], float], *, is_distance: bool = False
    ) -> Estimate:
        """Resample test set and column; a distance, biased upwards, gets the basic interval."""
        estimate = bootstrap_interval(
            statistic,
            [self.sets.test.subjects, self.part(column).subjects],
            n_resamples=self.n_resamples,
            method="basic" if is_distance else "percentile",
            seed=self.seed,
        )
        return at_least_zero(estimate) if is_distance else estimate

    def matched(self, features: dict[str, Floats], name: str) -> npt.NDArray[np.int64]:
        """Return places of as many cases as the smallest set has."""
        order = np.random.default_rng(self.seed).permutation(len(features[name]))
        return np.sort(order[: self.n_matched])

    def frechet(self, features: dict[str, Floats], description: Description, note: str = "") -> MetricResult:
        n_features = features["test"].shape[1]

        def measure(column: Column) -> Estimate:
            name = COLUMN_SETS[column]
            places, test_places = self.matched(features, name), self.matched(features, "test")
            a, b = features["test"][test_places], features[name][places]
            frechet_distance(a, b)
            subjects = [
                [self.sets.test.subjects[place] for place in test_places],
                [self.part(column).subjects[place] for place in places],
            ]
            estimate = bootstrap_interval(
                lambda u, v: frechet_distance(a, b, weights=(u, v), force=True),
                subjects,
                n_resamples=self.n_resamples,
                method="basic",
                seed=self.seed,
            )
            return at_least_zero(estimate)

        note = f"{n_features} principal components, {self.n_matched} cases of each set. {note}".strip()
        try:
            infinite = extrapolated_frechet_distance(features["test"], features["synthetic"], seed=self.seed)
            note += f" Extrapolated to infinitely many cases: {infinite:.3g}."
        except TooFewCasesError:
            pass
        return compute_result(description, measure, note=note)

    def kid(self, features: dict[str, Floats], kind: FeatureKind) -> MetricResult:
        within = {name: polynomial_kernel(each, each) for name, each in features.items()}
        between = {name: polynomial_kernel(features["test"], each) for name, each in features.items()}
        description = Description(
            key=f"fidelity.kid_{kind.key}",
            title=f"Kernel distance, KID ({kind.name})",
            meaning=kind.meaning,
            better="lower",
        )

        def measure(column: Column) -> Estimate:
            name = COLUMN_SETS[column]
            return self.interval(
                column,
                lambda u, v: squared_mmd(within["test"], within[name], between[name], weights=(u, v)),
            )

        return compute_result(description, measure, note=kind.note)

    def mmd(self, features: dict[str, Floats]) -> MetricResult:
        width = median_distance(features["train"])
        kernels = {
            name: (
                rbf_kernel(each, each, bandwidth=width),
                rbf_kernel(features["test"], each, bandwidth=width),
            )
            for name, each in features.items()
        }

        def measure(column: Column) -> Estimate:
            within, between = kernels[COLUMN_SETS[column]]
            return self.interval(
                column, lambda u, v: squared_mmd(kernels["test"][0], within, between, weights=(u, v))
            )

        tests = {
            column: mmd_permutation_test(
                features["test"], features[name], bandwidth=width, seed=self.seed
            ).p_value
            for column, name in COLUMN_SETS.items()
        }
        note = (
            f"Permutation test against the real test set: p = {tests['synthetic']:.3f} for synthetic, "
            f"{tests['real']:.3f} for real training cases. A small p says that the two can be told apart."
        )
        description = Description(
            key="fidelity.mmd",
            title="Kernel distance, MMD (radiomics)",
            meaning="The same comparison with a kernel that sees every kind of difference at the scale of "
            "typical patients.",
            better="lower",
        )
        return compute_result(description, measure, note=note)

    def manifolds(self, features: dict[str, Floats]) -> list[MetricResult]:
        cache = {}

        def scores(column: Column) -> tuple[dict[str, Floats], list[int]]:
            name = COLUMN_SETS[column]
            if column not in cache:
                places = self.matched(features, name)
                result = measure_manifolds(features["test"], features[name][places])
                cache[column] = (vars(result), [self.part(column).subjects[place] for place in places])
            return cache[column]

        def measure(column: Column, key: str) -> Estimate:
            values, subjects = scores(column)
            of_test = key in ("recall", "coverage")
            return bootstrap_mean(
                values[key], self.sets.test.subjects if of_test else subjects, seed=self.seed
            )

        return [
            compute_result(
                Description(key=f"fidelity.{key}", title=key.capitalize(), meaning=meaning, better="higher"),
                lambda column, key=key: measure(column, key),  # type: ignore[misc]
            )
            for key, meaning in MANIFOLD_MEANINGS.items()
        ]

    def spectrum(self, power: dict[str, Floats]) -> MetricResult:
        def measure(column: Column) -> Estimate:
            if not self.sets.same_spacing:
                raise ValueError(
                    "the sets' files have different spacings; resampling to one grid changes the spectrum by "
                    "itself"
                )
            return self.interval(
                column,
                lambda u, v: spectral_distance(power["test"], power[COLUMN_SETS[column]], weights=(u, v)),
                is_distance=True,
            )

        description = Description(
            key="fidelity.spectrum",
            title="Power spectrum",
            meaning="How far the sharpness differs: blur, added noise and checkerboards show here.",
            better="lower",
            unit="dB",
        )
        return compute_result(description, measure)

    def histograms(self) -> list[MetricResult]:
        structures: list[tuple[int | None, str]] = [(None, "whole volume")]
        if self.sets.schema is not None and self.sets.synthetic.labels is not None:
            structures += [(0, "background"), *self.sets.schema.structures.items()]
        return [self._histogram(structure, name) for structure, name in structures]

    def _histogram(self, structure: int | None, name: str) -> MetricResult:
        def quantiles(part: CaseSet) -> Floats:
            labels: Sequence[npt.ArrayLike | None] = part.labels or [None] * len(part)
            return stack_quantiles(list(zip(part.images, labels, strict=True)), structure=structure)

        def measure(column: Column) -> Estimate:
            if self.sets.is_ct and not self.sets.same_units:
                raise ValueError("the synthetic images are not in the real images' intensity units")
            pair = HistogramPair(quantiles(self.sets.test), quantiles(self.part(column)))
            return self.interval(column, lambda u, v: _or_nan(pair.distance, u, v), is_distance=True)

        unit = "HU" if self.sets.is_ct else "of range"
        description = Description(
            key=f"fidelity.histogram_{'volume' if structure is None else structure}",
            title=f"Intensities, {name}",
            meaning="How far the intensities of this tissue are shifted or spread otherwise (Wasserstein "
            "distance).",
            better="lower",
            unit=unit,
        )
        return compute_result(description, measure)


def _or_nan(statistic: Callable[..., float], *weights: Floats) -> float:
    """Return NaN where a resample leaves no case, so that the bootstrap leaves the resample out."""
    try:
        return statistic(*weights)
    except TooFewCasesError:
        return float("nan")
