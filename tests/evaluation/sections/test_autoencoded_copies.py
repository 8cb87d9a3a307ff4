"""Copies seen through a blur are found against the blurred patients, at stated power; new volumes are not."""

from __future__ import annotations

from functools import cache

import numpy as np

from medldm.evaluation.metrics.neighbours import NeighbourConfig
from medldm.evaluation.sections.autoencoded_copies import NAMES, search_in_volumes
from medldm.evaluation.sections.privacy import DetectorResult, privacy_results
from tests.evaluation.features.test_autoencoded import BLURRED, make_volumes


@cache
def search(n_copies: int) -> list[DetectorResult]:
    train, test = make_volumes(16, seed=0), make_volumes(30, seed=1)
    new = make_volumes(12 - n_copies, seed=2)
    generator = np.random.default_rng(5)
    noisy = [np.roll(each, 1, axis=1) + 0.05 * generator.normal(size=each.shape) for each in train]
    made = [*noisy[:n_copies], *new]
    return search_in_volumes(
        {"train": train, "test": test, "synthetic": [BLURRED.reconstruct(each) for each in made]},
        BLURRED,
        train_subjects=range(16),
        neighbours=NeighbourConfig(max_shift=2, wavelengths=(3.0, 12.0)),
        quantile=0.99,
        n_planted=20,
        n_searches=2,
        seed=0,
        progress=lambda _: None,
    )


def test_copies_through_a_blur_are_found_at_high_power() -> None:
    for found in search(4):
        assert found.search is not None and found.search.power is not None
        assert found.search.copies[:4] == (0, 1, 2, 3) and len(found.search.copies) <= 5
        assert found.search.memorised[:4] == (0, 1, 2, 3)
        assert found.search.power.value >= 0.95
        assert found.search.false_positive_rate <= 0.05
        assert found.search.fails
    results = privacy_results(search(4), None)
    assert [each.description.key for each in results] == [f"privacy.copies_{name}" for name in NAMES]
    assert {each.light for each in results} == {"red"}
    assert all(each.noise is None and each.real is not None for each in results)


def test_new_volumes_do_not_fail() -> None:
    assert not any(found.search is None or found.search.fails for found in search(0))
