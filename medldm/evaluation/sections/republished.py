"""Label maps of training patients that were published again: a privacy finding of its own.

A synthetic image may be new and its label map still that of a patient, because the map told the model what
to draw. Real anatomy identifies a person. A map counts as a training case's where their Dice lies beyond
what maps of different subjects reach by chance, by Eq. (2) of `copy_rule`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medldm.data.labels import LabelSchema
from medldm.evaluation.cases.sets import CaseSet, CaseSets, Known, Labels
from medldm.evaluation.errors import NotMeasurableError, TooFewCasesError
from medldm.evaluation.metrics.bootstrap import Estimate
from medldm.evaluation.metrics.checks import Floats
from medldm.evaluation.metrics.copy_rule import lone_copy_threshold
from medldm.evaluation.metrics.copy_search import share_with_interval
from medldm.evaluation.metrics.label_map_overlap import overlap_table
from medldm.evaluation.sections.metric_result import Column, Description, MetricResult, compute_result
from medldm.transforms.errors import VoxelValueError
from medldm.transforms.window import centre_crop_or_pad

ALARM_RATE = 0.01
"""Probability that the maps of a cohort without republished ones raise the finding."""

DRAW_NEW = (
    "Real anatomy identifies a person. Do not publish these maps, nor the images made from them, as "
    "synthetic: draw new maps with the bundle labelmap_ldm, or deform these beyond recognition before "
    "generating."
)


@dataclass(frozen=True, kw_only=True)
class RepublishedMaps:
    """Which synthetic label maps are those of training cases.

    Args:
        best: Dice of each map to the nearest training map, by set: "synthetic" and "test".
        nearest: (N,) place of each synthetic map's nearest training map.
        threshold: Dice that maps of different subjects do not reach.
        places: of the synthetic maps beyond it.
        n_equal: of these, voxel by voxel, mirror images among them.
        names: of these in their cohort; those that hold the name of a real case are left out.
    """

    best: dict[str, Floats]
    nearest: tuple[int, ...]
    threshold: float
    places: tuple[int, ...]
    n_equal: int
    names: tuple[str, ...] = ()

    @property
    def sources(self) -> dict[int, int]:
        """The training map of each republished one, by places."""
        return {place: self.nearest[place] for place in self.places}

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able form, without any name of a real case."""
        return {
            "n_republished": len(self.places),
            "n_equal": self.n_equal,
            "n_synthetic": len(self.nearest),
            "n_training_maps": len(set(self.sources.values())),
            "threshold": self.threshold,
            "synthetic_indices": list(self.places),
            "synthetic_names": list(self.names),
        }


def find_republished(
    sets: CaseSets, *, names: Sequence[str] = (), real_names: Sequence[str] = ()
) -> RepublishedMaps:
    """Find the synthetic label maps that are those of training cases.

    Args:
        sets: with label maps.
        names: of the synthetic cases, to list them; none lists places alone.
        real_names: of real cases, which no listed name may hold.

    Raises:
        TooFewCasesError: for sets without label maps or fewer than 2 training maps.
        NotMeasurableError: for a value that is no structure of the schema.
    """
    schema = sets.known_schema()
    maps = {name: _boxed(getattr(sets, name), schema, sets.shape) for name in ("train", "test", "synthetic")}
    if len(set(sets.train.subjects)) < 2:
        raise TooFewCasesError("the training maps are of 1 subject; at least 2 are needed to compare with")
    to_train = {
        name: _similarity(
            each, maps["train"], schema.n_structures, known=(getattr(sets, name).known, sets.train.known)
        )
        for name, each in maps.items()
    }
    subjects = np.array(sets.train.subjects)
    others = np.where(subjects[:, None] == subjects[None, :], -np.inf, to_train["train"]).max(axis=1)
    best = {name: to_train[name].max(axis=1) for name in ("synthetic", "test")}
    innocent = np.concatenate([others, best["test"]])
    if innocent.max() == 1:
        raise NotMeasurableError("label maps of different real subjects are equal: an equal map says nothing")
    threshold = lone_copy_threshold(innocent, len(best["synthetic"]), level=ALARM_RATE)
    nearest = to_train["synthetic"].argmax(axis=1)
    places = np.flatnonzero(best["synthetic"] > threshold).tolist()
    n_equal = int((best["synthetic"] == 1).sum())
    return RepublishedMaps(
        best=best,
        nearest=tuple(nearest.tolist()),
        threshold=threshold,
        places=tuple(places),
        n_equal=n_equal,
        names=tuple(names[each] for each in places if names and not _holds(names[each], real_names)),
    )


def republished_result(found: RepublishedMaps) -> MetricResult:
    """Turn the finding into a result: red where any map is a training case's."""
    description = Description(
        key="privacy.republished_maps",
        title="Label maps of training patients",
        meaning="Share of synthetic label maps that are a training patient's, or nearly so; the real column "
        "is the share of real test maps that lie as near to one.",
        better="lower",
    )

    def measure(column: Column) -> Estimate | None:
        if column == "noise":
            return None
        best = found.best["synthetic" if column == "synthetic" else "test"]
        return share_with_interval(int((best > found.threshold).sum()), len(best))

    beyond = f"a Dice above {found.threshold:.3f}, which maps of different subjects do not reach"
    if not found.places:
        note = f"No synthetic label map has {beyond}, with one of a training case."
    else:
        note = (
            f"{len(found.places)} of {len(found.nearest)} synthetic label maps are those of training cases, "
            f"{found.n_equal} voxel by voxel, the others with {beyond}. {DRAW_NEW}"
        )
    result = compute_result(description, measure, note=note)
    return MetricResult(
        description=description,
        synthetic=result.synthetic,
        real=result.real,
        note=note,
        verdict="red" if found.places else "green",
    )


def _boxed(part: CaseSet, schema: LabelSchema, shape: Sequence[int]) -> list[Labels]:
    """Return the maps 0..K, cropped or padded about their centre to one shape."""
    try:
        maps = [schema.index_map(labels).numpy() for labels in part.known_labels()]
    except VoxelValueError as error:
        raise NotMeasurableError(str(error)) from error
    return [centre_crop_or_pad(each, shape, fill=0) for each in maps]


def _similarity(
    queries: Sequence[Labels],
    train: Sequence[Labels],
    n_structures: int,
    *,
    known: tuple[Known | None, Known | None] = (None, None),
) -> Floats:
    """Return the overlap (Q, T) of maps, or of their left-right mirror images, with the training maps."""
    mirrored = [each[::-1] for each in queries]
    both = (
        overlap_table(each, train, n_structures=n_structures, known=known) for each in (queries, mirrored)
    )
    return np.maximum(*both)


def _holds(name: str, real_names: Sequence[str]) -> bool:
    return any(real and real in name for real in real_names)
