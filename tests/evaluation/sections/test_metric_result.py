"""Figures: traffic lights from the three columns, refusals, JSON without NaN."""

from __future__ import annotations

import json
import math

import pytest

from medldm.evaluation.errors import NotMeasurableError
from medldm.evaluation.metrics.bootstrap import Estimate
from medldm.evaluation.sections.metric_result import (
    Better,
    Column,
    Description,
    MetricResult,
    at_least_zero,
    compute_result,
)
from medldm.evaluation.stages import record_refusal


def make_estimate(value: float, lower: float, upper: float) -> Estimate:
    return Estimate(value=value, lower=lower, upper=upper, level=0.95, n_subjects=(5, 6))


def make_description(better: Better = "lower") -> Description:
    return Description(key="fidelity.test", title="Test", meaning="A test.", better=better)


@pytest.mark.parametrize(
    ("better", "synthetic", "light"),
    [
        ("lower", (1.9, 1.5, 2.4), "green"),
        ("lower", (2.5, 1.9, 3.0), "amber"),
        ("lower", (2.5, 2.2, 3.0), "red"),
        ("higher", (0.1, 0.0, 0.3), "amber"),
        ("higher", (0.1, 0.0, 0.15), "red"),
        ("higher", (5.0, 4.0, 6.0), "green"),
        ("near", (1.5, 1.0, 2.5), "green"),
        ("near", (4.0, 1.9, 5.0), "amber"),
        ("near", (-4.0, -5.0, -3.0), "red"),
    ],
)
def test_light_follows_the_real_columns_interval(
    better: Better, synthetic: tuple[float, float, float], light: str
) -> None:
    result = MetricResult(
        description=make_description(better),
        synthetic=make_estimate(*synthetic),
        real=make_estimate(1.0, 0.2, 2.0),
        noise=make_estimate(9.0, 8.0, 10.0),
    )
    assert result.light == light


def test_without_a_real_column_nothing_is_judged() -> None:
    assert MetricResult(description=make_description(), synthetic=make_estimate(1, 0, 2)).light == "grey"


def test_a_verdict_of_the_measure_itself_comes_first() -> None:
    estimate = make_estimate(1, 0, 2)
    result = MetricResult(description=make_description(), synthetic=estimate, real=estimate, verdict="red")
    assert result.light == "red"


def test_a_refusal_becomes_the_reason() -> None:
    def refuse(column: Column) -> Estimate:
        raise NotMeasurableError("too few cases")

    result = compute_result(make_description(), refuse)
    assert result.not_computed == "too few cases"
    assert result.synthetic is None
    assert result.light == "grey"


def test_a_column_that_cannot_be_computed_is_left_empty() -> None:
    def measure(column: Column) -> Estimate:
        if column == "noise":
            raise NotMeasurableError("no noise")
        return make_estimate(1, 0, 2)

    result = compute_result(make_description(), measure)
    assert result.noise is None
    assert result.light == "green"


@pytest.mark.parametrize("error", [TypeError, ValueError])
def test_errors_that_are_no_refusal_are_not_swallowed(error: type[Exception]) -> None:
    def fail(column: Column) -> Estimate:
        raise error("a mistake")

    with pytest.raises(error, match="a mistake"):
        compute_result(make_description(), fail)
    results: list[MetricResult] = []
    with pytest.raises(error, match="a mistake"), record_refusal("fidelity", results):
        fail("synthetic")
    assert results == []


def test_json_holds_no_nan() -> None:
    result = MetricResult(description=make_description(), synthetic=make_estimate(1.0, math.nan, math.inf))
    content = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert content["synthetic"] == {
        "value": 1.0,
        "lower": None,
        "upper": None,
        "level": 0.95,
        "n_subjects": [5, 6],
    }


def test_distances_do_not_go_below_zero_and_hold_their_value() -> None:
    cut = at_least_zero(make_estimate(0.0, -0.4, -0.1))
    assert (cut.lower, cut.upper) == (0.0, 0.0)
    assert at_least_zero(make_estimate(1.0, -0.5, 0.7)).upper == 1.0


def test_a_key_of_no_section_is_refused() -> None:
    with pytest.raises(ValueError, match=r"beauty\.all"):
        Description(key="beauty.all", title="", meaning="", better="lower")
