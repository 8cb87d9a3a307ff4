"""Solvers with fresh noise: the exact law of their output."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from medldm.diffusion import (
    DDPMPath,
    NoisePath,
    make_steps,
)
from medldm.diffusion.solvers import SolverProgress
from medldm.diffusion.time_grids import GRIDS
from tests.diffusion.solver_runs import (
    FLOW,
    PATHS,
    run,
    seeded_noise,
)

STOCHASTIC = [("ddpm", 0.0), ("ddim", 0.5), ("ddim", 1.0), ("dpm_solver_2m_sde", 0.0)]


def output_law(solver: str, eta: float, denoise: Any, path: NoisePath, steps: Any) -> tuple[float, float]:
    """Exact mean and variance of the output for an affine denoiser and x ~ N(0, 1).

    Columns: the offset, the response to x, and the response to each step's noise.
    """
    x = torch.zeros(2 + len(steps), dtype=torch.float64)
    x[1] = 1
    drawn = iter(range(2, len(x)))

    def noise() -> Tensor:
        return torch.nn.functional.one_hot(torch.tensor(next(drawn)), len(x)).double()

    offset, *responses = (run(solver, denoise, x, steps, noise=noise, eta=eta)).tolist()
    return offset, sum((response - offset) ** 2 for response in responses)


def bayes_law(gaussian: Any, path: NoisePath, steps: Any) -> tuple[float, float]:
    """Mean and variance of ancestral sampling, each step by Bayes' rule from one-step transitions."""
    mean, variance = 0.0, 1.0
    for step in steps:
        (alpha_t, sigma_t), (alpha_s, sigma_s) = path.alpha_sigma(step.t), path.alpha_sigma(step.s)
        gain = alpha_t * gaussian.sd**2 / (alpha_t**2 * gaussian.sd**2 + sigma_t**2)
        scale = alpha_t / alpha_s
        kalman = scale * sigma_s**2 / sigma_t**2
        # x_s = alpha_s x_0 + kalman (x_t - alpha_t x_0) + noise, with x_0 = m + gain (x_t - alpha_t m)
        on_x_0 = alpha_s - kalman * alpha_t
        factor = kalman + on_x_0 * gain
        mean = factor * mean + on_x_0 * (1 - gain * alpha_t) * gaussian.mean
        variance = factor**2 * variance + sigma_s**2 - kalman * scale * sigma_s**2
    return mean, variance


@PATHS
@pytest.mark.parametrize("grid", list(GRIDS))
@pytest.mark.parametrize("num_steps", [10, 50, 250])
def test_respaced_ddpm_has_the_propagated_mean_and_variance(
    path: NoisePath, grid: str, num_steps: int, gaussian: Any
) -> None:
    steps = make_steps(path, num_steps, grid=grid)
    found = output_law("ddpm", 0.0, gaussian.denoiser(path), path, steps)
    assert found == pytest.approx(bayes_law(gaussian, path, steps), rel=1e-10)


@PATHS
@pytest.mark.parametrize("num_steps", [10, 50, 250])
def test_respaced_ddpm_samples_have_that_mean_and_variance(
    path: NoisePath, num_steps: int, gaussian: Any, generator: torch.Generator
) -> None:
    n, steps = 20_000, make_steps(path, num_steps)
    x = torch.randn(n, generator=generator, dtype=torch.float64)
    noise = seeded_noise(x, seed=1)
    samples = run("ddpm", gaussian.denoiser(path), x, steps, noise=noise)
    mean, variance = bayes_law(gaussian, path, steps)
    assert abs(float(samples.mean()) - mean) < 4 * math.sqrt(variance / n)
    assert abs(float(samples.var()) - variance) < 4 * variance * math.sqrt(2 / n)


@PATHS
def test_ddpm_approaches_the_data_as_steps_grow(path: NoisePath, gaussian: Any) -> None:
    errors = []
    for num_steps in (10, 50, 250):
        steps = make_steps(path, num_steps)
        mean, variance = output_law("ddpm", 0.0, gaussian.denoiser(path), path, steps)
        assert mean == pytest.approx(gaussian.mean, abs=0.05)
        errors.append(abs(math.sqrt(variance) - gaussian.sd))
    assert errors[0] > 2 * errors[1] > 4 * errors[2]
    assert errors[2] < 0.02


@pytest.mark.parametrize("grid", ["trailing", "log_snr"])
@PATHS
def test_extrapolation_brings_the_law_nearer_to_the_data(path: NoisePath, grid: str, gaussian: Any) -> None:
    denoise, errors = gaussian.denoiser(path), []
    for solver in ("ddpm", "dpm_solver_2m_sde"):
        found = [
            output_law(solver, 0.0, denoise, path, make_steps(path, num_steps, grid=grid))[1] ** 0.5
            for num_steps in (20, 80)
        ]
        errors.append([abs(sd - gaussian.sd) for sd in found])
    assert all(second < first / 2 for first, second in zip(*errors, strict=True))


