"""What the columns of a result compare: the set that each one measures, and its interval by subject."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from medldm.evaluation.cases.sets import CaseSet, CaseSets
from medldm.evaluation.metrics.bootstrap import Estimate, bootstrap_interval
from medldm.evaluation.metrics.checks import Floats
from medldm.evaluation.sections.metric_result import COLUMNS, OWN_COLUMNS, Column, at_least_zero

COLUMN_SETS: dict[Column, str] = {
    "synthetic": "synthetic",
    "real": "train",
    "noise": "noise",
    "ceiling": "ceiling",
}


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The sets of an evaluation with the settings of its intervals.

    Args:
        sets: the cases.
        n_resamples: of each interval.
        seed: of the resamples and of whatever else is drawn.
    """

    sets: CaseSets
    n_resamples: int
    seed: int

    @property
    def columns(self) -> tuple[Column, ...]:
        """Return the columns of a result of images."""
        return COLUMNS if self.sets.ceiling is not None else OWN_COLUMNS

    def part(self, column: Column) -> CaseSet:
        """Return the set that a column measures."""
        part: CaseSet = getattr(self.sets, COLUMN_SETS[column])
        return part

    def interval(
        self, statistic: Callable[..., float], *subjects: Sequence[Hashable], is_distance: bool = False
    ) -> Estimate:
        """Resample the subjects of one or two sets; a distance, biased upwards, gets the basic interval."""
        estimate = bootstrap_interval(
            statistic,
            subjects,
            n_resamples=self.n_resamples,
            method="basic" if is_distance else "percentile",
            seed=self.seed,
        )
        return at_least_zero(estimate) if is_distance else estimate

    def with_test(
        self, column: Column, statistic: Callable[[Floats, Floats], float], *, is_distance: bool = False
    ) -> Estimate:
        """Resample the real test set and a column's set."""
        return self.interval(
            statistic, self.sets.test.subjects, self.part(column).subjects, is_distance=is_distance
        )
