"""Label agreement: 0 where images follow their maps, chance where the maps are shuffled."""

from __future__ import annotations

import numpy as np
import pytest

from medldm.evaluation.cases.sets import LabelledImage
from medldm.evaluation.errors import TooFewCasesError
from medldm.evaluation.metrics.overlap import choose_column, weighted_mean
from medldm.evaluation.sections.agreement import measure_label_agreement


def make_cases(n: int, *, seed: int = 0) -> list[LabelledImage]:
    """Boxes anywhere; the image shows the labels' values."""
    rng = np.random.default_rng(seed)
    cases = []
    for _ in range(n):
        labels = np.zeros((20, 20, 20), dtype=np.int64)
        for structure in (1, 2):
            x, y, z = rng.integers(0, 15, size=3)
            labels[x : x + 5, y : y + 5, z : z + 5] = structure
        cases.append((labels.astype(np.float32), labels))
    return cases


def read_labels(image: np.ndarray) -> np.ndarray:
    """Segment perfectly."""
    return image.round().astype(np.int64)


def test_images_that_show_their_maps_agree_fully() -> None:
    agreement = measure_label_agreement(read_labels, make_cases(6), make_cases(5, seed=1), n_structures=2)
    assert agreement.difference().value == 0.0
    assert agreement.dice("synthetic").value == agreement.dice("test").value == 1.0


def test_shuffled_maps_bring_agreement_to_chance() -> None:
    cases = make_cases(24)
    shuffled = [(image, cases[(place + 7) % 24][1]) for place, (image, _) in enumerate(cases)]
    test = make_cases(6, seed=1)
    right = measure_label_agreement(read_labels, cases, test, n_structures=2)
    wrong = measure_label_agreement(read_labels, shuffled, test, n_structures=2)
    assert right.dice("synthetic").value == 1.0
    assert wrong.dice("synthetic").value == pytest.approx(right.dice("chance").value, abs=0.06)
    assert right.dice("chance").value < 0.15
    assert wrong.difference().upper < -0.5


def test_the_segmenters_own_error_is_taken_out() -> None:
    def erode(image: np.ndarray) -> np.ndarray:
        labels = read_labels(image)
        labels[labels == 2] = 0
        return labels

    agreement = measure_label_agreement(erode, make_cases(6), make_cases(6, seed=1), n_structures=2)
    assert agreement.dice("synthetic").value == pytest.approx(0.5)
    assert agreement.difference().value == pytest.approx(0.0)
    assert agreement.difference(1).value == 0.0


def test_chance_never_pairs_a_case_with_itself() -> None:
    for seed in range(20):
        agreement = measure_label_agreement(
            read_labels, make_cases(2), make_cases(2, seed=1), n_structures=2, seed=seed
        )
        assert agreement.chance.max() < 1.0


def test_too_few_cases_are_refused() -> None:
    with pytest.raises(TooFewCasesError, match="1 synthetic and 2 test"):
        measure_label_agreement(read_labels, make_cases(1), make_cases(2), n_structures=2)


def test_absent_structures_do_not_count() -> None:
    scores = np.array([[0.4, np.nan], [np.nan, np.nan], [0.2, 0.6]])
    np.testing.assert_allclose(choose_column(scores, None), [0.4, np.nan, 0.4])
    assert weighted_mean(scores[:, 1], np.array([5.0, 1.0, 1.0])) == pytest.approx(0.6)
    assert np.isnan(weighted_mean(scores[:, 1], np.array([5.0, 1.0, 0.0])))
