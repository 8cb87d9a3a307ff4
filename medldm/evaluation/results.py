"""Compute every result of an evaluation; what cannot be computed says why."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from medldm.data.cohort import Cohort
from medldm.evaluation.cases.model_cases import EvaluatedModel, open_model
from medldm.evaluation.cases.reading import Cohorts, load_case_sets, open_cohort
from medldm.evaluation.cases.sets import CaseSet, CaseSets
from medldm.evaluation.config import EvaluationConfig
from medldm.evaluation.features.cache import FeatureCache
from medldm.evaluation.features.network import FeatureNetwork, load_feature_network
from medldm.evaluation.features.sets import SetFeatures, extract_features
from medldm.evaluation.metrics.anatomy import AnatomyTable
from medldm.evaluation.resources import EvaluationResources
from medldm.evaluation.sections.agreement import LabelAgreement, measure_label_agreement
from medldm.evaluation.sections.anatomy import (
    agreement_results,
    anatomy_results,
    anatomy_tables,
    mark_too_weak,
    usefulness_results,
)
from medldm.evaluation.sections.diversity import diversity_results
from medldm.evaluation.sections.fidelity import fidelity_results
from medldm.evaluation.sections.metric_result import SECTIONS, MetricResult
from medldm.evaluation.sections.model import ask_for_members, latent_results, published_results
from medldm.evaluation.sections.privacy import (
    DetectorResult,
    contrastive_detector,
    correlation_detector,
    privacy_results,
    search_with,
)
from medldm.evaluation.sections.stages import Refusals, Stages
from medldm.evaluation.sections.usefulness import Usefulness, fit_steps, measure_usefulness
from medldm.evaluation.segmenter import LabelledImage, Segmenter, train_segmenter

ON_SEGMENTERS = ("agreement", "usefulness")
"""Sections whose results stand on trained segmenters."""

N_STAGES = 7


@dataclass(frozen=True, kw_only=True)
class EvaluationResults:
    """All that the results and plots of an evaluation stand on.

    Args:
        sets: the cases.
        metrics: in the order of the report.
        features: of the sets; None where they could not be extracted.
        tables: anatomy by set; empty without label maps.
        agreement: None where it could not be measured.
        usefulness: None where it could not be measured.
        detectors: searches for copies.
        left_out: what was not asked for, in sentences.
        seconds: by stage.
        model_sha256: of the weights of the model that was asked; None where none was given.
    """

    sets: CaseSets
    metrics: tuple[MetricResult, ...]
    features: SetFeatures | None
    tables: dict[str, AnatomyTable]
    agreement: LabelAgreement | None
    usefulness: Usefulness | None
    detectors: tuple[DetectorResult, ...]
    left_out: tuple[str, ...]
    seconds: dict[str, float]
    model_sha256: str | None = None


def collect_results(
    real_train: str | Path | Cohort,
    real_test: str | Path | Cohort,
    synthetic: str | Path | Cohort,
    *,
    config: EvaluationConfig,
    resources: EvaluationResources | None = None,
) -> EvaluationResults:
    """Read the cohorts and compute every result; what cannot be computed says why."""
    resources = resources or EvaluationResources()
    n_more = 2 * (resources.model is not None) + (resources.feature_weights is not None)
    with Stages(N_STAGES + n_more) as stages:
        cohorts = Cohorts(*(open_cohort(each) for each in (real_train, real_test, synthetic)))
        evaluated = open_model(resources, of_label_maps=bool(cohorts.without_images))
        network = None
        if resources.feature_weights is not None:
            network = load_feature_network(resources.feature_weights)
        sets = load_case_sets(cohorts, config=config.grid, seed=config.seed, progress=stages.tell)
        stages.done("reading")
        collected = _Collector(sets, config, stages)
        if sets.has_images:
            cache = FeatureCache(resources.cache_dir)
            collected.fidelity(cache)
            collected.published(network, cache)
            collected.latents(evaluated, cohorts)
            collected.segmenters()
        else:
            whose = " and the ".join(cohorts.without_images)
            collected.left_out.append(f"Only anatomy was evaluated: the {whose} set has no images.")
        collected.anatomy()
        if sets.has_images:
            collected.privacy()
        collected.membership(evaluated, cohorts)
    order = list(SECTIONS)
    metrics = sorted(collected.metrics, key=lambda each: order.index(each.description.section))
    return EvaluationResults(
        sets=sets,
        metrics=tuple(metrics),
        features=collected.features,
        tables=collected.tables,
        agreement=collected.agreement,
        usefulness=collected.usefulness,
        detectors=tuple(collected.detectors),
        left_out=tuple(collected.left_out),
        seconds=stages.seconds,
        model_sha256=None if evaluated is None else evaluated.weights_sha256,
    )


class _Collector:
    """Compute the results section by section; a refusal leaves a result that says why."""

    def __init__(self, sets: CaseSets, config: EvaluationConfig, stages: Stages) -> None:
        self.sets = sets
        self.config = config
        self.stages = stages
        self.metrics: list[MetricResult] = []
        self.left_out: list[str] = []
        self.features: SetFeatures | None = None
        self.tables: dict[str, AnatomyTable] = {}
        self.agreement: LabelAgreement | None = None
        self.usefulness: Usefulness | None = None
        self.detectors: list[DetectorResult] = []

    def fidelity(self, cache: FeatureCache) -> None:
        config = self.config
        contrastive = replace(config.contrastive, seed=config.seed)
        with self._section("fidelity"):
            self.features = extract_features(
                self.sets,
                contrastive=contrastive,
                n_workers=config.grid.n_workers,
                cache=cache,
                progress=self.stages.tell,
            )
            self.stages.done("features")
            self.stages.tell("fidelity")
            self.metrics += fidelity_results(
                self.sets, self.features, n_resamples=config.n_resamples, seed=config.seed
            )
        if self.features is None:
            return
        with self._section("diversity"):
            self.stages.tell("diversity")
            self.metrics += diversity_results(
                self.sets,
                self.features,
                n_pairs=config.n_pairs,
                n_resamples=config.n_resamples,
                seed=config.seed,
            )
        self.stages.done("fidelity and diversity")

    def published(self, network: FeatureNetwork | None, cache: FeatureCache) -> None:
        if network is None:
            return
        title = f"Distances in features of {network.file_name}"
        with Refusals("fidelity", self.metrics, part="network", title=title):
            self.metrics += published_results(
                network, self.sets, config=self.config, cache=cache, tell=self.stages.tell
            )
        self.stages.done("network features")

    def latents(self, evaluated: EvaluatedModel | None, cohorts: Cohorts) -> None:
        if evaluated is None:
            return
        with Refusals("fidelity", self.metrics, part="latents", title="Distances in the model's latents"):
            self.metrics += latent_results(
                evaluated, cohorts, self.sets, config=self.config, tell=self.stages.tell
            )
        self.stages.done("latents")

    def segmenters(self) -> None:
        config = self.config.usefulness
        if config.time_budget_s == 0 and config.segmenter.n_steps is None:
            self.left_out.append("Label agreement and usefulness were left out: their time budget is 0.")
            return
        segmenters: list[Segmenter] = []
        n_steps = 0
        with self._section("agreement"):
            schema = self.sets.known_schema()
            n_steps = fit_steps(self._pairs("train"), config, n_structures=schema.n_structures)
            self.stages.tell("segmenter for label agreement")
            segmenters.append(
                train_segmenter(
                    self._pairs("train"),
                    config.segmenter,
                    n_structures=schema.n_structures,
                    n_steps=n_steps,
                    seed=self.config.seed,
                )
            )
            self.agreement = measure_label_agreement(
                segmenters[0].segment,
                self._pairs("synthetic"),
                self._pairs("test"),
                n_structures=schema.n_structures,
                subjects=(self.sets.synthetic.subjects, self.sets.test.subjects),
                seed=self.config.seed,
            )
            self.metrics += agreement_results(self.agreement, schema, seed=self.config.seed)
            self.stages.done("label agreement")
        with self._section("usefulness"):
            schema = self.sets.known_schema()
            n_steps = n_steps or fit_steps(self._pairs("train"), config, n_structures=schema.n_structures)
            self.usefulness = measure_usefulness(
                self._pairs("train"),
                self._pairs("synthetic"),
                self._pairs("test"),
                spacing_mm=self.sets.spacing_mm,
                n_structures=schema.n_structures,
                n_steps=n_steps,
                config=config,
                subjects=self.sets.test.subjects,
                seed=self.config.seed,
                real_segmenters=segmenters,
                progress=self.stages.tell,
            )
            self.metrics += usefulness_results(self.usefulness, schema, seed=self.config.seed)
            stands_on_it = [each for each in self.metrics if each.description.section in ON_SEGMENTERS]
            others = [each for each in self.metrics if each.description.section not in ON_SEGMENTERS]
            self.metrics[:] = others + mark_too_weak(stands_on_it, self.usefulness)
            if self.usefulness.sees_nothing():
                self.agreement = None
            self.stages.done("usefulness")

    def anatomy(self) -> None:
        with self._section("anatomy"):
            self.stages.tell("anatomy")
            self.tables = anatomy_tables(self.sets, self.agreement)
            self.metrics += anatomy_results(
                self.sets, self.tables, n_resamples=self.config.n_resamples, seed=self.config.seed
            )
        self.stages.done("anatomy")

    def privacy(self) -> None:
        config = self.config
        with self._section("privacy"):
            found = {"correlation": correlation_detector(self.sets, config.neighbours)}
            embedded = None
            if self.features is not None and self.features.encoder is not None:
                found["contrastive"] = contrastive_detector(self.sets, self.features.encoder)
                embedded = self.features.contrastive
            for name, detector in found.items():
                self.stages.tell(f"search for copies by {name}")
                self.detectors.append(
                    search_with(
                        name,
                        detector,
                        self.sets,
                        quantile=config.copy_quantile,
                        n_planted=config.n_planted,
                        n_searches=len(found),
                        seed=config.seed,
                    )
                )
            self.metrics += privacy_results(self.detectors, self.sets, embedded, seed=config.seed)
        self.stages.done("privacy")

    def membership(self, evaluated: EvaluatedModel | None, cohorts: Cohorts) -> None:
        if evaluated is None:
            self.left_out.append("Membership inference was left out: no model was given.")
            return
        with Refusals("privacy", self.metrics, part="membership", title="Membership inference"):
            self.metrics += ask_for_members(evaluated, cohorts, config=self.config, tell=self.stages.tell)
        self.stages.done("membership inference")

    def _section(self, section: str) -> Refusals:
        return Refusals(section, self.metrics)

    def _pairs(self, name: str) -> list[LabelledImage]:
        part: CaseSet = getattr(self.sets, name)
        schema = self.sets.known_schema()
        return [
            (image, schema.index_map(labels).numpy())
            for image, labels in zip(part.images, part.known_labels(), strict=True)
        ]
