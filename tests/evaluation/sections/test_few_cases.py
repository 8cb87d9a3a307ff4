"""Gain beside few real cases: good cases help, spoilt ones harm, and maps of other patients are counted."""

from __future__ import annotations

import numpy as np
import pytest

from medldm.evaluation.cases.sets import LabelledImage
from medldm.evaluation.errors import TooFewCasesError
from medldm.evaluation.sections.few_cases import (
    FewCases,
    choose_counts,
    draw_cases,
    few_cases_results,
    measure_few_cases,
)
from medldm.evaluation.sections.usefulness import UsefulnessConfig
from medldm.evaluation.sections.usefulness_trainings import count_trainings
from medldm.evaluation.segmenter import SegmenterConfig
from tests.evaluation.sections.test_usefulness import make_cases

CONFIG = UsefulnessConfig(
    n_seeds=2,
    few_cases=(2, 50),
    segmenter=SegmenterConfig(channels=(4, 8, 8), patch_size=(12, 12, 12), learning_rate=1e-2),
)


def measure(synthetic: list[LabelledImage], **options: object) -> FewCases:
    # Two real cases whose labels lie elsewhere teach nothing, so that all that is learned is of the others.
    real = [(image, labels[::-1].copy()) for image, labels in make_cases(3)]
    test = make_cases(8, seed=1)
    (found,) = measure_few_cases(real, synthetic, test, n_structures=1, n_steps=40, config=CONFIG, **options)
    return found


def test_good_cases_help_and_the_real_ones_again_do_not() -> None:
    helped = measure(make_cases(12, seed=2), sources=[0, 1, 2, *[None] * 9])
    assert (helped.n_real, helped.n_synthetic, helped.n_foreign) == (2, 12, 1.0)
    gain = helped.gain()
    assert gain.value > 0.15 and gain.lower > 0
    assert helped.alone.shape == helped.with_synthetic.shape == (2, 8)
    (result,) = few_cases_results([helped])
    assert result.light == "green" and "1 have the label map of a training case" in result.note


def make_found(gain: float, spread: float) -> FewCases:
    generator = np.random.default_rng(0)
    alone = generator.uniform(0.4, 0.8, size=(3, 30))
    return FewCases(
        n_real=5,
        n_synthetic=9,
        n_foreign=0.0,
        alone=alone,
        with_synthetic=alone + gain + spread * generator.normal(size=alone.shape),
        n_steps=(20, 40),
        subjects=tuple(range(30)),
    )


@pytest.mark.parametrize(("gain", "light"), [(0.1, "green"), (0.0, "grey"), (-0.1, "red")])
def test_light_of_a_gain(gain: float, light: str) -> None:
    found = make_found(gain, 0.05)
    (result,) = few_cases_results([found])
    assert result.light == light and "label map" not in result.note
    assert found.gain().value == pytest.approx(gain, abs=0.02)
    assert found.to_dict()["gain"]["value"] == pytest.approx(found.gain().value)


def test_pairs_make_the_interval_of_a_gain_narrower_than_of_either_arm() -> None:
    found = make_found(0.05, 0.01)
    width = {
        name: each.upper - each.lower
        for name, each in (("gain", found.gain()), ("alone", found.mean("alone")))
    }
    assert width["gain"] < width["alone"] / 5


def test_a_draw_of_more_cases_holds_that_of_fewer_and_draws_differ() -> None:
    assert set(draw_cases(30, 5, seed=0, draw=1)) < set(draw_cases(30, 10, seed=0, draw=1))
    assert draw_cases(30, 5, seed=0, draw=1) != draw_cases(30, 5, seed=0, draw=2)


def test_numbers_that_are_not_fewer_are_left_out() -> None:
    config = UsefulnessConfig(few_cases=(20, 5, 5, 10))
    assert choose_counts(config, 20) == (5, 10) and choose_counts(config, 3) == ()
    assert count_trainings(config, 20) == 3 * (3 + 2 * 2)
    assert (
        measure_few_cases(
            make_cases(2), make_cases(1), make_cases(2), n_structures=1, n_steps=1, config=config
        )
        == []
    )
    with pytest.raises(ValueError, match="few_cases are"):
        UsefulnessConfig(few_cases=(0,))
    with pytest.raises(TooFewCasesError, match="0 synthetic"):
        measure_few_cases(make_cases(2), [], make_cases(2), n_structures=1, n_steps=1, config=config)
