"""Kernel distances against sums written out, and the size and power of the permutation test."""

from __future__ import annotations

import numpy as np
import pytest

from medldm.evaluation.errors import TooFewCasesError
from medldm.evaluation.metrics.kernel_distance import (
    bandwidth_grid,
    median_distance,
    mmd_permutation_test,
    polynomial_kernel,
    rbf_kernel,
    rbf_mixture,
    squared_mmd,
)
from tests.evaluation.measures import kernel_inception_distance


def draw(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def written_out(a: np.ndarray, b: np.ndarray) -> float:
    def k(x: np.ndarray, y: np.ndarray) -> float:
        return (x @ y / len(x) + 1) ** 3

    xx = [k(x, y) for i, x in enumerate(a) for j, y in enumerate(a) if i != j]
    yy = [k(x, y) for i, x in enumerate(b) for j, y in enumerate(b) if i != j]
    return float(np.mean(xx) + np.mean(yy) - 2 * np.mean([k(x, y) for x in a for y in b]))


def test_kid_is_the_estimate_written_out() -> None:
    a, b = draw(0, 9, 4), draw(1, 7, 4) + 0.3
    assert kernel_inception_distance(a, b) == pytest.approx(written_out(a, b))


def test_kid_is_unbiased_in_small_samples() -> None:
    values = [kernel_inception_distance(draw(seed, 10, 3), draw(seed + 5000, 10, 3)) for seed in range(600)]
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(len(values))


def test_weights_count_cases_but_never_a_case_with_itself() -> None:
    a, b, w = draw(2, 5, 3), draw(3, 6, 3), np.array([2, 0, 1, 3, 1])
    kernels = [polynomial_kernel(a, a), polynomial_kernel(b, b), polynomial_kernel(a, b)]
    pairs = [(i, j) for i in range(5) for j in range(5) if i != j]
    xx = sum(w[i] * w[j] * kernels[0][i, j] for i, j in pairs) / sum(w[i] * w[j] for i, j in pairs)
    yy = (kernels[1].sum() - np.trace(kernels[1])) / 30
    expected = xx + yy - 2 * (w @ kernels[2]).sum() / (w.sum() * 6)
    assert squared_mmd(*kernels, weights=(w, None)) == pytest.approx(expected)
    assert np.isnan(squared_mmd(*kernels, weights=([0, 0, 1, 0, 0], None)))


def test_rbf_kernel_and_its_bandwidth_have_known_values() -> None:
    points = np.array([[0.0], [3.0], [4.0]])
    assert median_distance(points) == 3.0
    assert median_distance(np.ones((3, 2))) == 1.0
    assert rbf_kernel(points[:1], points[1:2], bandwidth=3.0)[0, 0] == pytest.approx(np.exp(-0.5))


def test_mmd_tells_standard_deviation_one_from_three() -> None:
    a, b = draw(4, 40, 2), 3 * draw(5, 40, 2)
    a, b = a - a.mean(0), b - b.mean(0)  # a linear kernel sees nothing now
    result = mmd_permutation_test(a, b, n_permutations=499)
    assert result.p_value == pytest.approx(1 / 500)
    assert result.squared_mmd > 0.1
    assert mmd_permutation_test(a, draw(6, 40, 2), n_permutations=499).p_value > 0.05


def test_statistic_of_the_test_is_the_unbiased_estimate() -> None:
    a, b = draw(7, 8, 2), draw(8, 11, 2)
    result = mmd_permutation_test(a, b, bandwidth=0.7, n_permutations=9)
    kernels = (rbf_kernel(x, y, bandwidth=0.7) for x, y in ((a, a), (b, b), (a, b)))
    assert result.squared_mmd == pytest.approx(squared_mmd(*kernels))


def test_test_has_size_five_percent() -> None:
    generator = np.random.default_rng(9)
    p_values = [
        mmd_permutation_test(*generator.normal(size=(2, 15, 2)), n_permutations=99, seed=seed).p_value
        for seed in range(3000)
    ]
    assert np.mean(np.array(p_values) <= 0.05) == pytest.approx(0.05, abs=0.01)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="bandwidth is 0"):
        rbf_kernel(draw(0, 2, 2), draw(0, 2, 2), bandwidth=0)
    with pytest.raises(ValueError, match="n_permutations is 0"):
        mmd_permutation_test(draw(0, 3, 2), draw(0, 3, 2), n_permutations=0)
    with pytest.raises(ValueError, match=r"\(N, N\), \(M, M\) and \(N, M\)"):
        squared_mmd(np.eye(2), np.eye(3), np.ones((3, 2)))
    with pytest.raises(TooFewCasesError):
        kernel_inception_distance(draw(0, 1, 2), draw(0, 3, 2))


