"""What the reader of an evaluation should know about its sets before any result."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medldm.evaluation.cases.sets import CaseSets
from medldm.files import hash_array


def find_set_issues(sets: CaseSets, *, n_shared: int) -> list[str]:
    """Say what differs between the sets, without identifiers.

    Args:
        sets: on the common grid.
        n_shared: subject names that occur in both real sets.
    """
    issues = []
    if n_shared:
        issues.append(
            f"{n_shared} subject names occur in both the real training and the real test set. If they are "
            "the same people, the test set is not independent and every comparison with it is too kind."
        )
    grid = " x ".join(f"{edge:.3g}" for edge in sets.spacing_mm)
    names = (("real test", sets.test), ("synthetic", sets.synthetic), ("real training", sets.train))
    for name, each in names:
        if not np.allclose(each.file_spacing_mm, sets.spacing_mm, rtol=0.05):
            own = " x ".join(f"{edge:.3g}" for edge in each.file_spacing_mm)
            issues.append(f"The {name} volumes have a spacing of {own} mm and were resampled to {grid} mm.")
    if not sets.same_units:
        issues.append(
            f"The synthetic images run from {sets.synthetic.file_range[0]:.4g} to "
            f"{sets.synthetic.file_range[1]:.4g}, the real training images from "
            f"{sets.train.file_range[0]:.4g} to {sets.train.file_range[1]:.4g}: they are not in the same "
            "intensity units."
        )
    issues += [
        f"The {name} set has no label maps, or not of every case."
        for name, each in names
        if each.labels is None
    ]
    real_maps = [*(sets.train.labels or ()), *(sets.test.labels or ())]
    if n_equal := count_equal(sets.synthetic.labels or (), real_maps):
        issues.append(
            f"{n_equal} of {len(sets.synthetic)} synthetic label maps equal a real one voxel by voxel: "
            + (
                "for these, the anatomy of the maps says nothing about the model. What the segmenter sees in "
                "the images does."
                if sets.has_images
                else "the model copies."
            )
        )
    return issues


def count_equal(first: Sequence[npt.NDArray[Any]], second: Sequence[npt.NDArray[Any]]) -> int:
    """Return how many arrays of the first set are in the second, element by element."""
    known = {hash_array(each) for each in second}
    return sum(hash_array(each) in known for each in first)
