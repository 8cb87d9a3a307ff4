"""Fidelity results: every set is compared with the real test set.

The columns of a result are the synthetic set, the real training set and noise, each against the real test
set, which neither the model nor any encoder saw. So compared, copying the training set earns nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache, partial

import numpy as np
import numpy.typing as npt

from medldm.evaluation.cases.sets import CaseSet
from medldm.evaluation.errors import NotMeasurableError
from medldm.evaluation.features.extraction import SetFeatures
from medldm.evaluation.features.space import FeatureKind
from medldm.evaluation.metrics.bootstrap import Estimate
from medldm.evaluation.metrics.checks import Floats
from medldm.evaluation.metrics.histograms import HistogramPair, stack_quantiles
from medldm.evaluation.metrics.kernel_distance import bandwidth_grid, mmd_permutation_test, rbf_mixture
from medldm.evaluation.metrics.precision_recall import (
    K_COVERAGE,
    MIN_CASES,
    K,
    expected_coverage,
    manifold_estimates,
)
from medldm.evaluation.metrics.spectrum import spectral_distance
from medldm.evaluation.sections import feature_distances
from medldm.evaluation.sections.comparison import COLUMN_SETS, Comparison
from medldm.evaluation.sections.metric_result import (
    OWN_COLUMNS,
    Column,
    Description,
    MetricResult,
    compute_result,
)

RADIOMICS = FeatureKind(
    key="radiomics",
    name="radiomics",
    meaning="Whether texture and intensity features are distributed as in real volumes; 0 on average "
    "for equal distributions, whatever the number of cases.",
)
CONTRASTIVE = FeatureKind(
    key="contrastive",
    name="contrastive",
    meaning="The same in features that a small network learned from the real training set, which see "
    "anatomy more than texture.",
)
FRECHET = Description(
    key="fidelity.frechet",
    title="Frechet distance (radiomics)",
    meaning="How far the normal distributions of texture and intensity features lie apart.",
    better="lower",
)
MMD = Description(
    key="fidelity.mmd",
    title="Kernel distance, MMD (radiomics)",
    meaning="The same comparison with Gaussian kernels of several widths, which see every kind of "
    "difference from a quarter to four times the distance of typical patients.",
    better="lower",
)
SPECTRUM = Description(
    key="fidelity.spectrum",
    title="Power spectrum",
    meaning="How far the sharpness differs: blur, added noise and checkerboards show here.",
    better="lower",
    unit="dB",
)
MANIFOLD_MEANINGS = {
    "precision": "Share of the set's cases that lie among real test cases.",
    "recall": "Share of real test cases that lie among the set's cases: which kinds of patient it can show.",
    "density": "How densely real test cases surround the set's cases; about 1 for equal distributions.",
    "coverage": "Share of real test cases with a case of the set near by; low where kinds of patient are "
    "missing.",
}

TOO_FEW_FOR_MANIFOLDS = (
    "Precision, recall, density and coverage were left out: they need at least "
    f"{MIN_CASES} subjects in each set."
)


def fidelity_results(compare: Comparison, features: SetFeatures) -> list[MetricResult]:
    """Compute the fidelity results."""
    results = [
        feature_distances.frechet_result(compare, features.reduced, FRECHET),
        _mmd_result(compare, features.radiomics),
        feature_distances.kid_result(compare, features.radiomics, RADIOMICS),
    ]
    if features.contrastive is not None:
        # Features of length sqrt(D) give kernel values of cosines, not of cosines / D.
        scaled = {name: each * np.sqrt(each.shape[1]) for name, each in features.contrastive.items()}
        results.append(feature_distances.kid_result(compare, scaled, CONTRASTIVE))
    if has_manifolds(compare):
        results += manifold_results(compare, features.reduced, key="", name="radiomics")
        if features.contrastive is not None:
            results += manifold_results(compare, features.contrastive, key="_contrastive", name="contrastive")
    results.append(_spectrum_result(compare, features.power))
    return results + _histogram_results(compare)


def has_manifolds(compare: Comparison) -> bool:
    """Whether the sets are large enough for precision, recall, density and coverage."""
    sets = compare.sets
    return min(len(set(part.subjects)) for part in (sets.train, sets.test, sets.synthetic)) >= MIN_CASES


def _mmd_result(compare: Comparison, features: dict[str, Floats]) -> MetricResult:
    widths = bandwidth_grid(features["train"])
    p_values = {
        column: mmd_permutation_test(
            features["test"], features[COLUMN_SETS[column]], bandwidth=widths, seed=compare.seed
        ).p_value
        for column in OWN_COLUMNS
    }
    note = (
        f"Mean of {len(widths)} widths. Permutation test against the real test set, by the width that sees "
        f"most: p = {p_values['synthetic']:.3f} for synthetic, {p_values['real']:.3f} for real training "
        "cases. A small p says that the two can be told apart."
    )
    result = feature_distances.kernel_result(
        compare, features, partial(rbf_mixture, bandwidths=widths), MMD, note=note
    )
    return replace(result, p_values=p_values)


def manifold_results(
    compare: Comparison, features: dict[str, Floats], *, key: str, name: str
) -> list[MetricResult]:
    """Compute precision, recall, density and coverage in one kind of features.

    Args:
        compare: the sets.
        features: (N, D) by set.
        key: end of the figures' keys; empty for the first kind.
        name: of the features.
    """

    @cache
    def estimates(column: Column) -> dict[str, Estimate]:
        own, subjects = features[COLUMN_SETS[column]], compare.part(column).subjects
        is_paired = column == "ceiling"
        places = np.arange(len(own)) if is_paired else feature_distances.match_cases(compare, len(own))
        return manifold_estimates(
            features["test"],
            own[places],
            subjects=(compare.sets.test.subjects, [subjects[place] for place in places]),
            are_paired=is_paired,
            seed=compare.seed,
        )

    n_test, n_features = features["test"].shape
    n_made = len(feature_distances.match_cases(compare, len(features["synthetic"])))
    of_equal = f" Equal distributions have {expected_coverage(n_test, n_made):.2f}."

    def result(score: str, meaning: str) -> MetricResult:
        k = K if score in ("precision", "recall") else K_COVERAGE
        description = Description(
            key=f"fidelity.{score}{key}",
            title=f"{score.capitalize()} ({name})",
            meaning=meaning,
            better="higher",
        )
        return compute_result(
            description,
            lambda column: estimates(column)[score],
            note=f"k = {k}, {n_features} features.{of_equal if score == 'coverage' else ''}",
            columns=compare.columns,
        )

    return [result(*each) for each in MANIFOLD_MEANINGS.items()]


def _spectrum_result(compare: Comparison, power: dict[str, Floats]) -> MetricResult:
    def measure(column: Column) -> Estimate:
        if not compare.sets.same_spacing:
            raise NotMeasurableError(
                "the sets' files have different spacings; resampling to one grid changes the spectrum by "
                "itself"
            )
        return compare.with_test(
            column,
            lambda u, v: spectral_distance(power["test"], power[COLUMN_SETS[column]], weights=(u, v)),
            is_distance=True,
        )

    return compute_result(SPECTRUM, measure, columns=compare.columns)


def _histogram_results(compare: Comparison) -> list[MetricResult]:
    sets = compare.sets
    structures: list[tuple[int | None, str]] = [(None, "whole volume")]
    if sets.schema is not None and sets.synthetic.labels is not None:
        structures += [(0, "background"), *sets.schema.structures.items()]
    return [_histogram_result(compare, structure, name) for structure, name in structures]


def _histogram_result(compare: Comparison, structure: int | None, name: str) -> MetricResult:
    sets = compare.sets

    def quantiles(part: CaseSet) -> Floats:
        labels: Sequence[npt.ArrayLike | None] = part.labels or [None] * len(part)
        return stack_quantiles(list(zip(part.images, labels, strict=True)), structure=structure)

    def measure(column: Column) -> Estimate:
        if sets.is_ct and not sets.same_units:
            raise NotMeasurableError("the synthetic images are not in the real images' intensity units")
        pair = HistogramPair(quantiles(sets.test), quantiles(compare.part(column)))
        return compare.with_test(column, pair.distance, is_distance=True)

    description = Description(
        key=f"fidelity.histogram_{'volume' if structure is None else structure}",
        title=f"Intensities, {name}",
        meaning="How far the intensities of this tissue are shifted or spread otherwise (Wasserstein "
        "distance).",
        better="lower",
        unit="HU" if sets.is_ct else "of range",
    )
    return compute_result(description, measure, columns=compare.columns)
