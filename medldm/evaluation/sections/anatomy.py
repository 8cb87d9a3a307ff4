"""Anatomy results: volumes, pieces and surfaces of structures beside those of the real test set."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from medldm.evaluation.cases.sets import CaseSets
from medldm.evaluation.errors import NotMeasurableError
from medldm.evaluation.metrics import anatomy
from medldm.evaluation.metrics.bootstrap import Estimate
from medldm.evaluation.sections.agreement import LabelAgreement
from medldm.evaluation.sections.comparison import COLUMN_SETS, Comparison
from medldm.evaluation.sections.metric_result import Column, Description, MetricResult, compute_result

Tables = dict[str, anatomy.AnatomyTable]
"""By "train", "test", "synthetic", "noise", "seen_synthetic" and "seen_test", as far as there are maps."""

SEEN_SETS: dict[Column, str] = {"synthetic": "seen_synthetic", "real": "test", "noise": "noise"}


class Quantity(NamedTuple):
    """What is measured of each structure: its column of the table, and how two sets' values are compared."""

    key: str
    title: str
    unit: str
    attribute: str
    meaning: str
    distance: Callable[..., float] = anatomy.distribution_distance


_APART = "How far the distributions of the {} lie apart."
_KS = "Largest difference of the distributions of the structure's volume, 0 to 1."
QUANTITIES = (
    Quantity("volume_ks", "Volume (KS)", "", "volume_ml", _KS, anatomy.ks_statistic),
    Quantity("volume_ml", "Volume", "ml", "volume_ml", _APART.format("structure's volume")),
    Quantity("surface_cm2", "Surface", "cm2", "surface_cm2", _APART.format("structure's surface area")),
    Quantity("n_components", "Pieces", "pieces", "n_components", _APART.format("number of connected pieces")),
)
SEEN_VOLUME = Quantity(
    "seen_volume_ml",
    "Volume in the image",
    "ml",
    "volume_ml",
    "How far the volumes that a segmenter sees in synthetic images lie from those it sees in real test "
    "images; the real column is the segmenter's own error there.",
)


def anatomy_tables(sets: CaseSets, agreement: LabelAgreement | None = None) -> Tables:
    """Measure the label maps of every set, and, where a segmenter ran, its maps of the images."""
    schema = sets.known_schema()
    tables = {
        name: anatomy.measure_anatomy(
            labels, sets.spacing_mm, values=schema.values, known=getattr(sets, name).known
        )
        for name in ("train", "test", "synthetic", "noise")
        if (labels := getattr(sets, name).labels) is not None
    }
    if agreement is not None:
        indices = tuple(range(1, schema.n_structures + 1))
        for name, seen in (("seen_synthetic", agreement.predicted), ("seen_test", agreement.predicted_test)):
            known = getattr(sets, name.removeprefix("seen_")).known
            tables[name] = anatomy.measure_anatomy(seen, sets.spacing_mm, values=indices, known=known)
    return tables


def anatomy_results(compare: Comparison, tables: Tables) -> list[MetricResult]:
    """Compare volumes, components and surfaces with those of the real test set, structure by structure."""
    results = []
    for place in range(compare.sets.known_schema().n_structures):
        results += [
            _anatomy_result(compare, tables, each, place, reference="test", others=COLUMN_SETS)
            for each in QUANTITIES
        ]
        if "seen_synthetic" in tables:
            results.append(
                _anatomy_result(compare, tables, SEEN_VOLUME, place, reference="seen_test", others=SEEN_SETS)
            )
    return results


def _anatomy_result(
    compare: Comparison,
    tables: Tables,
    quantity: Quantity,
    place: int,
    *,
    reference: str,
    others: dict[Column, str],
) -> MetricResult:
    """Compare one quantity of a structure in a table of the test set with a table of each column."""

    def measure(column: Column) -> Estimate:
        other = others[column]
        if not {reference, other} <= tables.keys():
            raise NotMeasurableError("a set has no label maps, or not of every case")
        first, second = (getattr(tables[each], quantity.attribute)[:, place] for each in (reference, other))
        subjects = (getattr(compare.sets, each.removeprefix("seen_")).subjects for each in (reference, other))
        return compare.interval(
            lambda u, v: quantity.distance(first, second, weights=(u, v)), *subjects, is_distance=True
        )

    value, name = list(compare.sets.known_schema().structures.items())[place]
    description = Description(
        key=f"anatomy.{quantity.key}_{value}",
        title=f"{quantity.title}, {name}",
        meaning=quantity.meaning,
        better="lower",
        unit=quantity.unit,
    )
    return compute_result(description, measure)
