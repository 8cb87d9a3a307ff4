"""Real or synthetic? Whether a classifier can tell, by what a network sees and by radiomics.

Each column is a set against the real test set; the real one is the control: as many real training cases as
synthetic ones, by the same protocol. A network that finds no difference may be too weak to find one, so the
control's cases are blurred by half a voxel, too, and the note says how well these are told.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache

from scipy.ndimage import gaussian_filter

from medldm.evaluation.cases.comparable import Comparable, ComparableSet, make_comparable
from medldm.evaluation.cases.reading import scale_set
from medldm.evaluation.cases.sets import CaseSet, CaseSets, Image
from medldm.evaluation.errors import NotMeasurableError
from medldm.evaluation.features.cache import FeatureCache
from medldm.evaluation.features.radiomics import radiomics_features
from medldm.evaluation.metrics.bootstrap import Estimate
from medldm.evaluation.metrics.checks import Floats
from medldm.evaluation.metrics.classifier_test import (
    ClassifierTest,
    held_out_test,
    linear_test,
    make_folds,
)
from medldm.evaluation.sections.classifier_trainings import (
    Pair,
    RealOrSyntheticConfig,
    fit_steps,
    score_held_out,
)
from medldm.evaluation.sections.comparison import COLUMN_SETS, Comparison
from medldm.evaluation.sections.metric_result import (
    COLUMNS,
    Column,
    Description,
    Light,
    MetricResult,
    compute_result,
)
from medldm.files import hash_array
from medldm.runtime.distributed import gather_rows

BLURRED = "blurred"
BLUR_SD = 0.5
"""Voxels: the standard deviation of the Gaussian."""
CHANCE = 0.5

NETWORK = Description(
    key="fidelity.c2st_network",
    title="Real or synthetic, AUC (network)",
    meaning="How often a small 3D network that learned from other cases says rightly which of two volumes "
    "is the real test case; 0.5 is guessing, 1 always.",
    better="near",
    target=CHANCE,
)
RADIOMICS = Description(
    key="fidelity.c2st_radiomics",
    title="Real or synthetic, AUC (radiomics)",
    meaning="The same by a regularised linear rule on radiomics features and their squares.",
    better="near",
    target=CHANCE,
)


def real_or_synthetic_results(
    compare: Comparison,
    config: RealOrSyntheticConfig,
    *,
    n_workers: int = 2,
    cache: FeatureCache | None = None,
    progress: Callable[[str], None] | None = None,
) -> list[MetricResult]:
    """Compute the AUCs of both classifiers.

    Args:
        compare: the sets.
        config: of the classifiers.
        n_workers: volumes at a time.
        cache: of an earlier evaluation; None remembers nothing.
        progress: told what is being done.

    Raises:
        NotMeasurableError: where resampling alone would tell the sets apart, or volumes are too small.
        TooFewCasesError: for fewer than 10 subjects in a set.
    """
    tell = progress or (lambda _: None)
    comparable, pairs = make_pairs(compare, config)
    note = comparable.describe()
    tell("real or synthetic, by radiomics")
    results = [_radiomics_result(compare, pairs, config, note, n_workers, cache or FeatureCache(None))]
    if config.has_network:
        tell("real or synthetic, by a network")
        results.insert(0, _network_result(compare, pairs, config, note))
    return results


def make_pairs(compare: Comparison, config: RealOrSyntheticConfig) -> tuple[Comparable, dict[str, Pair]]:
    """Return the sets made comparable, and each with as many cases beside the real test set.

    Raises:
        NotMeasurableError: where the sets' files have different spacings, or volumes are too small.
        TooFewCasesError: for fewer than 10 subjects in a set.
    """
    sets = compare.sets
    if not sets.same_spacing:
        raise NotMeasurableError(
            "the sets' files have different spacings; resampling to one grid tells them apart by itself"
        )
    limits = sets.train.file_range if sets.is_ct else (0.0, 1.0)
    comparable = make_comparable({**sets.named(), BLURRED: blur_set(sets)}, limits=limits)
    n = min(len(sets.train), len(sets.synthetic), config.n_cases)
    # The ceiling's cases are the test cases, place by place, and the blurred ones the training cases.
    places = {
        name: each.draw(config.n_cases if name in ("test", "ceiling") else n, seed=compare.seed)
        for name, each in comparable.sets.items()
    }
    places.update({BLURRED: places["train"]} | ({"ceiling": places["test"]} if "ceiling" in places else {}))
    chosen = {name: each.take(places[name]) for name, each in comparable.sets.items()}
    test = chosen.pop("test")
    parts = sets.named() | {BLURRED: sets.train}
    people = {name: name_people(parts[name], sets) for name in comparable.sets}
    people = {name: [own[place] for place in places[name]] for name, own in people.items()}
    return comparable, {
        name: Pair(
            first=test,
            second=second,
            folds=make_folds(
                (test.keys, second.keys),
                (people["test"], people[name]),
                n_folds=config.n_folds,
                are_paired=True,
                seed=compare.seed,
            ),
        )
        for name, second in chosen.items()
    }


def name_people(part: CaseSet, sets: CaseSets) -> list[tuple[str, int]]:
    """Return whom each case of a set shows: of a test case's label map that test case's subject.

    A classifier that learned an anatomy as real takes its synthetic twin for real, too: with twins in
    different folds the AUC falls below 0.5, however different the sets are.

    Args:
        part: one of the sets.
        sets: all of them.
    """
    if part is sets.test or part is sets.ceiling:
        return [("test", subject) for subject in part.subjects]
    of_map = {
        hash_array(labels): ("test", subject)
        for labels, subject in zip(sets.test.labels or (), sets.test.subjects, strict=False)
    }
    own = [("own", subject) for subject in part.subjects]
    if part.labels is None:
        return own
    return [of_map.get(hash_array(labels), name) for labels, name in zip(part.labels, own, strict=True)]


def blur_set(sets: CaseSets) -> CaseSet:
    """Return the real training set, blurred by a Gaussian of half a voxel, on the same scale."""
    images = tuple(gaussian_filter(image, BLUR_SD, mode="nearest") for image in sets.train.images)
    blurred = replace(sets.train, images=images)
    return blurred if sets.is_ct else scale_set(blurred)


def _radiomics_result(
    compare: Comparison,
    pairs: Mapping[str, Pair],
    config: RealOrSyntheticConfig,
    note: str,
    n_workers: int,
    features_cache: FeatureCache,
) -> MetricResult:
    @cache
    def test(name: str) -> ClassifierTest:
        pair = pairs[name]
        first, second = (
            _radiomics(each, n_workers=n_workers, cache=features_cache) for each in (pair.first, pair.second)
        )
        return linear_test(first, second, pair.folds, n_permutations=config.n_permutations, seed=compare.seed)

    result = compute_result(RADIOMICS, lambda c: test(COLUMN_SETS[c]).auc, columns=compare.columns)
    how = "The p-values train again for each of the relabellings, within folds."
    return _with_note(result, test, f"{how} {note}")


def _network_result(
    compare: Comparison, pairs: Mapping[str, Pair], config: RealOrSyntheticConfig, note: str
) -> MetricResult:
    asked = [name for name in pairs if name != "noise"]
    try:
        n_steps = fit_steps(pairs["synthetic"], config, n_sets=len(asked))
    except NotMeasurableError as error:
        return MetricResult(description=NETWORK, not_computed=str(error))
    scores = score_held_out({name: pairs[name] for name in asked}, config, n_steps=n_steps, seed=compare.seed)

    @cache
    def test(name: str) -> ClassifierTest:
        return held_out_test(
            scores[name], pairs[name].folds, n_permutations=config.n_permutations, seed=compare.seed
        )

    def measure(column: Column) -> Estimate | None:
        return None if column == "noise" else test(COLUMN_SETS[column]).auc

    result = compute_result(NETWORK, measure, columns=compare.columns)
    how = (
        f"{pairs['synthetic'].folds.n_folds} trainings of {n_steps} steps for each set. The p-values permute "
        "the labels of held-out scores within folds, with the variance doubled because folds share training "
        "cases."
    )
    return _with_note(result, test, f"{how} {note}")


def _radiomics(part: ComparableSet, *, n_workers: int, cache: FeatureCache) -> Floats:
    def recall(volume: Image) -> Floats:
        return cache.recall_row(
            "radiomics",
            volume,
            {"limits": [0.0, 1.0]},
            lambda: [*radiomics_features(volume, limits=(0.0, 1.0)).values()],
        )

    def recall_some(volumes: Sequence[Image]) -> list[Floats]:
        with ThreadPoolExecutor(n_workers) as pool:
            return list(pool.map(recall, volumes))

    return gather_rows(list(part.volumes), recall_some)


def _with_note(result: MetricResult, test: Callable[[str], ClassifierTest], note: str) -> MetricResult:
    """Add the p-values and the power; a green light of a test without power turns amber."""
    if result.synthetic is None:
        return result
    power = test(BLURRED).auc
    columns = [each for each in COLUMNS if getattr(result, each) is not None]
    p_values = {each: test(COLUMN_SETS[each]).p_value for each in columns}
    text = (
        f"p = {p_values['synthetic']:.2g} for synthetic, {p_values['real']:.2g} for real training cases; "
        f"these blurred by half a voxel have an AUC of {power}. {note}"
    )
    has_power = power.lower > CHANCE
    if not has_power:
        text = f"Too weak a test to find a blur of half a voxel: read no closeness from it. {text}"
    verdict: Light | None = "amber" if result.light == "green" and not has_power else None
    return replace(result, note=text, p_values=p_values, verdict=verdict)
