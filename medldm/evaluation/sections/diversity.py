"""Diversity results: each column is of one set alone, the real one of the real training set."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from medldm.evaluation.cases.sets import CaseSets
from medldm.evaluation.features.sets import SetFeatures
from medldm.evaluation.metrics.bootstrap import Estimate, bootstrap_interval
from medldm.evaluation.metrics.checks import Floats, TooFewCasesError
from medldm.evaluation.metrics.diversity import (
    choose_pairs,
    mean_over_pairs,
    pairwise_feature_distance,
    pairwise_ms_ssim,
)
from medldm.evaluation.sections.fidelity import COLUMN_SETS
from medldm.evaluation.sections.metric_result import Column, Description, MetricResult, compute_result


def diversity_results(
    sets: CaseSets, features: SetFeatures, *, n_pairs: int, n_resamples: int, seed: int
) -> list[MetricResult]:
    """Compute the diversity results; each column is of one set alone, "real" of the real training set."""
    pairs = {
        name: choose_pairs(len(getattr(sets, name)), n_pairs=n_pairs, seed=seed)
        for name in COLUMN_SETS.values()
        if len(getattr(sets, name)) >= 2
    }
    span = float(np.subtract(*sets.train.file_range[::-1])) if sets.is_ct else 1.0

    def mean(values: Callable[[str], Floats], column: Column) -> Estimate:
        name = COLUMN_SETS[column]
        if name not in pairs:
            raise TooFewCasesError("a set has fewer than 2 cases; pairs need at least 2")
        part, chosen = getattr(sets, name), pairs[name]
        of_pairs = values(name)
        return bootstrap_interval(
            lambda w: mean_over_pairs(of_pairs, chosen, weights=w, n=len(part)),
            [part.subjects],
            n_resamples=n_resamples,
            seed=seed,
        )

    def similarity(name: str) -> Floats:
        boxed = getattr(sets, name).boxed_images(sets.shape)
        return pairwise_ms_ssim(boxed, pairs[name], data_range=span)

    return [
        compute_result(
            Description(
                key="diversity.ms_ssim",
                title="Similarity of pairs (MS-SSIM)",
                meaning="How alike two volumes of one set look on average; above the real column the "
                "synthetic "
                "volumes resemble each other more than patients do.",
                better="near",
            ),
            lambda column: mean(similarity, column),
        ),
        compute_result(
            Description(
                key="diversity.feature_distance",
                title="Distance of pairs (radiomics)",
                meaning="How far two volumes of one set lie apart in radiomics features on average; below "
                "the real column "
                "the synthetic set is less diverse than patients are.",
                better="near",
                unit="sd",
            ),
            lambda column: mean(
                lambda name: pairwise_feature_distance(features.radiomics[name], pairs[name]), column
            ),
        ),
    ]
