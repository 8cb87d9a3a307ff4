"""Compute the results of an evaluation section by section."""

from __future__ import annotations

from dataclasses import replace

from medldm.evaluation.cases.model_cases import EvaluatedModel
from medldm.evaluation.cases.reading import Cohorts, open_cohort
from medldm.evaluation.cases.sets import CaseSet, CaseSets, Known, LabelledImage
from medldm.evaluation.config import EvaluationConfig
from medldm.evaluation.errors import NotMeasurableError
from medldm.evaluation.features import network as networks
from medldm.evaluation.features.cache import FeatureCache
from medldm.evaluation.features.extraction import extract_features
from medldm.evaluation.features.latent import LATENTS, latent_features
from medldm.evaluation.metrics.copy_search import Detector
from medldm.evaluation.metrics.neighbours import NeighbourIndex
from medldm.evaluation.results import EvaluationResults
from medldm.evaluation.sections import autoencoded_copies, privacy
from medldm.evaluation.sections.agreement import agreement_results, measure_label_agreement
from medldm.evaluation.sections.anatomy import anatomy_results, anatomy_tables
from medldm.evaluation.sections.comparison import Comparison
from medldm.evaluation.sections.diversity import diversity_results
from medldm.evaluation.sections.feature_distances import feature_results
from medldm.evaluation.sections.few_cases import few_cases_results, measure_few_cases
from medldm.evaluation.sections.fidelity import TOO_FEW_FOR_MANIFOLDS, fidelity_results, has_manifolds
from medldm.evaluation.sections.membership import measure_membership
from medldm.evaluation.sections.metric_result import SECTIONS
from medldm.evaluation.sections.real_or_synthetic import real_or_synthetic_results
from medldm.evaluation.sections.republished import find_republished, republished_result
from medldm.evaluation.sections.swapped_halves import measure_swapped_halves
from medldm.evaluation.sections.usefulness import mark_too_weak, usefulness_results
from medldm.evaluation.sections.usefulness_trainings import fit_steps, measure_usefulness
from medldm.evaluation.segmenter import Segmenter, train_segmenter
from medldm.evaluation.stages import Stages, record_refusal
from medldm.transforms.errors import VoxelValueError

ON_SEGMENTERS = ("agreement", "usefulness")
"""Sections whose results stand on trained segmenters."""


