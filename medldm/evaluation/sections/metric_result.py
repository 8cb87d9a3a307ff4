"""One result of a report: a measure of the synthetic set beside the same of real data and of noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from medldm.evaluation.errors import NotMeasurableError
from medldm.evaluation.metrics.bootstrap import Estimate

Light = Literal["green", "amber", "red", "grey"]
Better = Literal["lower", "higher", "near"]
Column = Literal["synthetic", "real", "noise", "ceiling"]

COLUMNS: tuple[Column, ...] = get_args(Column)
OWN_COLUMNS: tuple[Column, ...] = ("synthetic", "real", "noise")
"""Columns of every result; "ceiling", real test cases through the model's autoencoder, is of some alone."""

SECTIONS = {
    "fidelity": "Fidelity",
    "diversity": "Diversity",
    "anatomy": "Anatomy",
    "agreement": "Label agreement",
    "usefulness": "Usefulness",
    "privacy": "Privacy",
}


@dataclass(frozen=True, kw_only=True)
class Description:
    """What a result is, before it is computed.

    Args:
        key: "section.name"; the section is one of `SECTIONS`.
        title: of its row.
        meaning: one sentence that says what the result tells.
        better: "lower", "higher", or "near" the real column or the target.
        unit: of the numbers; empty for pure numbers.
        target: with "near", a value that is best in itself, such as 0.5 of guessing, in place of the real
            column's.
    """

    key: str
    title: str
    meaning: str
    better: Better
    unit: str = ""
    target: float | None = None

    def __post_init__(self) -> None:
        if self.section not in SECTIONS:
            raise ValueError(f"the result's key is {self.key!r}; it must start with one of {list(SECTIONS)}")

    @property
    def section(self) -> str:
        """Return the first part of the key."""
        return self.key.split(".")[0]


@dataclass(frozen=True, kw_only=True)
class MetricResult:
    """A computed result, or the reason why there is none.

    Args:
        description: what it is.
        synthetic: of the synthetic set.
        real: the same measure between real sets.
        noise: the same measure of noise.
        ceiling: the same measure of real test cases through the model's autoencoder.
        note: a sentence about this result.
        not_computed: why `synthetic` is None.
        p_values: by column, of the hypothesis that its set and the real test set come from one distribution;
            None where no such test was done.
        verdict: a traffic light by a rule of the measure's own, instead of that of `light`.
    """

    description: Description
    synthetic: Estimate | None = None
    real: Estimate | None = None
    noise: Estimate | None = None
    ceiling: Estimate | None = None
    note: str = ""
    not_computed: str = ""
    p_values: dict[Column, float] | None = None
    verdict: Light | None = None

    @property
    def light(self) -> Light:
        """Return the traffic light, from the synthetic and the real column alone.

        Green: no worse than the worse end of the real column's interval. Amber: worse, but its own interval
        reaches that far. Red: worse than that. Grey: not computed, or without a real column.
        """
        if self.verdict is not None:
            return self.verdict
        if self.synthetic is None or self.real is None:
            return "grey"
        s, r = _as_distance(self.synthetic, self), _as_distance(self.real, self)
        if s.value <= r.upper:
            return "green"
        return "amber" if s.lower <= r.upper else "red"

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able form."""
        texts = ("key", "title", "unit", "better", "meaning")
        return {
            **{name: getattr(self.description, name) for name in texts},
            "target": self.description.target,
            "light": self.light,
            **{name: estimate_to_dict(getattr(self, name)) for name in COLUMNS},
            "p_values": self.p_values,
            "note": self.note,
            "not_computed": self.not_computed or None,
        }


def compute_result(
    description: Description,
    measure: Callable[[Column], Estimate | None],
    *,
    note: str = "",
    columns: Sequence[Column] = OWN_COLUMNS,
) -> MetricResult:
    """Compute a result's columns; what cannot be measured becomes "not computed: why".

    Args:
        description: what it is.
        measure: returns a column's estimate, or None for a column that has none; raises
            `NotMeasurableError` where it does not apply.
        note: a sentence about this result.
        columns: that this result has.
    """
    found: dict[Column, Estimate | None] = {}
    for column in columns:
        try:
            found[column] = measure(column)
        except NotMeasurableError as error:
            if column == "synthetic":
                return MetricResult(description=description, not_computed=str(error))
    return MetricResult(
        description=description,
        synthetic=found["synthetic"],
        real=found.get("real"),
        noise=found.get("noise"),
        ceiling=found.get("ceiling"),
        note=note,
    )


def at_least_zero(estimate: Estimate) -> Estimate:
    """Return a distance's estimate with its interval cut at 0 and made to hold the value."""
    lower, upper = min(estimate.lower, estimate.value), max(estimate.upper, estimate.value)
    return replace(estimate, lower=max(lower, 0.0), upper=max(upper, 0.0))


def estimate_to_dict(estimate: Estimate | None) -> dict[str, Any] | None:
    """Return a JSON-able form; numbers that are not finite become None."""
    if estimate is None:
        return None
    numbers = {name: getattr(estimate, name) for name in ("value", "lower", "upper")}
    return {
        **{name: number if math.isfinite(number) else None for name, number in numbers.items()},
        "level": estimate.level,
        "n_subjects": list(estimate.n_subjects),
    }


def _as_distance(estimate: Estimate, result: MetricResult) -> Estimate:
    """Turn an estimate so that lower is better."""
    if result.description.better == "lower":
        return estimate
    if result.description.better == "higher":
        return replace(estimate, value=-estimate.value, lower=-estimate.upper, upper=-estimate.lower)
    real = result.real
    if real is None:
        return estimate
    target = result.description.target
    centre = real.value if target is None else target
    width = max(real.upper - centre, centre - real.lower)
    if estimate is real:
        return replace(estimate, value=0.0, lower=0.0, upper=width)
    ends = (abs(estimate.lower - centre), abs(estimate.upper - centre))
    nearest = 0.0 if estimate.lower <= centre <= estimate.upper else min(ends)
    return replace(estimate, value=abs(estimate.value - centre), lower=nearest, upper=max(ends))
