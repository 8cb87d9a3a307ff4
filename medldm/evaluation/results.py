"""Compute every figure of an evaluation; what cannot be computed says why."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from medldm.data.cohort import Cohort
from medldm.evaluation.cases.model_cases import JudgedModel, open_model
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
    agreement_figures,
    anatomy_figures,
    anatomy_tables,
    mark_too_weak,
    usefulness_figures,
)
from medldm.evaluation.sections.diversity import diversity_figures
from medldm.evaluation.sections.fidelity import fidelity_figures
from medldm.evaluation.sections.metric_result import SECTIONS, Figure
from medldm.evaluation.sections.model import ask_for_members, latent_figures, published_figures
from medldm.evaluation.sections.privacy import (
    DetectorResult,
    contrastive_detector,
    correlation_detector,
    privacy_figures,
    search_with,
)
from medldm.evaluation.sections.stages import Refusals, Stages
from medldm.evaluation.sections.usefulness import Usefulness, fit_steps, measure_usefulness
from medldm.evaluation.segmenter import Pair, Segmenter, train_segmenter

ON_SEGMENTERS = ("agreement", "usefulness")
"""Sections whose figures stand on trained segmenters."""

N_STAGES = 7


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """All that the figures and plots of an evaluation stand on.

    Args:
        sets: the cases.
        figures: in the order of the report.
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
    figures: tuple[Figure, ...]
    features: SetFeatures | None
    tables: dict[str, AnatomyTable]
    agreement: LabelAgreement | None
    usefulness: Usefulness | None
    detectors: tuple[DetectorResult, ...]
    left_out: tuple[str, ...]
    seconds: dict[str, float]
    model_sha256: str | None = None


def gather_evidence(
    real_train: str | Path | Cohort,
    real_test: str | Path | Cohort,
    synthetic: str | Path | Cohort,
    *,
    config: EvaluationConfig,
    resources: EvaluationResources | None = None,
) -> Evidence:
    """Read the cohorts and compute every figure; what cannot be computed says why."""
    resources = resources or EvaluationResources()
    n_more = 2 * (resources.model is not None) + (resources.feature_weights is not None)
    with Stages(N_STAGES + n_more) as stages:
        cohorts = Cohorts(*(open_cohort(each) for each in (real_train, real_test, synthetic)))
        judged = open_model(resources, of_label_maps=bool(cohorts.without_images))
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
            collected.latents(judged, cohorts)
            collected.segmenters()
        else:
            whose = " and the ".join(cohorts.without_images)
            collected.left_out.append(f"Only anatomy was evaluated: the {whose} set has no images.")
        collected.anatomy()
        if sets.has_images:
            collected.privacy()
        collected.membership(judged, cohorts)
    order = list(SECTIONS)
    figures = sorted(collected.figures, key=lambda each: order.index(each.description.section))
    return Evidence(
        sets=sets,
        figures=tuple(figures),
        features=collected.features,
        tables=collected.tables,
        agreement=collected.agreement,
        usefulness=collected.usefulness,
        detectors=tuple(collected.detectors),
        left_out=tuple(collected.left_out),
        seconds=stages.seconds,
        model_sha256=None if judged is None else judged.weights_sha256,
    )


class _Collector:
    """Compute the figures section by section; a refusal leaves a figure that says why."""

    def __init__(self, sets: CaseSets, config: EvaluationConfig, stages: Stages) -> None:
        self.sets = sets
        self.config = config
        self.stages = stages
        self.figures: list[Figure] = []
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
            self.figures += fidelity_figures(
                self.sets, self.features, n_resamples=config.n_resamples, seed=config.seed
            )
        if self.features is None:
            return
        with self._section("diversity"):
            self.stages.tell("diversity")
            self.figures += diversity_figures(
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
        with Refusals("fidelity", self.figures, part="network", title=title):
            self.figures += published_figures(
                network, self.sets, config=self.config, cache=cache, tell=self.stages.tell
            )
        self.stages.done("network features")

    def latents(self, judged: JudgedModel | None, cohorts: Cohorts) -> None:
        if judged is None:
            return
        with Refusals("fidelity", self.figures, part="latents", title="Distances in the model's latents"):
            self.figures += latent_figures(
                judged, cohorts, self.sets, config=self.config, tell=self.stages.tell
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
            self.figures += agreement_figures(self.agreement, schema, seed=self.config.seed)
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
            self.figures += usefulness_figures(self.usefulness, schema, seed=self.config.seed)
            stands_on_it = [each for each in self.figures if each.description.section in ON_SEGMENTERS]
            others = [each for each in self.figures if each.description.section not in ON_SEGMENTERS]
            self.figures[:] = others + mark_too_weak(stands_on_it, self.usefulness)
            if self.usefulness.sees_nothing():
                self.agreement = None
            self.stages.done("usefulness")

    def anatomy(self) -> None:
        with self._section("anatomy"):
            self.stages.tell("anatomy")
            self.tables = anatomy_tables(self.sets, self.agreement)
            self.figures += anatomy_figures(
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
            self.figures += privacy_figures(self.detectors, self.sets, embedded, seed=config.seed)
        self.stages.done("privacy")

    def membership(self, judged: JudgedModel | None, cohorts: Cohorts) -> None:
        if judged is None:
            self.left_out.append("Membership inference was left out: no model was given.")
            return
        with Refusals("privacy", self.figures, part="membership", title="Membership inference"):
            self.figures += ask_for_members(judged, cohorts, config=self.config, tell=self.stages.tell)
        self.stages.done("membership inference")

    def _section(self, section: str) -> Refusals:
        return Refusals(section, self.figures)

    def _pairs(self, name: str) -> list[Pair]:
        part: CaseSet = getattr(self.sets, name)
        schema = self.sets.known_schema()
        return [
            (image, schema.index_map(labels).numpy())
            for image, labels in zip(part.images, part.known_labels(), strict=True)
        ]
