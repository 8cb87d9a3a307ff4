"""Anatomy, label agreement and usefulness as results beside real data and noise."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from medldm.data.labels import LabelSchema
from medldm.evaluation.cases.sets import CaseSets
from medldm.evaluation.metrics.anatomy import (
    AnatomyTable,
    distribution_distance,
    ks_statistic,
    measure_anatomy,
)
from medldm.evaluation.metrics.bootstrap import Estimate, bootstrap_interval
from medldm.evaluation.metrics.checks import Floats
from medldm.evaluation.sections.agreement import LabelAgreement
from medldm.evaluation.sections.metric_result import (
    Column,
    Description,
    MetricResult,
    at_least_zero,
    compute_result,
)
from medldm.evaluation.sections.usefulness import Usefulness

ALL = "all structures"
TOO_WEAK = (
    "the segmenter trained on real cases for {n_steps} steps reaches a Dice of {real} on real test subjects, "
    "an answer that looks at no image {blind}: it learned too little to judge anything. Give a larger time "
    "budget"
)
COLUMN_SETS: dict[Column, str] = {"synthetic": "synthetic", "real": "train", "noise": "noise"}


def anatomy_tables(sets: CaseSets, agreement: LabelAgreement | None = None) -> dict[str, AnatomyTable]:
    """Measure the label maps of every set, and, where a segmenter ran, its maps of the images.

    Returns:
        By "train", "test", "synthetic", "noise", "seen_synthetic" and "seen_test", as far as there are maps.
    """
    schema = sets.known_schema()
    maps: dict[str, Sequence[npt.NDArray[np.int64]]] = {
        name: part.labels
        for name in ("train", "test", "synthetic", "noise")
        if (part := getattr(sets, name)).labels is not None
    }
    tables = {
        name: measure_anatomy(each, sets.spacing_mm, values=schema.values) for name, each in maps.items()
    }
    if agreement is not None:
        indices = tuple(range(1, schema.n_structures + 1))
        for name, seen in (("seen_synthetic", agreement.predicted), ("seen_test", agreement.predicted_test)):
            tables[name] = measure_anatomy(seen, sets.spacing_mm, values=indices)
    return tables


def anatomy_results(
    sets: CaseSets, tables: dict[str, AnatomyTable], *, n_resamples: int, seed: int
) -> list[MetricResult]:
    """Compare volumes, components and surfaces with those of the real test set, structure by structure."""
    results = []
    for place, (value, name) in enumerate(sets.known_schema().structures.items()):
        results += [
            _anatomy_result(sets, tables, quantity, value, name, place, n_resamples=n_resamples, seed=seed)
            for quantity in ("volume_ks", "volume_ml", "surface_cm2", "n_components")
        ]
        if "seen_synthetic" in tables:
            results.append(_seen_result(sets, tables, value, name, place, n_resamples=n_resamples, seed=seed))
    return results


def agreement_results(agreement: LabelAgreement, schema: LabelSchema, *, seed: int) -> list[MetricResult]:
    """Turn label agreement into one result for the mean and one for each structure."""

    def make(structure: int | None, name: str) -> MetricResult:
        def measure(column: Column) -> Estimate:
            if column == "real":
                own = agreement.dice("test", structure, seed=seed)
                return Estimate(
                    value=0.0,
                    lower=own.lower - own.value,
                    upper=own.upper - own.value,
                    level=own.level,
                    n_subjects=own.n_subjects,
                )
            return agreement.difference(structure, chance=column == "noise", seed=seed)

        synthetic, test = (agreement.dice(which, structure, seed=seed) for which in ("synthetic", "test"))
        description = Description(
            key=f"agreement.{'mean' if structure is None else schema.values[structure]}",
            title=f"Label agreement, {name}",
            meaning="Dice of a segmenter between its output on the synthetic image and the map it was made "
            "from, minus its Dice on "
            "real test data: 0 where synthetic images follow their maps as well as real ones do. Noise is "
            "another case's map.",
            better="higher",
            unit="Dice",
        )
        return compute_result(
            description, measure, note=f"Dice {synthetic} on synthetic, {test} on real test images."
        )

    return [make(None, ALL), *(make(place, name) for place, name in enumerate(schema.structures.values()))]


def mark_too_weak(results: Sequence[MetricResult], usefulness: Usefulness) -> list[MetricResult]:
    """Turn results that stand on a segmenter that sees nothing into "not computed: why"."""
    if not usefulness.sees_nothing():
        return list(results)
    reason = TOO_WEAK.format(
        n_steps=usefulness.n_steps, real=usefulness.mean("real"), blind=usefulness.mean("blind")
    )
    return [MetricResult(description=each.description, not_computed=reason) for each in results]


def usefulness_results(usefulness: Usefulness, schema: LabelSchema, *, seed: int) -> list[MetricResult]:
    """Turn usefulness into results: the ratio to real training, and Dice and HD95 for each structure."""
    results = [_ratio_result(usefulness, regime, seed=seed) for regime in ("synthetic", "both")]
    structures: list[tuple[int | None, str, str]] = [(None, "mean", ALL)]
    structures += [(place, str(v), name) for place, (v, name) in enumerate(schema.structures.items())]
    for measure, title, better, unit in (("dice", "Dice", "higher", ""), ("hd95_mm", "HD95", "lower", "mm")):
        results += [
            _score_result(usefulness, measure, title, better, unit, structure, key, name, seed=seed)  # type: ignore[arg-type]
            for structure, key, name in structures
        ]
    return results


def _anatomy_result(
    sets: CaseSets,
    tables: dict[str, AnatomyTable],
    quantity: str,
    value: int,
    name: str,
    place: int,
    *,
    n_resamples: int,
    seed: int,
) -> MetricResult:
    title, meaning, unit = {
        "volume_ks": (
            "Volume (KS)",
            "Largest difference of the distributions of the structure's volume, 0 to 1.",
            "",
        ),
        "volume_ml": ("Volume", "How far the distributions of the structure's volume lie apart.", "ml"),
        "surface_cm2": (
            "Surface",
            "How far the distributions of the structure's surface area lie apart.",
            "cm2",
        ),
        "n_components": (
            "Pieces",
            "How far the distributions of the number of connected pieces lie apart.",
            "pieces",
        ),
    }[quantity]
    attribute = "volume_ml" if quantity == "volume_ks" else quantity
    statistic = ks_statistic if quantity == "volume_ks" else distribution_distance

    def measure(column: Column) -> Estimate:
        other = COLUMN_SETS[column]
        for needed in ("test", other):
            if needed not in tables:
                raise ValueError("a set has no label maps, or not of every case")
        first, second = (getattr(tables[each], attribute)[:, place] for each in ("test", other))
        return _interval(
            statistic, first, second, (sets.test.subjects, getattr(sets, other).subjects), n_resamples, seed
        )

    description = Description(
        key=f"anatomy.{quantity}_{value}",
        title=f"{title}, {name}",
        meaning=meaning,
        better="lower",
        unit=unit,
    )
    return compute_result(description, measure)


def _seen_result(
    sets: CaseSets,
    tables: dict[str, AnatomyTable],
    value: int,
    name: str,
    place: int,
    *,
    n_resamples: int,
    seed: int,
) -> MetricResult:
    volumes = {each: table.volume_ml[:, place] for each, table in tables.items()}

    def measure(column: Column) -> Estimate:
        other = {"synthetic": "seen_synthetic", "real": "test", "noise": "noise"}[column]
        subjects = sets.synthetic.subjects if column == "synthetic" else getattr(sets, other).subjects
        return _interval(
            distribution_distance,
            volumes["seen_test"],
            volumes[other],
            (sets.test.subjects, subjects),
            n_resamples,
            seed,
        )

    description = Description(
        key=f"anatomy.seen_volume_ml_{value}",
        title=f"Volume in the image, {name}",
        meaning="How far the volumes that a segmenter sees in synthetic images lie from those it sees in "
        "real test images; "
        "the real column is the segmenter's own error there.",
        better="lower",
        unit="ml",
    )
    return compute_result(description, measure)


def _interval(
    statistic: Callable[..., float],
    first: Floats,
    second: Floats,
    subjects: tuple[Sequence[Hashable], Sequence[Hashable]],
    n_resamples: int,
    seed: int,
) -> Estimate:
    estimate = bootstrap_interval(
        lambda u, v: statistic(first, second, weights=(u, v)),
        subjects,
        n_resamples=n_resamples,
        method="basic",
        seed=seed,
    )
    return at_least_zero(estimate)


def _ratio_result(usefulness: Usefulness, regime: str, *, seed: int) -> MetricResult:
    def measure(column: Column) -> Estimate:
        if column == "real":
            own = usefulness.mean("real", seed=seed)
            low, high = own.lower / own.value, own.upper / own.value
            return Estimate(value=1.0, lower=low, upper=high, level=own.level, n_subjects=own.n_subjects)
        return usefulness.ratio(regime if column == "synthetic" else "blind", seed=seed)

    low, high = usefulness.spread_over_seeds(regime)
    n_seeds = len(usefulness.regimes[regime].dice)
    description = Description(
        key=f"usefulness.ratio_{regime}",
        title=f"Usefulness, {'synthetic only' if regime == 'synthetic' else 'real and synthetic'}",
        meaning="Dice on real test subjects of a segmenter trained on "
        + ("synthetic cases alone" if regime == "synthetic" else "real and synthetic cases together")
        + ", divided by that of one trained on real cases. Noise is an answer that looks at no image.",
        better="higher",
    )
    note = f"{n_seeds} trainings of {usefulness.n_steps} steps; mean Dice {low:.3f} to {high:.3f} over seeds."
    return compute_result(description, measure, note=note)


def _score_result(
    usefulness: Usefulness,
    measure: Literal["dice", "hd95_mm"],
    title: str,
    better: Literal["lower", "higher"],
    unit: str,
    structure: int | None,
    key: str,
    name: str,
    *,
    seed: int,
) -> MetricResult:
    regimes = {"synthetic": "synthetic", "real": "real", "noise": "blind"}
    both = usefulness.mean("both", structure, measure=measure, seed=seed)
    description = Description(
        key=f"usefulness.{measure}_{key}",
        title=f"{title} after synthetic training, {name}",
        meaning="Agreement with the truth on real test subjects."
        if measure == "dice"
        else "95th percentile distance to the true surface on real test subjects; a missed structure counts "
        "the volume's diagonal.",
        better=better,
        unit=unit,
    )
    return compute_result(
        description,
        lambda column: usefulness.mean(regimes[column], structure, measure=measure, seed=seed),
        note=f"Trained on both: {both}.",
    )