class Collector:
    """Compute the results section by section; a refusal leaves a result that says why."""

    def __init__(self, sets: CaseSets, config: EvaluationConfig, stages: Stages) -> None:
        self.config, self.stages = config, stages
        self.compare = Comparison(sets=sets, n_resamples=config.n_resamples, seed=config.seed)
        self.results = EvaluationResults(sets=sets)
        self.metrics = self.results.metrics

    def finish(self, evaluated: EvaluatedModel | None) -> EvaluationResults:
        """Return the results in the order of the report."""
        order = list(SECTIONS)
        self.results.metrics.sort(key=lambda each: order.index(each.description.section))
        self.results.seconds = self.stages.seconds
        self.results.model_sha256 = None if evaluated is None else evaluated.weights_sha256
        return self.results

    def fidelity(self, cache: FeatureCache) -> None:
        config, tell = self.config, self.stages.tell
        with record_refusal("fidelity", self.metrics):
            features = extract_features(
                self.results.sets,
                contrastive=replace(config.contrastive, seed=config.seed),
                n_workers=config.grid.n_workers,
                cache=cache,
                progress=tell,
            )
            self.results.features = features
            self.stages.done("features")
            tell("fidelity")
            if not has_manifolds(self.compare):
                self.results.left_out.append(TOO_FEW_FOR_MANIFOLDS)
            self.metrics += fidelity_results(self.compare, features)
        if self.results.features is None:
            return
        with record_refusal("diversity", self.metrics):
            tell("diversity")
            self.metrics += diversity_results(self.compare, self.results.features, n_pairs=config.n_pairs)
        self.stages.done("fidelity and diversity")

    def real_or_synthetic(self, cache: FeatureCache) -> None:
        config = self.config.real_or_synthetic
        if not config.has_network:
            self.results.left_out.append("The real-or-synthetic network was left out: its time budget is 0.")
        with record_refusal("fidelity", self.metrics, part="c2st", title="Real or synthetic"):
            # What sums up all others comes first.
            self.metrics[:0] = real_or_synthetic_results(
                self.compare,
                config,
                n_workers=self.config.grid.n_workers,
                cache=cache,
                progress=self.stages.tell,
            )
        self.stages.done("real or synthetic")

    def published(self, network: networks.FeatureNetwork, cache: FeatureCache) -> None:
        title = f"Distances in features of {network.file_name}"
        with record_refusal("fidelity", self.metrics, part="network", title=title):
            sets, tell = self.results.sets, self.stages.tell
            found = networks.network_features(network, sets, cache=cache, progress=tell)
            note = networks.published_style(found, n_matched=min(map(len, found.values())))
            kind = replace(network.kind, note=f"{network.kind.note} {note}")
            self.metrics += feature_results(self.compare, found, kind)
        self.stages.done("network features")

    def latents(self, evaluated: EvaluatedModel, cohorts: Cohorts) -> None:
        title = "Distances in the model's latents"
        with record_refusal("fidelity", self.metrics, part="latents", title=title):
            found = latent_features(
                evaluated.model, cohorts, seed=self.config.seed, progress=self.stages.tell
            )
            self.metrics += feature_results(self.compare, found, LATENTS)
        self.stages.done("latents")

    def segmenters(self) -> None:
        config = self.config.usefulness
        if config.time_budget_s == 0 and config.segmenter.n_steps is None:
            self.results.left_out.append(
                "Label agreement and usefulness were left out: their time budget is 0."
            )
            return
        n_steps = 0
        segmenters: list[Segmenter] = []
        with record_refusal("agreement", self.metrics):
            n_steps = self._fit_steps()
            self.stages.tell("segmenter for label agreement")
            segmenter = train_segmenter(
                self._labelled_images("train"),
                config.segmenter,
                n_structures=self.results.sets.known_schema().n_structures,
                n_steps=n_steps,
                seed=self.config.seed,
                known=(self.results.sets.train.known, None),
            )
            segmenters.append(segmenter)
            self._agreement(segmenter)
        with record_refusal("usefulness", self.metrics):
            self._usefulness(n_steps or self._fit_steps(), segmenters)

    def anatomy(self) -> None:
        results = self.results
        with record_refusal("anatomy", self.metrics):
            self.stages.tell("anatomy")
            results.tables = anatomy_tables(results.sets, results.agreement)
            self.metrics += anatomy_results(self.compare, results.tables)
        self.stages.done("anatomy")

    def autoencoded(self, evaluated: EvaluatedModel, cohorts: Cohorts, *, n_others: int) -> None:
        """Search copies against autoencoded cases, beside `n_others` searches in images."""
        title = "Copies among autoencoded cases"
        with record_refusal("privacy", self.metrics, part="copies_autoencoded", title=title):
            searches = autoencoded_copies.search_autoencoded(
                evaluated,
                cohorts,
                neighbours=self.config.neighbours,
                quantile=self.config.copy_quantile,
                n_planted=self.config.n_planted,
                n_searches=n_others + len(autoencoded_copies.NAMES),
                seed=self.config.seed,
                progress=self.stages.tell,
            )
            self.results.detectors += searches
            self.metrics += privacy.privacy_results(searches, None)
        self.stages.done("copies among autoencoded cases")

    def privacy(self, *, n_channels: int, n_own: int) -> None:
        config, sets, features = self.config, self.results.sets, self.results.features
        with record_refusal("privacy", self.metrics):
            index = NeighbourIndex(sets.train.boxed_images(sets.shape), config.neighbours)
            found: dict[str, Detector] = {"correlation": index.search}
            embedded = None
            if features is not None and features.encoder is not None:
                found["contrastive"] = privacy.contrastive_detector(sets, features.encoder)
                embedded = features.contrastive
            for name, detector in found.items():
                self.stages.tell(f"search for copies by {name}")
                search = privacy.search_with(
                    name,
                    detector,
                    sets,
                    quantile=config.copy_quantile,
                    n_planted=config.n_planted,
                    n_searches=len(found) * n_channels + n_own,
                    seed=config.seed,
                )
                self.results.detectors.append(search)
            self.metrics += privacy.privacy_results(self.results.detectors, embedded)
        self.stages.done("privacy")

    def republished(self, cohorts: Cohorts) -> None:
        title = "Label maps of training patients"
        with record_refusal("privacy", self.metrics, part="republished_maps", title=title):
            if any(part.labels is None for part in (self.results.sets.train, self.results.sets.synthetic)):
                return
            self.stages.tell("label maps of training patients")
            found = find_republished(
                self.results.sets,
                names=[case["id"] for case in cohorts.synthetic.cases],
                real_names=[
                    case[key] for part in cohorts[:2] for case in part.cases for key in ("id", "subject")
                ],
            )
            self.results.republished = found
            self.metrics.append(republished_result(found))

    def swapped_halves(
        self,
        evaluated: EvaluatedModel | None,
        cohorts: Cohorts,
        reference: EvaluatedModel | None,
        reference_train: str | None,
    ) -> None:
        if evaluated is None or reference is None or reference_train is None:
            return
        title = "Membership by two models on swapped halves"
        with record_refusal("privacy", self.metrics, part="membership_auc_swapped", title=title):
            other = open_cohort(reference_train, channels=cohorts.train.channels or None)
            self.metrics += measure_swapped_halves(
                (evaluated, reference),
                (cohorts.train, other),
                self.config.membership,
                n_resamples=self.config.n_resamples,
                seed=self.config.seed,
                progress=self.stages.tell,
            )
        self.stages.done("swapped halves")

    def membership(
        self, evaluated: EvaluatedModel | None, cohorts: Cohorts, reference: EvaluatedModel | None
    ) -> None:
        if evaluated is None:
            self.results.left_out.append("Membership inference was left out: no model was given.")
            return
        with record_refusal("privacy", self.metrics, part="membership", title="Membership inference"):
            self.metrics += measure_membership(
                evaluated,
                cohorts,
                self.config.membership,
                n_resamples=self.config.n_resamples,
                seed=self.config.seed,
                progress=self.stages.tell,
                reference=reference,
            )
        self.stages.done("membership inference")

    def _fit_steps(self) -> int:
        n_structures = self.results.sets.known_schema().n_structures
        return fit_steps(self._labelled_images("train"), self.config.usefulness, n_structures=n_structures)

    def _agreement(self, segmenter: Segmenter) -> None:
        sets, schema, seed = self.results.sets, self.results.sets.known_schema(), self.config.seed
        agreement = measure_label_agreement(
            segmenter.segment,
            self._labelled_images("synthetic"),
            self._labelled_images("test"),
            n_structures=schema.n_structures,
            subjects=(sets.synthetic.subjects, sets.test.subjects),
            known=(sets.synthetic.known, sets.test.known),
            seed=seed,
        )
        self.results.agreement = agreement
        self.metrics += agreement_results(agreement, schema, seed=seed)
        self.stages.done("label agreement")

    def _usefulness(self, n_steps: int, segmenters: list[Segmenter]) -> None:
        results, schema, seed = self.results, self.results.sets.known_schema(), self.config.seed
        usefulness = measure_usefulness(
            *(self._labelled_images(name) for name in ("train", "synthetic", "test")),
            spacing_mm=results.sets.spacing_mm,
            n_structures=schema.n_structures,
            n_steps=n_steps,
            config=self.config.usefulness,
            subjects=results.sets.test.subjects,
            known=self._known(),
            seed=seed,
            real_segmenters=segmenters,
            progress=self.stages.tell,
        )
        results.usefulness = usefulness
        self.metrics += usefulness_results(usefulness, schema, seed=seed)
        if usefulness.sees_nothing():
            results.agreement = None
            self.metrics[:] = [
                mark_too_weak(each, usefulness) if each.description.section in ON_SEGMENTERS else each
                for each in self.metrics
            ]
        else:
            self._few_cases(n_steps)
        self.stages.done("usefulness")

    def _few_cases(self, n_steps: int) -> None:
        results, maps = self.results, self.results.republished
        sources = {} if maps is None else maps.sources
        results.few_cases = measure_few_cases(
            *(self._labelled_images(name) for name in ("train", "synthetic", "test")),
            n_structures=results.sets.known_schema().n_structures,
            n_steps=n_steps,
            config=self.config.usefulness,
            sources=[sources.get(place) for place in range(len(results.sets.synthetic))],
            subjects=results.sets.test.subjects,
            known=self._known(),
            seed=self.config.seed,
            progress=self.stages.tell,
        )
        self.metrics += few_cases_results(results.few_cases)

    def _known(self) -> tuple[Known | None, Known | None, Known | None]:
        """Return which structures the maps of the training, the synthetic and the test cases cover."""
        sets = self.results.sets
        return sets.train.known, sets.synthetic.known, sets.test.known

    def _labelled_images(self, name: str) -> list[LabelledImage]:
        part: CaseSet = getattr(self.results.sets, name)
        schema = self.results.sets.known_schema()
        try:
            return [
                (image, schema.index_map(labels).numpy())
                for image, labels in zip(part.images, part.known_labels(), strict=True)
            ]
        except VoxelValueError as error:
            raise NotMeasurableError(str(error)) from error
