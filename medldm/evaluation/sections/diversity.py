"""Diversity results: each column is of one set alone, the real one of the real training set."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from medldm.evaluation.features.extraction import SetFeatures
from medldm.evaluation.metrics import diversity
from medldm.evaluation.metrics.bootstrap import Estimate
from medldm.evaluation.metrics.checks import Floats
from medldm.evaluation.sections.comparison import COLUMN_SETS, Comparison
from medldm.evaluation.sections.metric_result import Column, Description, MetricResult, compute_result

MS_SSIM = Description(
    key="diversity.ms_ssim",
    title="Similarity of pairs (MS-SSIM)",
    meaning="How alike two volumes of one set look on average; above the real column the synthetic "
    "volumes resemble each other more than patients do.",
    better="near",
)
FEATURE_DISTANCE = Description(
    key="diversity.feature_distance",
    title="Distance of pairs (radiomics)",
    meaning="How far two volumes of one set lie apart in radiomics features on average; below "
    "the real column the synthetic set is less diverse than patients are.",
    better="near",
    unit="sd",
)
SPREADS = {
    "brightness": "mean intensity",
    "contrast": "standard deviation of the intensities",
    "grain": "differences of neighbouring voxels",
}
"""What is spread between cases, in the order of `case_statistics`, and how it is measured of a volume."""


def diversity_results(compare: Comparison, features: SetFeatures, *, n_pairs: int) -> list[MetricResult]:
    """Compute the diversity results from at most `n_pairs` pairs of each set."""
    sets = compare.sets
    span = float(np.subtract(*sets.train.file_range[::-1])) if sets.is_ct else 1.0

    def mean(values: Callable[[Column, diversity.IndexPairs], Floats]) -> Callable[[Column], Estimate]:
        def measure(column: Column) -> Estimate:
            n = len(compare.part(column))
            pairs = diversity.choose_pairs(n, n_pairs=n_pairs, seed=compare.seed)
            of_pairs = values(column, pairs)
            return compare.interval(
                lambda w: diversity.mean_over_pairs(of_pairs, pairs, weights=w, n=n),
                compare.part(column).subjects,
            )

        return measure

    def similarity(column: Column, pairs: diversity.IndexPairs) -> Floats:
        return diversity.pairwise_ms_ssim(
            compare.part(column).boxed_images(sets.shape), pairs, data_range=span
        )

    def distance(column: Column, pairs: diversity.IndexPairs) -> Floats:
        return diversity.pairwise_feature_distance(features.radiomics[COLUMN_SETS[column]], pairs)

    return [
        compute_result(MS_SSIM, mean(similarity), columns=compare.columns),
        compute_result(FEATURE_DISTANCE, mean(distance), columns=compare.columns),
        *spread_results(compare),
    ]


def spread_results(compare: Comparison) -> list[MetricResult]:
    """Compute how much volumes of a set differ from each other in brightness, contrast and grain."""
    measured: dict[Column, Floats] = {}

    def measure(which: int) -> Callable[[Column], Estimate]:
        def spread(column: Column) -> Estimate:
            part = compare.part(column)
            if column not in measured:
                measured[column] = np.array([diversity.case_statistics(image) for image in part.images])
            values = measured[column][:, which]
            return compare.interval(lambda w: diversity.spread_over_cases(values, weights=w), part.subjects)

        return spread

    descriptions = [
        Description(
            key=f"diversity.spread_{name}",
            title=f"Spread of {name} between cases",
            meaning=f"How much volumes of one set differ from each other in {name} ({how}); below the real "
            "column the synthetic volumes are more of a kind than patients' are.",
            better="near",
            unit="HU" if compare.sets.is_ct else "of range",
        )
        for name, how in SPREADS.items()
    ]
    return [
        compute_result(description, measure(which), columns=compare.columns)
        for which, description in enumerate(descriptions)
    ]