@pytest.mark.parametrize("solver", ["ddpm", "dpm_solver_2m_sde"])
def test_mean_of_the_reverse_process_is_exact_in_any_steps(solver: str, gaussian: Any) -> None:
    """Of a Gaussian E[x_0 | x_t] is a martingale: extrapolating it along the mean changes nothing."""
    steps = [FLOW.step(t, s) for t, s in pairwise([0.9, 0.6, 0.5, 0.2])]
    x = torch.tensor([2.0], dtype=torch.float64)
    found = run(solver, gaussian.denoiser(FLOW), x, steps, noise=lambda: torch.zeros(1))
    assert float(found) == pytest.approx(mean_of_reverse_process(gaussian, 2.0, 0.9, 0.2), rel=1e-12)


def mean_of_reverse_process(gaussian: Any, x: float, t: float, s: float) -> float:
    """x_s | x_t is Gaussian with the regression of x_s on x_t of the joint law of the noising process."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = FLOW.alpha_sigma(t), FLOW.alpha_sigma(s)
    covariance = alpha_t * alpha_s * gaussian.sd**2 + alpha_t / alpha_s * sigma_s**2
    gain = covariance / ((alpha_t * gaussian.sd) ** 2 + sigma_t**2)
    return alpha_s * gaussian.mean + gain * (x - alpha_t * gaussian.mean)


@PATHS
@pytest.mark.parametrize("num_steps", [10, 1000])
def test_ddim_with_eta_one_is_ddpm(
    path: NoisePath, num_steps: int, gaussian: Any, generator: torch.Generator
) -> None:
    x = torch.randn(50, generator=generator, dtype=torch.float64)
    results = [
        run(
            solver,
            gaussian.denoiser(path),
            x,
            make_steps(path, num_steps),
            noise=seeded_noise(x),
            eta=eta,
        )
        for solver, eta in (("ddim", 1.0), ("ddpm", 0.0))
    ]
    torch.testing.assert_close(*results, rtol=1e-10, atol=1e-10)


@PATHS
def test_eta_keeps_the_marginals(path: NoisePath) -> None:
    # A denoiser that knows x_0 = 0 makes each x_s a fresh draw of N(0, sigma_s^2), whatever eta.
    def denoise(x: Tensor, t: float) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(x), x / path.alpha_sigma(t)[1]

    steps = make_steps(path, 7)[:-1]
    for eta in (0.0, 0.3, 1.0):
        _, variance = output_law("ddim", eta, denoise, path, steps)
        sigma_first, sigma_last = path.alpha_sigma(steps[0].t)[1], path.alpha_sigma(steps[-1].s)[1]
        slack = (1 / sigma_first**2 - 1) * sigma_last**2
        assert sigma_last**2 - 1e-12 <= variance <= sigma_last**2 + slack + 1e-12


@PATHS
@pytest.mark.parametrize(("solver", "eta"), STOCHASTIC)
def test_last_step_adds_no_noise(path: NoisePath, solver: str, eta: float, gaussian: Any) -> None:
    x = torch.ones(3, dtype=torch.float64)
    steps = make_steps(path, 4)
    last: list[SolverProgress] = []
    calls: list[int] = []

    def noise() -> Tensor:
        calls.append(1)
        return torch.ones_like(x)

    result = run(solver, gaussian.denoiser(path), x, steps, noise=noise, eta=eta, callback=last.append)
    assert len(calls) == 3
    torch.testing.assert_close(result, last[-1].state.x_0, rtol=1e-15, atol=1e-15)


def test_elbo_of_a_gaussian_has_its_closed_form(gaussian: Any) -> None:
    def bound(n_timesteps: int) -> tuple[float, float]:
        betas = {"beta_start": 0.1 / n_timesteps, "beta_end": 20 / n_timesteps}
        path = DDPMPath(schedule="linear", n_timesteps=n_timesteps, **betas)
        first_time, total = n_timesteps // 10, 0.0
        for t in range(first_time + 1, n_timesteps + 1):
            (alpha, sigma), (alpha_s, sigma_s) = path.alpha_sigma(t), path.alpha_sigma(t - 1)
            step = path.step(t, t - 1)
            (_, c_0), sd = step.posterior_mean, step.posterior_sd
            error = (gaussian.sd * sigma) ** 2 / ((alpha * gaussian.sd) ** 2 + sigma**2)
            total += c_0**2 * error / (2 * sd**2)  # E KL(q(x_s | x_t, x_0) || q(x_s | x_t, E[x_0 | x_t]))
            snr_t, snr_s = (alpha / sigma) ** 2, (alpha_s / sigma_s) ** 2
            assert c_0**2 / (2 * sd**2) == pytest.approx((snr_s - snr_t) / 2, rel=1e-10)
        first, last = (math.exp(2 * path.half_log_snr(t)) for t in (first_time, n_timesteps))
        # Integral of mmse / 2 over SNR: I-MMSE, Guo et al. 2005.
        return total, math.log((1 + gaussian.sd**2 * first) / (1 + gaussian.sd**2 * last)) / 2

    gaps = []
    for n_timesteps in (1000, 2000, 4000):
        total, closed = bound(n_timesteps)
        assert total > closed
        gaps.append(total / closed - 1)
    assert gaps[-1] < 0.01
    assert [gaps[0] / gaps[1], gaps[1] / gaps[2]] == pytest.approx([2, 2], rel=0.05)
