"""The overlap of every pair of maps is the mean of the Dice coefficients that one pair alone gives."""

from __future__ import annotations

import numpy as np
import pytest

from medldm.evaluation.metrics import label_map_overlap
from medldm.evaluation.metrics.label_map_overlap import overlap_table
from medldm.evaluation.metrics.overlap import dice_scores


def make_maps(n: int, *, seed: int, n_structures: int = 3) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).integers(0, n_structures + 1, size=(n, 5, 7, 6)))


def test_each_entry_is_the_mean_dice_of_its_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_map_overlap, "CHUNK_VOXELS", 50)
    first, second = make_maps(4, seed=0), make_maps(3, seed=1)
    first[0][first[0] == 2] = 0
    second[0][second[0] == 2] = 1
    expected = [[np.nanmean(dice_scores(a, b, n_structures=3)) for b in second] for a in first]
    np.testing.assert_allclose(overlap_table(first, second, n_structures=3), expected, rtol=1e-12)


def test_equal_maps_and_empty_ones_agree_wholly_and_others_not_at_all() -> None:
    empty, full = np.zeros((3, 3, 3), dtype=int), np.full((3, 3, 3), 2)
    np.testing.assert_array_equal(overlap_table([empty, full], [empty, full], n_structures=2), np.eye(2))


def test_shapes_that_differ_are_named() -> None:
    with pytest.raises(ValueError, match="one shape"):
        overlap_table([np.zeros((2, 2, 2)), np.zeros((2, 2, 3))], [np.zeros((2, 2, 2))], n_structures=1)
    with pytest.raises(ValueError, match="8 and 27 voxels"):
        overlap_table([np.zeros((2, 2, 2))], [np.zeros((3, 3, 3))], n_structures=1)
