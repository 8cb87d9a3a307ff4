"""Usefulness: real cases in the place of synthetic ones are exactly as useful, spoilt ones are not."""

from __future__ import annotations

import numpy as np
import pytest

from medldm.evaluation.cases.sets import LabelledImage
from medldm.evaluation.errors import NotMeasurableError, TooFewCasesError
from medldm.evaluation.sections.usefulness import UsefulnessConfig
from medldm.evaluation.sections.usefulness_trainings import blind_answer, fit_steps, measure_usefulness
from medldm.evaluation.segmenter import SegmenterConfig

CONFIG = UsefulnessConfig(
    n_seeds=2,
    segmenter=SegmenterConfig(channels=(4, 8, 8), patch_size=(12, 12, 12), learning_rate=1e-2, n_steps=25),
)


def make_cases(n: int, *, seed: int = 0) -> list[LabelledImage]:
    """Bright boxes on a dark ground."""
    rng = np.random.default_rng(seed)
    cases = []
    for _ in range(n):
        labels = np.zeros((12, 12, 12), dtype=np.int64)
        x, y, z = rng.integers(0, 7, size=3)
        labels[x : x + 5, y : y + 5, z : z + 5] = 1
        cases.append(((2.0 * labels + rng.normal(0, 0.3, labels.shape)).astype(np.float32), labels))
    return cases


def test_real_as_synthetic_is_exactly_as_useful() -> None:
    real, test = make_cases(4), make_cases(4, seed=1)
    result = measure_usefulness(
        real, real, test, spacing_mm=(1, 1, 1), n_structures=1, n_steps=25, config=CONFIG
    )
    np.testing.assert_array_equal(result.regimes["synthetic"].dice, result.regimes["real"].dice)
    np.testing.assert_array_equal(result.regimes["synthetic"].hd95_mm, result.regimes["real"].hd95_mm)
    assert result.ratio("synthetic").value == 1.0
    assert result.mean("real").value > 0.7
    assert result.mean("blind").value < result.mean("real").lower
    assert result.regimes["both"].dice.shape == (2, 4, 1)


def test_cases_whose_labels_lie_elsewhere_are_useless() -> None:
    real, test = make_cases(4), make_cases(4, seed=1)
    spoilt = [(image, real[place - 1][1][::-1].copy()) for place, (image, _) in enumerate(real)]
    result = measure_usefulness(
        real, spoilt, test, spacing_mm=(1, 1, 1), n_structures=1, n_steps=25, config=CONFIG
    )
    assert result.ratio("synthetic").upper < 0.6


def test_the_blind_answer_is_the_most_common_label() -> None:
    maps = [np.full((3, 3, 3), value) for value in (0, 2, 2)]
    np.testing.assert_array_equal(blind_answer(maps, n_structures=2), np.full((3, 3, 3), 2))


def test_given_steps_override_the_budget() -> None:
    assert fit_steps(make_cases(2), CONFIG, n_structures=1) == 25


def test_a_budget_too_small_is_refused_with_what_it_needs() -> None:
    small = UsefulnessConfig(time_budget_s=1e-3, segmenter=SegmenterConfig(channels=(4, 4, 4)))
    with pytest.raises(NotMeasurableError, match="needed at least"):
        fit_steps(make_cases(2), small, n_structures=1)
    with pytest.raises(NotMeasurableError, match="trainings is 0"):
        fit_steps(make_cases(2), UsefulnessConfig(time_budget_s=0), n_structures=1)


def test_a_large_budget_stops_at_the_largest_number_of_steps() -> None:
    config = UsefulnessConfig(time_budget_s=1e6, segmenter=SegmenterConfig(channels=(4, 4, 4), max_steps=37))
    assert fit_steps(make_cases(2), config, n_structures=1) == 37


def test_missing_cases_are_refused() -> None:
    with pytest.raises(TooFewCasesError, match="0 synthetic"):
        measure_usefulness(
            make_cases(1), [], make_cases(2), spacing_mm=(1, 1, 1), n_structures=1, n_steps=1, config=CONFIG
        )
