"""What needs a network from a file: distances in its features, and whether a model knows its patients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from medldm.evaluation.cases.model_cases import EvaluatedModel, choose_model_cases
from medldm.evaluation.cases.reading import Cohorts
from medldm.evaluation.cases.sets import CaseSets
from medldm.evaluation.config import EvaluationConfig
from medldm.evaluation.features.cache import FeatureCache
from medldm.evaluation.features.latent import LATENTS, latent_features
from medldm.evaluation.features.network import FeatureNetwork, network_features, published_style
from medldm.evaluation.sections.fidelity import feature_results
from medldm.evaluation.sections.membership import membership_results, score_membership
from medldm.evaluation.sections.metric_result import MetricResult

Tell = Callable[[str], None]


def latent_results(
    evaluated: EvaluatedModel, cohorts: Cohorts, sets: CaseSets, *, config: EvaluationConfig, tell: Tell
) -> list[MetricResult]:
    """Compute the distances in the latents of the model's autoencoder.

    Args:
        evaluated: the model.
        cohorts: of the evaluation.
        sets: the same cases on the common grid, for their subjects.
        config: of the evaluation.
        tell: told what is being done.

    Raises:
        ValueError: for cases that the model cannot take.
    """
    found = latent_features(evaluated.model, cohorts, seed=config.seed, progress=tell)
    return feature_results(sets, found, LATENTS, n_resamples=config.n_resamples, seed=config.seed)


def published_results(
    network: FeatureNetwork,
    sets: CaseSets,
    *,
    config: EvaluationConfig,
    cache: FeatureCache,
    tell: Tell,
) -> list[MetricResult]:
    """Compute the distances in the features of a network that was trained elsewhere.

    Args:
        network: that sees the volumes.
        sets: the cases.
        config: of the evaluation.
        cache: of an earlier evaluation.
        tell: told what is being done.

    Raises:
        ValueError: for volumes that are too small for the network.
    """
    found = network_features(network, sets, cache=cache, progress=tell)
    note = published_style(found, n_matched=min(map(len, found.values())))
    kind = replace(network.kind, note=f"{network.kind.note} {note}")
    return feature_results(sets, found, kind, n_resamples=config.n_resamples, seed=config.seed)


def ask_for_members(
    evaluated: EvaluatedModel, cohorts: Cohorts, *, config: EvaluationConfig, tell: Tell
) -> list[MetricResult]:
    """Compute the membership inference results: training cases against real test cases.

    Args:
        evaluated: the model.
        cohorts: of the evaluation.
        config: of the evaluation.
        tell: told what is being done.

    Raises:
        ValueError: for cases that the model cannot take.
    """
    scores, n_unknown = [], 0
    for name, cohort in (("members", cohorts.train), ("non-members", cohorts.test)):
        tell(f"the model's loss on {name}")
        cases = choose_model_cases(cohort, evaluated, n_max=config.membership.n_cases, seed=config.seed)
        scores.append(score_membership(cases, config.membership, seed=config.seed))
        n_unknown += cases.n_unknown
    note = f"{n_unknown} cases that the training had no place for are left out." if n_unknown else ""
    return membership_results(*scores, n_resamples=config.n_resamples, seed=config.seed, note=note)
