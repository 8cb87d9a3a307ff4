"""Privacy results: copies of training patients by two detectors, and whether the set as a whole keeps too
near to the training set.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from medldm.evaluation.cases.sets import CaseSets
from medldm.evaluation.errors import NotMeasurableError
from medldm.evaluation.features.contrastive import ContrastiveEncoder
from medldm.evaluation.metrics import copy_search
from medldm.evaluation.metrics.bootstrap import Estimate
from medldm.evaluation.metrics.checks import Floats
from medldm.evaluation.metrics.data_copying import data_copying_test
from medldm.evaluation.metrics.neighbours import cosine_neighbours
from medldm.evaluation.metrics.planted_copies import plant_copies
from medldm.evaluation.sections.metric_result import Column, Description, Light, MetricResult, compute_result

GOOD_POWER = 0.8
ALARM_RATE = 0.01
"""Probability of failing a cohort without copies, of all searches together."""


TITLES = {"autoencoded": "against autoencoded cases", "latents": "in the model's latents"}
"""Of detectors whose names alone say too little."""


@dataclass(frozen=True, kw_only=True)
class DetectorResult:
    """One detector's search.

    Args:
        name: of the detector.
        search: what it found; None where it could not search.
        best: similarity of each case to its nearest training case, by set.
        planted: similarity of planted copies to their sources; minus infinity where another volume is nearer.
        not_computed: why `search` is None.
    """

    name: str
    search: copy_search.CopySearch | None
    best: dict[str, Floats]
    planted: Floats | None = None
    not_computed: str = ""


def search_with(
    name: str,
    detector: copy_search.Detector,
    sets: CaseSets,
    *,
    quantile: float,
    n_planted: int,
    n_searches: int = 2,
    seed: int = 0,
) -> DetectorResult:
    """Search copies with one detector, and measure its power by planting.

    Args:
        name: of the detector.
        detector: volumes to their similarity to each training volume.
        sets: the cases.
        quantile: of the test volumes, for the threshold.
        n_planted: copies to plant.
        n_searches: detectors of the evaluation, which share the false alarms that are allowed.
        seed: of the planted copies.
    """
    kinds = ("train", "test", "synthetic", "noise")
    boxed = {each: getattr(sets, each).boxed_images(sets.shape) for each in kinds}
    train = boxed.pop("train")
    return search_volumes(
        name,
        detector,
        boxed,
        train_subjects=sets.train.subjects,
        plant=lambda: plant_copies(train, n_planted, seed=seed),
        quantile=quantile,
        n_searches=n_searches,
    )


def search_volumes(
    name: str,
    detector: copy_search.Detector,
    volumes: Mapping[str, Sequence[npt.ArrayLike]],
    *,
    train_subjects: Sequence[object],
    plant: Callable[[], tuple[Sequence[npt.ArrayLike], npt.NDArray[np.int64]]],
    quantile: float,
    n_searches: int,
) -> DetectorResult:
    """Search copies in volumes of any kind.

    Args:
        name: of the detector.
        detector: volumes to their similarity to each training volume.
        volumes: of "test" and "synthetic", and "noise" where it is to be shown.
        train_subjects: of the training volumes.
        plant: returns copies of training volumes and the places of their sources.
        quantile: of the test volumes, for the threshold.
        n_searches: detectors of the evaluation, which share the false alarms that are allowed.
    """
    similarity = {each: np.asarray(detector(some)) for each, some in volumes.items()}
    best = {each: table.max(axis=1).astype(np.float64) for each, table in similarity.items()}
    try:
        search = copy_search.search_copies(
            similarity["synthetic"],
            similarity["test"],
            quantile=quantile,
            train_subjects=train_subjects,
            alarm_rate=ALARM_RATE / n_searches,
        )
        planted = copy_search.score_planted(detector, *plant(), n_train=len(train_subjects))
    except NotMeasurableError as error:
        return DetectorResult(name=name, search=None, best=best, not_computed=str(error))
    search = replace(
        search,
        power=copy_search.measure_power(planted, search.threshold),
        lone_power=copy_search.measure_power(planted, search.lone_threshold),
    )
    return DetectorResult(name=name, search=search, best=best, planted=planted)


def contrastive_detector(sets: CaseSets, encoder: ContrastiveEncoder) -> copy_search.Detector:
    """Return the detector by the contrastive encoder's cosine similarity, to a volume or its mirror image."""
    train = encoder.embed(sets.train.boxed_images(sets.shape))

    def similarity(volumes: Sequence[npt.ArrayLike]) -> Floats:
        mirrored = [np.asarray(volume)[::-1] for volume in volumes]
        return np.maximum(*(cosine_neighbours(encoder.embed(each), train) for each in (volumes, mirrored)))

    return similarity


