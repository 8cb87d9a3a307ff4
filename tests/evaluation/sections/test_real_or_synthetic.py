"""Real or synthetic: guessing on halves of one cohort, always right on blurred volumes, in any order."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from medldm.evaluation.cases.sets import CaseSet, CaseSets, Image, make_noise
from medldm.evaluation.errors import NotMeasurableError, TooFewCasesError
from medldm.evaluation.sections.classifier_trainings import RealOrSyntheticConfig, fit_steps
from medldm.evaluation.sections.comparison import Comparison
from medldm.evaluation.sections.metric_result import MetricResult
from medldm.evaluation.sections.real_or_synthetic import (
    make_pairs,
    real_or_synthetic_results,
)
from medldm.evaluation.volume_classifier import ClassifierConfig

CONFIG = RealOrSyntheticConfig(
    n_folds=3,
    n_permutations=99,
    network=ClassifierConfig(channels=(6, 8, 8), batch_size=8, n_steps=25, max_shift=2),
)
RADIOMICS_ALONE = CONFIG.copy(time_budget_s=0.0, network=ClassifierConfig())


def draw_volumes(n: int, *, seed: int) -> list[Image]:
    """Smooth noise whose smoothness differs from case to case."""
    generator = np.random.default_rng(seed)
    made = []
    for _ in range(n):
        volume = gaussian_filter(generator.normal(size=(12, 13, 10)), generator.uniform(0.6, 0.8))
        low, high = np.percentile(volume, (0.5, 99.5))
        made.append(((volume - low) / (high - low)).astype(np.float32))
    return made


def case_set(images: list[Image], *, spacing: float = 1.0) -> CaseSet:
    return CaseSet(
        images=tuple(images),
        labels=None,
        subjects=tuple(range(len(images))),
        file_spacing_mm=(spacing,) * 3,
        file_range=(0.0, 1.0),
    )


def compare(synthetic: list[Image], *, n: int = 24, ceiling: list[Image] | None = None) -> Comparison:
    test = case_set(draw_volumes(n, seed=1))
    sets = CaseSets(
        train=case_set(draw_volumes(30, seed=22)),
        test=test,
        synthetic=case_set(synthetic),
        noise=make_noise(test, schema=None),
        schema=None,
        spacing_mm=(1.0, 1.0, 1.0),
        shape=(12, 13, 10),
        is_ct=False,
        issues=(),
        ceiling=None if ceiling is None else case_set(ceiling),
    )
    return Comparison(sets=sets, n_resamples=20, seed=0)


def by_key(results: list[MetricResult]) -> dict[str, MetricResult]:
    return {each.description.key.removeprefix("fidelity.c2st_"): each for each in results}


def test_halves_of_one_cohort_are_guessed_and_blurred_volumes_always_told() -> None:
    blurred = [gaussian_filter(image, 1.0) for image in draw_volumes(20, seed=3)]
    results = by_key(real_or_synthetic_results(compare(blurred), CONFIG))
    assert list(results) == ["network", "radiomics"]
    for result in results.values():
        assert result.real is not None and result.synthetic is not None and result.p_values is not None
        assert result.real.lower <= 0.5 <= result.real.upper
        assert result.real.n_subjects == result.synthetic.n_subjects == (24, 20)
        assert result.synthetic.value > 0.98 and result.light == "red"
        assert result.p_values["synthetic"] == 0.01 and result.p_values["real"] > 0.05
        assert "12 x 13 x 10 voxels" in result.note
    assert results["network"].noise is None
    assert results["radiomics"].noise is not None and results["radiomics"].noise.value == 1.0


def test_real_volumes_in_the_synthetic_sets_place_pass_and_order_changes_nothing() -> None:
    own = draw_volumes(26, seed=4)
    first, second = (
        by_key(real_or_synthetic_results(compare(images), RADIOMICS_ALONE))["radiomics"]
        for images in (own, own[::-1])
    )
    assert first.synthetic is not None and first.synthetic.lower <= 0.5 <= first.synthetic.upper
    assert first.light in ("green", "amber")
    assert first.to_dict() == second.to_dict()


def test_an_autoencoder_that_loses_nothing_cannot_be_told() -> None:
    comparison = compare(draw_volumes(20, seed=5), ceiling=draw_volumes(24, seed=1))
    results = by_key(real_or_synthetic_results(comparison, CONFIG.copy(n_cases=18)))
    for result in results.values():
        assert result.ceiling is not None and result.ceiling.value == 0.5
        assert result.ceiling.n_subjects == (18, 18)
    _, pairs = make_pairs(comparison, CONFIG.copy(n_cases=18))
    assert pairs["ceiling"].first.keys == pairs["ceiling"].second.keys


def test_a_test_without_power_is_not_green() -> None:
    weak = CONFIG.copy(network=CONFIG.network.copy(n_steps=1))
    result = by_key(real_or_synthetic_results(compare(draw_volumes(20, seed=6)), weak))["network"]
    assert "Too weak a test" in result.note and result.light != "green"


def test_integers_pass_for_floats() -> None:
    integers = [(np.round(image * 50) / 50).astype(np.float32) for image in draw_volumes(24, seed=7)]
    result = by_key(real_or_synthetic_results(compare(integers), RADIOMICS_ALONE))["radiomics"]
    assert result.synthetic is not None and result.synthetic.lower <= 0.5
    assert "rounded to 1/5" in result.note or "rounded to 1/4" in result.note


def test_sets_that_resampling_tells_apart_are_refused() -> None:
    comparison = compare(draw_volumes(20, seed=8))
    sets = replace(comparison.sets, synthetic=case_set(draw_volumes(20, seed=8), spacing=1.5))
    with pytest.raises(NotMeasurableError, match="different spacings"):
        real_or_synthetic_results(replace(comparison, sets=sets), CONFIG)


def test_too_few_subjects_and_too_little_time_are_refused() -> None:
    with pytest.raises(TooFewCasesError, match="9 subjects"):
        real_or_synthetic_results(compare(draw_volumes(9, seed=9)), CONFIG)
    _, pairs = make_pairs(compare(draw_volumes(20, seed=9)), CONFIG)
    short = RealOrSyntheticConfig(time_budget_s=1e-3)
    with pytest.raises(NotMeasurableError, match=r"holds 0 steps for each of 15 trainings .* 20 steps"):
        fit_steps(pairs["synthetic"], short, n_sets=5)
    steps = fit_steps(pairs["synthetic"], RealOrSyntheticConfig(time_budget_s=float("inf")), n_sets=5)
    assert steps == ClassifierConfig().max_steps


def test_a_synthetic_case_shares_the_fold_of_the_test_case_whose_label_map_it_has() -> None:
    before = compare(draw_volumes(24, seed=5))
    maps = np.random.default_rng(0).integers(0, 3, size=(24, 12, 13, 10))
    order = np.random.default_rng(1).permutation(24)
    twins = [maps[place] if number % 2 else maps[place] + 3 for number, place in enumerate(order)]
    sets = replace(
        before.sets,
        test=replace(before.sets.test, labels=tuple(maps)),
        synthetic=replace(before.sets.synthetic, labels=tuple(twins)),
    )
    comparable, pairs = make_pairs(replace(before, sets=sets), CONFIG.copy(n_cases=24))
    folds = pairs["synthetic"].folds
    rows = zip(folds.order, folds.fold, folds.unit, strict=True)
    of_place = {place: (fold, unit) for place, fold, unit in rows}
    test, synthetic = (
        {key: of_place[shift + place] for place, key in enumerate(comparable.sets[name].keys)}
        for shift, name in ((0, "test"), (24, "synthetic"))
    )
    for number, place in enumerate(order):
        own = synthetic[comparable.sets["synthetic"].keys[number]]
        other = test[comparable.sets["test"].keys[place]]
        assert (own == other) == bool(number % 2)
    assert folds.n_subjects == (24, 24)
