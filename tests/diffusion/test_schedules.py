"""Schedules of noise and of times against closed forms."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest

from medldm.diffusion import schedules


def test_chained_steps_are_exact() -> None:
    betas = [Fraction(i, 1000) for i in range(1, 60)]
    alphas, sigmas = schedules.chain_steps([float(beta) for beta in betas])
    product = Fraction(1)
    for t, beta in enumerate(betas, start=1):
        product *= 1 - beta
        assert alphas[t] ** 2 == pytest.approx(float(product), rel=1e-12)
        assert sigmas[t] ** 2 == pytest.approx(float(1 - product), rel=1e-12)


def test_tiny_first_step_keeps_its_digits() -> None:
    _, sigmas = schedules.chain_steps([1e-12, 1e-12])
    assert sigmas[1] == pytest.approx(1e-6, rel=1e-15)
    assert sigmas[2] ** 2 == pytest.approx(2e-12 - 1e-24, rel=1e-14)


def test_schedules_start_and_end_where_they_say() -> None:
    for name in ("linear", "scaled_linear"):
        betas = schedules.BETA_SCHEDULES[name](1000, 1e-4, 0.02)
        assert betas[[0, -1]].tolist() == pytest.approx([1e-4, 0.02], rel=1e-12)
    middle = schedules.scaled_linear_betas(3, 1e-4, 0.04)[1]
    assert float(middle) == pytest.approx(((0.01 + 0.2) / 2) ** 2, rel=1e-12)
    sigmoid = schedules.sigmoid_betas(1001, 1e-4, 0.02)
    assert float(sigmoid[500]) == pytest.approx((1e-4 + 0.02) / 2, rel=1e-12)
    assert float(sigmoid[0]) == pytest.approx(1e-4 + (0.02 - 1e-4) / (1 + math.exp(6)), rel=1e-12)


def test_cosine_schedule_has_the_closed_form() -> None:
    n = 1000
    alphas, _ = schedules.chain_steps(schedules.cosine_betas(n, 0.0, 0.0).tolist())
    for t in (1, 10, 500, 990):
        f = [math.cos((u / n + 0.008) / 1.008 * math.pi / 2) for u in (t, 0)]
        assert alphas[t] == pytest.approx(f[0] / f[1], rel=1e-11)
    assert schedules.cosine_betas(n, 0.0, 0.0).max() == 0.999


def test_zero_terminal_snr_keeps_the_first_step_and_stretches_linearly() -> None:
    betas = schedules.scaled_linear_betas(1000, 0.00085, 0.012)
    before, _ = schedules.chain_steps(betas.tolist())
    after, sigmas = schedules.chain_steps(schedules.rescale_to_zero_terminal_snr(betas).tolist())
    assert (after[-1], sigmas[-1]) == (0.0, 1.0)
    assert after[1] == pytest.approx(before[1], rel=1e-12)
    slope = before[1] / (before[1] - before[-1])
    for t in (2, 300, 999):
        assert after[t] == pytest.approx((before[t] - before[-1]) * slope, rel=1e-11)


def test_shift_lowers_half_log_snr_by_its_logarithm() -> None:
    for t in (0.01, 0.3, 0.9):
        shifted = schedules.shift_time(t, 3.0)
        before, after = math.log((1 - t) / t), math.log((1 - shifted) / shifted)
        assert before - after == pytest.approx(math.log(3), rel=1e-12)
    assert (schedules.shift_time(0.0, 3.0), schedules.shift_time(1.0, 3.0)) == (0.0, 1.0)


def test_shift_between_resolutions_is_the_root_of_the_voxel_ratio() -> None:
    assert schedules.resolution_shift((32, 32, 16), reference_size=(16, 16, 16)) == pytest.approx(
        2.0, rel=1e-12
    )
