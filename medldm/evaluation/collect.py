"""Compute every result of an evaluation; what cannot be computed says why."""

from __future__ import annotations

from dataclasses import replace

from medldm.evaluation.cases.ceiling import AutoencodedCases, make_ceiling
from medldm.evaluation.cases.model_cases import (
    open_model,
    open_reference_model,
    require_channels,
)
from medldm.evaluation.cases.reading import Cohorts, load_case_sets
from medldm.evaluation.cases.sets import CaseSets
from medldm.evaluation.collector import Collector
from medldm.evaluation.config import EvaluationConfig
from medldm.evaluation.features import network as networks
from medldm.evaluation.features.cache import FeatureCache
from medldm.evaluation.resources import EvaluationResources
from medldm.evaluation.results import EvaluationResults
from medldm.evaluation.sections import autoencoded_copies
from medldm.evaluation.stages import Stages

OF_ALL_CHANNELS = "Membership inference takes all channels together: see the common report."

N_SEARCHES = 2
"""Searches for copies in the images of one channel."""


def collect_results(
    cohorts: Cohorts,
    *,
    config: EvaluationConfig,
    resources: EvaluationResources | None = None,
    n_channels: int = 1,
    autoencoded: AutoencodedCases | None = None,
    channel: int = 0,
) -> EvaluationResults:
    """Read the volumes and compute every result; what cannot be computed says why.

    Args:
        cohorts: sound ones, of images of one channel, or of label maps.
        config: settings.
        resources: the model, and whatever else is used beside the cohorts.
        n_channels: that are looked at one by one, this among them. With several the model, which takes all of
            them together, is not asked, see `collect_model_results`.
        autoencoded: the test cases through the autoencoder; with one channel they are made here.
        channel: place of this channel among those of the model.
    """
    resources = resources or EvaluationResources()
    without = {"model": None, "reference_model": None, "reference_train": None}
    asked = resources if n_channels == 1 else resources.copy(**without)
    n_more = 1 + 4 * (asked.model is not None) + (resources.feature_weights is not None)
    n_more += autoencoded is not None
    with Stages(7 + n_more) as stages:
        evaluated = open_model(asked, of_label_maps=bool(cohorts.without_images))
        reference = open_reference_model(asked, evaluated, of_label_maps=bool(cohorts.without_images))
        weights = resources.feature_weights
        network = None if weights is None else networks.load_feature_network(weights)
        sets = load_case_sets(cohorts, config=config.grid, seed=config.seed, progress=stages.tell)
        stages.done("reading")
        if evaluated is not None and sets.has_images:
            autoencoded = AutoencodedCases(evaluated, cohorts.test, seed=config.seed)
        if autoencoded is not None:
            ceiling = make_ceiling(autoencoded, sets, channel=channel, progress=stages.tell)
            sets = replace(sets, ceiling=ceiling)
            stages.done("ceiling")
        collector = Collector(sets, config, stages)
        collector.republished(cohorts)
        if sets.has_images:
            cache = FeatureCache(resources.cache_dir)
            collector.fidelity(cache)
            collector.real_or_synthetic(cache)
            if network is not None:
                collector.published(network, cache)
            if evaluated is not None:
                collector.latents(evaluated, cohorts)
            collector.segmenters()
        else:
            whose = " and the ".join(cohorts.without_images)
            collector.results.left_out.append(f"Only anatomy was evaluated: the {whose} set has no images.")
        collector.anatomy()
        n_own = len(autoencoded_copies.NAMES) * (resources.model is not None)
        if sets.has_images:
            collector.privacy(n_channels=n_channels, n_own=n_own)
        if sets.has_images and evaluated is not None:
            collector.autoencoded(evaluated, cohorts, n_others=N_SEARCHES)
        if n_channels == 1:
            collector.membership(evaluated, cohorts, reference)
            collector.swapped_halves(evaluated, cohorts, reference, asked.reference_train)
        else:
            collector.results.left_out.append(OF_ALL_CHANNELS)
    return collector.finish(evaluated)


def collect_model_results(
    cohorts: Cohorts,
    sets: CaseSets,
    *,
    config: EvaluationConfig,
    resources: EvaluationResources | None = None,
) -> EvaluationResults:
    """Ask the model about cases of all their channels: its latents, and membership inference.

    Args:
        cohorts: sound ones, with all channels in the model's order.
        sets: of any one channel; only their subjects count.
        config: settings.
        resources: the model; without one the results say that it was left out.
    """
    with Stages(3) as stages:
        resources = resources or EvaluationResources()
        evaluated = open_model(resources)
        reference = open_reference_model(resources, evaluated)
        collector = Collector(sets, config, stages)
        if evaluated is not None:
            require_channels(evaluated, cohorts.synthetic.channels)
            collector.latents(evaluated, cohorts)
            n_channels = len(cohorts.synthetic.channels)
            collector.autoencoded(evaluated, cohorts, n_others=N_SEARCHES * n_channels)
        collector.membership(evaluated, cohorts, reference)
        collector.swapped_halves(evaluated, cohorts, reference, resources.reference_train)
    return collector.finish(evaluated)
