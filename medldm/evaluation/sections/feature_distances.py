"""Distances between the sets in features of any kind: radiomics, contrastive, latents, a network from a file.

Every set is compared with the real test set. Measures that depend on the number of cases are given the same
number of each set.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from medldm.evaluation.errors import TooFewCasesError
from medldm.evaluation.features.extraction import standardise_sets
from medldm.evaluation.features.space import FeatureKind
from medldm.evaluation.metrics.bootstrap import Estimate
from medldm.evaluation.metrics.checks import Floats
from medldm.evaluation.metrics.frechet import extrapolated_frechet_distance, frechet_distance
from medldm.evaluation.metrics.kernel_distance import polynomial_kernel, squared_mmd
from medldm.evaluation.sections.comparison import COLUMN_SETS, Comparison
from medldm.evaluation.sections.metric_result import Column, Description, MetricResult, compute_result


def feature_results(
    compare: Comparison, features: dict[str, Floats], kind: FeatureKind
) -> list[MetricResult]:
    """Compute the Frechet distance and KID in raw features.

    Args:
        compare: the sets.
        features: (N, D) by "train", "test", "synthetic" and "noise", in the order of the cases.
        kind: how the report names them.

    Raises:
        NotMeasurableError: for features of which none varies over the real training set.
    """
    standardised, reduced = standardise_sets(features)
    description = Description(
        key=f"fidelity.frechet_{kind.key}",
        title=f"Frechet distance ({kind.name})",
        meaning=kind.meaning,
        better="lower",
    )
    return [frechet_result(compare, reduced, description, kind.note), kid_result(compare, standardised, kind)]


def match_cases(compare: Comparison, n: int) -> npt.NDArray[np.int64]:
    """Return the places, among n cases, of as many as the smallest set has."""
    sets = compare.sets
    n_matched = min(len(sets.train), len(sets.test), len(sets.synthetic), len(sets.noise))
    return np.sort(np.random.default_rng(compare.seed).permutation(n)[:n_matched])


def frechet_result(
    compare: Comparison, features: dict[str, Floats], description: Description, note: str = ""
) -> MetricResult:
    """Compute the Frechet distance in features that are few enough for the number of cases."""
    test_places = match_cases(compare, len(features["test"]))
    test = features["test"][test_places]

    def measure(column: Column) -> Estimate:
        own = features[COLUMN_SETS[column]]
        places = match_cases(compare, len(own))
        frechet_distance(test, own[places])
        return compare.interval(
            lambda u, v: frechet_distance(test, own[places], weights=(u, v), force=True),
            [compare.sets.test.subjects[place] for place in test_places],
            [compare.part(column).subjects[place] for place in places],
            is_distance=True,
        )

    columns = [each for each in compare.columns if COLUMN_SETS[each] in features]
    note = f"{test.shape[1]} principal components, {len(test)} cases of each set. {note}".strip()
    try:
        infinite = extrapolated_frechet_distance(features["test"], features["synthetic"], seed=compare.seed)
        note += f" Extrapolated to infinitely many cases: {infinite:.3g}."
    except TooFewCasesError:
        pass
    return compute_result(description, measure, note=note, columns=columns)


def kid_result(compare: Comparison, features: dict[str, Floats], kind: FeatureKind) -> MetricResult:
    """Compute the kernel distance KID in standardised features."""
    description = Description(
        key=f"fidelity.kid_{kind.key}",
        title=f"Kernel distance, KID ({kind.name})",
        meaning=kind.meaning,
        better="lower",
    )
    return kernel_result(compare, features, polynomial_kernel, description, note=kind.note)


def kernel_result(
    compare: Comparison,
    features: dict[str, Floats],
    kernel: Callable[[Floats, Floats], Floats],
    description: Description,
    *,
    note: str,
) -> MetricResult:
    """Compute the squared maximum mean discrepancy of a kernel (N, D), (M, D) to (N, M)."""
    within = {name: kernel(each, each) for name, each in features.items()}
    between = {name: kernel(features["test"], each) for name, each in features.items()}

    def measure(column: Column) -> Estimate:
        name = COLUMN_SETS[column]
        return compare.with_test(
            column,
            lambda u, v: squared_mmd(
                within["test"],
                within[name],
                between[name],
                weights=(u, v),
                are_paired=column == "ceiling",
            ),
        )

    columns = [each for each in compare.columns if COLUMN_SETS[each] in features]
    return compute_result(description, measure, note=note, columns=columns)