def expected_kernel(shift: float, variance: float, *, width: float, d: int) -> float:
    """Mean of exp(-|x - y|^2 / (2 width^2)); x - y is normal with this mean and variance along each axis."""
    total = width**2 + variance
    return float((width**2 / total) ** (d / 2) * np.exp(-d * shift**2 / (2 * total)))


def test_mixture_estimates_the_closed_form_between_two_normal_distributions() -> None:
    d, shift, sd = 3, 0.7, 1.6
    widths = (0.6, 1.2, 2.4, 4.8)
    expected = np.mean(
        [
            expected_kernel(0, 2, width=width, d=d)
            + expected_kernel(0, 2 * sd**2, width=width, d=d)
            - 2 * expected_kernel(shift, 1 + sd**2, width=width, d=d)
            for width in widths
        ]
    )
    found = []
    for seed in range(150):
        a, b = draw(seed, 40, d), shift + sd * draw(seed + 9000, 30, d)
        found.append(
            squared_mmd(*(rbf_mixture(*pair, bandwidths=widths) for pair in ((a, a), (b, b), (a, b))))
        )
    assert np.mean(found) == pytest.approx(expected, abs=3 * np.std(found) / np.sqrt(150))
    assert expected > 20 * np.std(found) / np.sqrt(150)


def test_several_widths_see_what_the_median_distance_is_blind_to() -> None:
    """Half of the cases far away set the median distance; the difference is within the other half."""
    generator = np.random.default_rng(3)
    far = 60.0 * np.repeat([0.0, 1.0], 20)[:, None]
    p_values = {"one": [], "grid": []}
    for _ in range(12):
        a, b = far + generator.normal(size=(40, 1)), far + 0.2 * generator.normal(size=(40, 1))
        widths = tuple(0.5 * 2.0**power for power in range(8))
        p_values["one"].append(mmd_permutation_test(a, b, bandwidth=40.0, n_permutations=99).p_value)
        p_values["grid"].append(mmd_permutation_test(a, b, bandwidth=widths, n_permutations=99).p_value)
    assert np.mean(np.array(p_values["grid"]) <= 0.05) > 0.9 > np.mean(np.array(p_values["one"]) <= 0.05)


def test_test_with_several_widths_has_size_five_percent() -> None:
    generator = np.random.default_rng(10)
    p_values = []
    for seed in range(800):
        a, b = generator.normal(size=(2, 12, 2))
        widths = bandwidth_grid(a)
        p_values.append(mmd_permutation_test(a, b, bandwidth=widths, n_permutations=39, seed=seed).p_value)
    assert np.mean(np.array(p_values) <= 0.05) == pytest.approx(0.05, abs=0.02)


def test_grid_is_the_median_distance_times_powers_of_two() -> None:
    assert bandwidth_grid([[0.0], [3.0], [4.0]]) == (0.75, 1.5, 3.0, 6.0, 12.0)
    with pytest.raises(ValueError, match="no bandwidth"):
        rbf_mixture(draw(0, 2, 2), draw(0, 2, 2), bandwidths=())


def test_a_copy_of_each_case_is_at_distance_zero_on_average_only_without_the_pairs() -> None:
    found = {True: [], False: []}
    for seed in range(100):
        a = draw(seed, 20, 4)
        k = rbf_kernel(a, a, bandwidth=1.5)
        for are_paired in found:
            found[are_paired].append(squared_mmd(k, k, k, are_paired=are_paired))
    assert found[True] == pytest.approx(np.zeros(100), abs=1e-12)
    assert max(found[False]) < -0.05
    with pytest.raises(ValueError, match="20 and 19 cases are no pairs"):
        squared_mmd(k, k[:19, :19], k[:, :19], are_paired=True)
