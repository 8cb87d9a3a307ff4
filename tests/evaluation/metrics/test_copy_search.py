"""Copies are counted, patients counted once, and nothing is promised that was not measured."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest
from scipy.ndimage import gaussian_filter
from scipy.stats import binom

from medldm.evaluation.errors import NotMeasurableError, TooFewCasesError
from medldm.evaluation.metrics.copy_search import (
    copy_threshold,
    find_planted,
    measure_power,
    search_copies,
    share_with_interval,
)
from medldm.evaluation.metrics.neighbours import NeighbourConfig
from medldm.evaluation.metrics.planted_copies import plant_copies
from tests.evaluation.measures import find_neighbours

SEARCH = NeighbourConfig(max_shift=2, wavelengths=(4.0, 12.0))


def make_anatomy(n: int, *, seed: int) -> list[npt.NDArray[np.float32]]:
    """Volumes that share most of their shape and have a texture and an asymmetry of their own."""
    shape = (18, 20, 16)
    common = 2 * gaussian_filter(np.random.default_rng(99).normal(size=shape), 2.0)
    generator = np.random.default_rng(seed)
    return [
        (common + 1.5 * gaussian_filter(generator.normal(size=shape), 1.5)).astype(np.float32)
        for _ in range(n)
    ]


def similarity_to(train: list[npt.NDArray]) -> object:
    return lambda volumes: find_neighbours(volumes, train, SEARCH)


@pytest.mark.parametrize("share", [0.01, 0.05, 0.2])
def test_planted_copies_are_found_among_new_volumes(share: float) -> None:
    train, test = make_anatomy(30, seed=0), make_anatomy(100, seed=1)
    n_new = 100
    n_copies = round(share * n_new)
    copies, sources = plant_copies(train, n_copies, seed=2)
    detector = similarity_to(train)
    found = search_copies(detector([*copies, *make_anatomy(n_new - n_copies, seed=3)]), detector(test))
    assert found.false_positive_rate <= 0.01
    assert len(set(found.copies) & set(range(n_copies))) >= 0.95 * n_copies
    assert len(set(found.copies) - set(range(n_copies))) <= 3
    assert set(sources[:n_copies].tolist()) <= set(found.memorised)
    assert found.worst[0].synthetic < n_copies


def test_power_is_near_one_for_the_search_and_near_zero_for_chance() -> None:
    train, test = make_anatomy(20, seed=4), make_anatomy(40, seed=5)
    detector = similarity_to(train)
    threshold = copy_threshold(detector(test))
    planted = find_planted(detector, train, n=30)
    power = measure_power(planted, threshold)
    assert power.value >= 0.95 and power.lower > 0.8

    def chance(volumes: object) -> np.ndarray:
        return np.random.default_rng(6).uniform(size=(30, 20))

    assert measure_power(find_planted(chance, train, n=30), 0.0).value < 0.3
    assert measure_power(planted, 1.1).value == 0.0


def test_threshold_is_the_quantile_of_the_nearest_similarity() -> None:
    similarity = np.random.default_rng(7).uniform(size=(200, 6))
    threshold = copy_threshold(similarity, quantile=0.95)
    assert (similarity.max(axis=1) > threshold).sum() == 10


def test_counts_copies_patients_and_worst_pairs() -> None:
    test = np.full((25, 4), 0.5)
    synthetic = np.array(
        [[0.1, 0.9, 0.2, 0.0], [0.6, 0.1, 0.1, 0.1], [0.1, 0.8, 0.7, 0.0], [0.0, 0.1, 0.2, 0.95]]
    )
    synthetic = np.vstack([synthetic, np.full((6, 4), 0.3)])
    found = search_copies(synthetic, test, train_subjects=["a", "b", "c", "b"], n_worst=2)
    assert found.copies == (0, 1, 2, 3) and found.n_synthetic == 10
    assert found.memorised == (0, 1, 3) and found.n_memorised_subjects == 2
    assert [(pair.synthetic, pair.train, pair.similarity) for pair in found.worst] == [
        (3, 3, 0.95),
        (0, 1, 0.9),
    ]


def test_sentence_states_threshold_and_power_and_never_promises_anonymity() -> None:
    test, none = np.full((25, 3), 0.5), np.full((40, 3), 0.2)
    power = share_with_interval(48, 50)
    clean = replace(search_copies(none, test), power=power).sentence()
    assert clean == (
        "No copies found at threshold 0.500 with detector power 0.96 (95% interval 0.86 to 1.00) "
        "among 40 synthetic volumes."
    )
    assert "unknown detector power" in search_copies(none, test).sentence()
    dirty = replace(search_copies(np.vstack([none, [[0.9, 0, 0]]]), test), power=power).sentence()
    assert dirty.startswith("1 of 41 synthetic volumes are copies of 1 training subjects at threshold 0.500")
    assert "1 of them lie beyond 0.500" in dirty
    spread = np.linspace(0.3, 0.5, 25)[:, None] * np.ones(3)
    chance = replace(search_copies(np.vstack([none, [[0.505, 0, 0]]]), spread), power=power).sentence()
    assert chance.startswith("No more copies found than chance explains at threshold 0.498 with detector")
    assert "1 of 41 synthetic volumes lie above it" in chance
    assert "anonym" not in (clean + dirty + chance).lower()


@pytest.mark.parametrize(("found", "n"), [(0, 20), (7, 20), (20, 20)])
def test_interval_of_a_share_has_exact_binomial_tails(found: int, n: int) -> None:
    interval = share_with_interval(found, n)
    assert interval.value == found / n
    if found < n:
        assert binom.cdf(found, n, interval.upper) == pytest.approx(0.025)
    if found > 0:
        assert binom.sf(found - 1, n, interval.lower) == pytest.approx(0.025)


def test_bad_input_is_refused() -> None:
    with pytest.raises(
        TooFewCasesError, match="19 real test volumes; a threshold from them needs at least 20"
    ):
        copy_threshold(np.zeros((19, 3)))
    with pytest.raises(ValueError, match="quantile is 1"):
        copy_threshold(np.zeros((30, 3)), quantile=1.0)
    with pytest.raises(ValueError, match="all must be as many"):
        search_copies(np.zeros((3, 4)), np.zeros((30, 5)))
    with pytest.raises(ValueError, match=r"synthetic_similarity has the shape \(0, 4\)"):
        search_copies(np.zeros((0, 4)), np.zeros((30, 4)))
    with pytest.raises(ValueError, match="the detector returned"):
        find_planted(lambda volumes: np.zeros((2, 2)), [np.zeros((3, 3, 3))], n=5)


@pytest.mark.slow
@pytest.mark.real_data
def test_planted_copies_of_real_volumes_are_found(real_data: Path) -> None:
    files = sorted((real_data / "hippocampus_mri" / "images").glob("*.nii.gz"))[:160]
    volumes = []
    for file in files:
        array = np.asarray(nib.load(os.fspath(file)).dataobj, dtype=np.float32)
        padded = np.pad(
            array, [(0, max(size - n, 0)) for n, size in zip(array.shape, (32, 44, 32), strict=True)]
        )
        volumes.append(
            padded[
                tuple(
                    slice((n - size) // 2, (n - size) // 2 + size)
                    for n, size in zip(padded.shape, (32, 44, 32), strict=True)
                )
            ]
        )
    train, test = volumes[:50], volumes[50:]
    detector = similarity_to(train)
    threshold = copy_threshold(detector(test))
    assert measure_power(find_planted(detector, train, n=40), threshold).value >= 0.95


def test_similarities_that_are_not_finite_cannot_be_judged() -> None:
    test = np.random.default_rng(0).uniform(0, 0.5, (30, 4))
    with pytest.raises(NotMeasurableError, match="synthetic_similarity holds similarities that are not"):
        search_copies(np.full((3, 4), np.nan), test)