def privacy_results(
    searches: Sequence[DetectorResult], features: dict[str, Floats] | None
) -> list[MetricResult]:
    """Compute the privacy results.

    Args:
        searches: of the detectors.
        features: of "train", "test", "synthetic" and "noise", for the data-copying test; None leaves it out.
    """
    copying = [] if features is None else [_copying_result(features)]
    return [*(_copies_result(each) for each in searches), *copying]


def joint_power(searches: Sequence[DetectorResult]) -> Estimate | None:
    """Return the share of planted copies that at least one search finds; None where nothing was planted."""
    found = [
        each.planted > each.search.threshold
        for each in searches
        if each.search is not None and each.planted is not None
    ]
    if not found:
        return None
    seen = np.logical_or.reduce(found)
    return copy_search.share_with_interval(int(seen.sum()), len(seen))


def _copies_result(detector: DetectorResult) -> MetricResult:
    description = Description(
        key=f"privacy.copies_{detector.name}",
        title=f"Copies ({TITLES.get(detector.name, detector.name)})",
        meaning="Share of synthetic volumes that are more like a training patient than real test patients "
        "are; the real column is the share of real test volumes above the same threshold.",
        better="lower",
    )
    search = detector.search
    if search is None:
        return MetricResult(description=description, not_computed=detector.not_computed)

    def measure(column: Column) -> Estimate | None:
        if column == "real":
            return copy_search.share_with_interval(
                round(search.false_positive_rate * search.n_test), search.n_test
            )
        if column == "noise" and "noise" not in detector.best:
            return None
        values = detector.best["synthetic" if column == "synthetic" else "noise"]
        return copy_search.share_with_interval(int((values > search.threshold).sum()), len(values))

    note = search.sentence()
    if search.power is not None and search.power.value < GOOD_POWER:
        note += " With so little power the search says little: copies may well have gone unseen."
    return replace(compute_result(description, measure, note=note), verdict=_verdict(search))


def _verdict(search: copy_search.CopySearch) -> Light:
    """Red: more or nearer copies than chance explains. Amber: too little power to say so. Green: neither."""
    if search.fails:
        return "red"
    return "green" if search.power is not None and search.power.value >= GOOD_POWER else "amber"


def _copying_result(features: dict[str, Floats]) -> MetricResult:
    tests = {}

    def measure(column: Column) -> Estimate | None:
        if column == "real":
            # The test set against itself: no copying, by definition.
            return Estimate(
                value=0.0, lower=-1.96, upper=1.96, level=0.95, n_subjects=(len(features["test"]),)
            )
        tests[column] = data_copying_test(features["train"], features["test"], features[column])
        value = tests[column].statistic
        return Estimate(
            value=value, lower=value, upper=value, level=0.95, n_subjects=(len(features[column]),)
        )

    description = Description(
        key="privacy.data_copying",
        title="Data-copying test (C_T)",
        meaning="Whether the set as a whole lies nearer to the training set than real test cases do: far "
        "below 0 means copying, far above 0 keeping further away than patients do.",
        better="higher",
        unit="standard normal",
    )
    result = compute_result(description, measure)
    if "synthetic" not in tests:
        return result
    note = f"p = {tests['synthetic'].p_value:.3f} of copying. The real column is what chance gives."
    return replace(result, note=note)
