"""Histogram distances whose value is known in the intensities' unit."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import wasserstein_distance

from medldm.evaluation.errors import TooFewCasesError
from medldm.evaluation.metrics.histograms import HistogramPair, stack_quantiles, tissue_quantiles
from tests.evaluation.measures import histogram_distance


def make_case(seed: int, *, offset: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 3, (9, 8, 7))
    return generator.normal(size=labels.shape) * 20 + 60 * labels + offset, labels


@pytest.mark.parametrize("offset", [25.0, -7.5])
def test_shift_of_c_hounsfield_units_gives_c_in_every_tissue(offset: float) -> None:
    cases = [make_case(seed) for seed in range(4)]
    shifted = [(image + offset, labels) for image, labels in cases]
    for structure in (None, 0, 1, 2):
        first, second = (stack_quantiles(each, structure=structure) for each in (cases, shifted))
        assert histogram_distance(first, second) == pytest.approx(abs(offset), abs=1e-9)
        assert histogram_distance(first, first) == 0.0


def test_only_the_tissue_that_changed_is_far() -> None:
    cases = [make_case(seed) for seed in range(3)]
    changed = [(image + 30 * (labels == 2), labels) for image, labels in cases]
    distances = [
        histogram_distance(stack_quantiles(cases, structure=s), stack_quantiles(changed, structure=s))
        for s in (0, 1, 2)
    ]
    assert distances == pytest.approx([0, 0, 30], abs=1e-9)


def test_quantiles_stand_for_the_voxels() -> None:
    image, labels = make_case(5)
    other, _ = make_case(6, offset=11)
    exact = wasserstein_distance(image[labels == 1], other[labels == 1])
    rows = [tissue_quantiles(each, labels, structure=1)[None] for each in (image, other)]
    assert histogram_distance(*rows) == pytest.approx(exact, rel=0.05)


def test_weighted_distance_agrees_with_scipy() -> None:
    generator = np.random.default_rng(7)
    a, b, u, v = (generator.uniform(size=n) for n in (13, 17, 13, 17))
    a[3] = b[5] = a[4]
    found = HistogramPair(a[:, None], b[:, None]).distance(u, v)
    assert found == pytest.approx(wasserstein_distance(a, b, u, v))


def test_weights_count_cases_like_copies_of_rows() -> None:
    rows = np.random.default_rng(8).normal(size=(4, 20))
    expected = histogram_distance(rows[[0, 2, 2]], rows)
    assert histogram_distance(rows, rows, weights=([1, 0, 2, 0], None)) == pytest.approx(expected)


def test_cases_without_the_tissue_are_left_out() -> None:
    shown, absent = make_case(10), (make_case(11)[0], np.zeros((9, 8, 7), dtype=int))
    alone = stack_quantiles([shown], structure=2)
    both = stack_quantiles([shown, absent], structure=2)
    assert np.isnan(both[1]).all()
    assert histogram_distance(both, alone) == 0.0
    with pytest.raises(TooFewCasesError, match="no case of a set shows this tissue"):
        histogram_distance(both[1:], alone)


def test_bad_input_is_refused() -> None:
    image, labels = make_case(0)
    with pytest.raises(ValueError, match="without labels"):
        tissue_quantiles(image, structure=1)
    with pytest.raises(ValueError, match="give matching ones"):
        tissue_quantiles(image, labels[1:], structure=1)
    with pytest.raises(ValueError, match="n_quantiles is 0"):
        tissue_quantiles(image, n_quantiles=0)
