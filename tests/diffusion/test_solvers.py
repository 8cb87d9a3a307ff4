"""Solvers against exact solutions, exact laws of their output, and diffusers."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from medldm.diffusion import (
    PREDICTION_TYPES,
    PRESETS,
    SOLVERS,
    DDPMPath,
    FlowPath,
    NoisePath,
    guided_denoiser,
    make_solver,
    make_steps,
    run_solver,
)
from medldm.diffusion.guidance import drop_masks
from medldm.diffusion.kernel import Step, estimates, training_target
from medldm.diffusion.solvers import SolverProgress, invert_ddim
from medldm.diffusion.time_grids import GRIDS

VP = DDPMPath()
ZERO_SNR = DDPMPath(zero_terminal_snr=True)
COSINE = DDPMPath(schedule="cosine")
FLOW = FlowPath()
PATHS = pytest.mark.parametrize("path", [VP, ZERO_SNR, FLOW], ids=["vp", "zero_snr", "flow"])
EVERY_SOLVER = pytest.mark.parametrize("solver", list(SOLVERS))
STOCHASTIC = [("ddpm", 0.0), ("ddim", 0.5), ("ddim", 1.0)]


def no_noise() -> Tensor:
    """A source of noise that must not be asked."""
    raise AssertionError("fresh noise was drawn")


def run(
    name: str,
    denoise: Any,
    x: Tensor,
    steps: Any,
    *,
    noise: Any = no_noise,
    eta: float = 0.0,
    callback: Any = None,
) -> Tensor:
    """Run a solver by name, without noise unless told."""
    return run_solver(make_solver(name, noise=noise, eta=eta), denoise, x, steps, callback=callback)


def seeded_noise(x: Tensor, seed: int = 0) -> Callable[[], Tensor]:
    """Fresh normal noise like x."""
    generator = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(x.shape, generator=generator, dtype=x.dtype)


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


@EVERY_SOLVER
@PATHS
def test_solver_asks_at_the_times_of_its_steps(solver: str, path: NoisePath) -> None:
    steps = make_steps(path, 5)
    asked: list[float] = []

    def denoise(x: Tensor, t: float) -> tuple[Tensor, Tensor]:
        asked.append(t)
        return x, x

    x = torch.zeros(3)
    run(solver, denoise, x, steps, noise=seeded_noise(x))
    starts = [step.t for step in steps]
    between = [time for step in steps[:-1] for time in (step.t, step.s)]
    assert asked == ([*between, steps[-1].t] if solver == "heun" else starts)


@EVERY_SOLVER
@PATHS
@pytest.mark.parametrize("num_steps", [1, 2, 6])
def test_latents_outside_minus_one_to_one_survive(solver: str, path: NoisePath, num_steps: int) -> None:
    x_0 = torch.tensor([37.0, -5.0, 1.5], dtype=torch.float64)

    def denoise(x: Tensor, t: float) -> tuple[Tensor, Tensor]:
        alpha, sigma = path.alpha_sigma(t)
        return x_0.clone(), (x - alpha * x_0) / sigma

    x = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64)
    found = run(solver, denoise, x, make_steps(path, num_steps), noise=seeded_noise(x))
    torch.testing.assert_close(found, x_0, rtol=1e-12, atol=0)


@EVERY_SOLVER
def test_flow_goes_from_one_point_to_another_in_one_step(solver: str) -> None:
    x_0, noise = torch.tensor([5.0, -3.0], dtype=torch.float64), torch.tensor([0.2, 0.9], dtype=torch.float64)
    denoise = guided_denoiser(lambda x, t, passes: noise - x_0, path=FLOW, prediction_type="velocity")
    torch.testing.assert_close(
        run(solver, denoise, noise, [FLOW.step(1.0, 0.0)]), x_0, rtol=1e-15, atol=1e-15
    )


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


@EVERY_SOLVER
@PATHS
def test_all_prediction_types_give_the_same_step(
    solver: str, path: NoisePath, gaussian: Any, generator: torch.Generator
) -> None:
    x = torch.randn(6, generator=generator, dtype=torch.float64)
    steps = make_steps(path, 5)[1:]  # from a time at which epsilon is allowed
    oracle = gaussian.denoiser(path)
    expected = run(solver, oracle, x, steps, noise=seeded_noise(x))
    for prediction_type in PREDICTION_TYPES:

        def denoise(x: Tensor, t: float, prediction_type: str = prediction_type) -> tuple[Tensor, Tensor]:
            levels = path.alpha_sigma(t)
            output = training_target(prediction_type, *oracle(x, t), *levels)
            return estimates(prediction_type, output, x, *levels)

        found = run(solver, denoise, x, steps, noise=seeded_noise(x))
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


FINE = DDPMPath(schedule="linear", n_timesteps=2**14, beta_start=6e-6, beta_end=1.2e-3)


def vp_steps(num_steps: int) -> tuple[NoisePath, list[Step]]:
    """Steps on a finely tabulated VP path, away from its ends; times are strides of a power of two."""
    first, last = 2**14 - 2**12, 2**12
    stride = (first - last) // num_steps
    return FINE, [FINE.step(t, t - stride) for t in range(first, last, -stride)]


def flow_steps(num_steps: int) -> tuple[NoisePath, list[Step]]:
    """Even steps on a flow path, away from its ends."""
    times = [0.9 - 0.8 * i / num_steps for i in range(num_steps + 1)]
    return FLOW, [FLOW.step(t, s) for t, s in pairwise(times)]


@pytest.mark.parametrize("make_some_steps", [vp_steps, flow_steps], ids=["vp", "flow"])
@pytest.mark.parametrize(("solver", "order"), [("ddim", 1), ("dpm_solver_2m", 2), ("heun", 2)])
def test_order_of_convergence_on_the_probability_flow(
    solver: str, order: int, make_some_steps: Any, gaussian: Any
) -> None:
    x = torch.tensor([1.3, -0.4], dtype=torch.float64)
    errors = []
    for num_steps in (256, 512, 1024):
        path, steps = make_some_steps(num_steps)
        exact = gaussian.flow(path, x, steps[0].t, steps[-1].s)
        errors.append(float((run(solver, gaussian.denoiser(path), x, steps) - exact).abs().max()))
    for before, after in pairwise(errors):
        assert math.log2(before / after) == pytest.approx(order, abs=0.05)


@PATHS
def test_multistep_extrapolates_x_0_to_the_middle_of_uneven_steps(path: NoisePath) -> None:
    def denoise(x: Tensor, t: float) -> tuple[Tensor, Tensor]:
        return 2 + 3 * path.half_log_snr(t) + torch.zeros_like(x), x

    first, middle, last = (
        step.t for step in (make_steps(path, 10)[1], make_steps(path, 10)[3], make_steps(path, 10)[8])
    )
    seen: list[SolverProgress] = []
    x = torch.ones(1, dtype=torch.float64)
    steps = [path.step(first, middle), path.step(middle, last)]
    run("dpm_solver_2m", denoise, x, steps, callback=seen.append)
    lambdas = [path.half_log_snr(t) for t in (first, middle, last)]
    estimates_used = [2 + 3 * lambdas[0], 2 + 3 * (lambdas[1] + lambdas[2]) / 2]
    for i, x_0 in enumerate(estimates_used):
        (alpha_s, sigma_s), (_, sigma_t) = path.alpha_sigma(steps[i].s), path.alpha_sigma(steps[i].t)
        expected = sigma_s / sigma_t * x - alpha_s * math.expm1(lambdas[i] - lambdas[i + 1]) * x_0
        torch.testing.assert_close(seen[i].state.x, expected, rtol=1e-12, atol=1e-12)
        x = seen[i].state.x


@pytest.mark.parametrize("path", [FINE, FLOW], ids=["vp", "flow"])
def test_inversion_error_is_of_order_one(path: NoisePath, gaussian: Any) -> None:
    x = torch.tensor([1.9, -0.4, 0.7], dtype=torch.float64)
    denoise = gaussian.denoiser(path)
    errors = []
    for num_steps in (256, 512, 1024):
        steps = make_steps(path, num_steps)
        latents = [state.x for state in invert_ddim(denoise, x, steps)][-1]
        errors.append(float((run("ddim", denoise, latents, steps) - x).abs().max()))
        torch.testing.assert_close(
            latents, gaussian.flow(path, x, 0, steps[0].t), rtol=0, atol=10 / num_steps
        )
    for before, after in pairwise(errors):
        assert math.log2(before / after) == pytest.approx(1, abs=0.05)


def test_inversion_undoes_ddim_exactly_where_the_noise_estimate_is_constant() -> None:
    x = torch.tensor([2.0, -7.0], dtype=torch.float64)
    eps = torch.tensor([0.4, -1.0], dtype=torch.float64)

    def denoise(x: Tensor, t: float) -> tuple[Tensor, Tensor]:
        alpha, sigma = VP.alpha_sigma(t)
        return (x - sigma * eps) / alpha, eps

    steps = make_steps(VP, 9)
    states = list(invert_ddim(denoise, x, steps))
    torch.testing.assert_close(run("ddim", denoise, states[-1].x, steps), x, rtol=1e-12, atol=1e-12)
    assert [state.step for state in states] == steps[::-1]


@EVERY_SOLVER
@pytest.mark.parametrize("path", [COSINE, FLOW], ids=["vp", "flow"])
def test_weights_of_a_mixture_are_kept(
    solver: str, path: NoisePath, mixture: Any, generator: torch.Generator
) -> None:
    n = 10_000
    x = torch.randn(n, generator=generator, dtype=torch.float64)
    samples = run(solver, mixture.denoiser(path), x, make_steps(path, 60), noise=seeded_noise(x, seed=1))
    share = float((samples < 0).double().mean())
    assert abs(share - 0.3) < 4 * math.sqrt(0.3 * 0.7 / n)
    for sign, mean in ((-1, -2.0), (1, 2.0)):
        part = samples[samples * sign > 0]
        assert abs(float(part.mean()) - mean) < 0.02
        assert abs(float(part.std()) - mixture.sd) < 0.03


@EVERY_SOLVER
@pytest.mark.parametrize("path", [COSINE, FLOW], ids=["vp", "flow"])
def test_correlated_gaussian_keeps_mean_and_covariance(solver: str, path: NoisePath) -> None:
    mean = torch.tensor([1.0, -2.0], dtype=torch.float64)
    covariance = torch.tensor([[1.0, 0.6], [0.6, 0.5]], dtype=torch.float64)
    eye = torch.eye(2, dtype=torch.float64)

    def denoise(x: Tensor, t: float) -> tuple[Tensor, Tensor]:
        alpha, sigma = path.alpha_sigma(t)
        residual = (x - alpha * mean) @ torch.linalg.inv(alpha**2 * covariance + sigma**2 * eye)
        return mean + alpha * residual @ covariance, sigma * residual

    # Rows: the offset, responses to the two elements of x, and to those of each step's noise.
    steps = make_steps(path, 400)
    x = torch.zeros(3 + 2 * len(steps), 2, dtype=torch.float64)
    x[1:3] = eye
    drawn = iter(range(3, len(x), 2))

    def noise() -> Tensor:
        row, fresh = next(drawn), torch.zeros_like(x)
        fresh[row : row + 2] = eye
        return fresh

    offset, *rows = run(solver, denoise, x, steps, noise=noise)
    responses = torch.stack(rows) - offset
    tolerance = 2e-2 if solver in ("ddpm", "ddim") else 6e-3
    torch.testing.assert_close(offset, mean, rtol=0, atol=tolerance)
    torch.testing.assert_close(responses.T @ responses, covariance, rtol=0, atol=tolerance)


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


@pytest.mark.parametrize(("solver", "eta"), [*((name, 0.0) for name in SOLVERS), ("ddim", 0.7)])
@PATHS
def test_same_seeds_give_the_same_bits_in_any_batch(
    solver: str, eta: float, path: NoisePath, mixture: Any
) -> None:
    shape = (2, 3, 5, 3)

    def sample(seeds: list[int]) -> Tensor:
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]

        def noise() -> Tensor:
            return torch.stack([torch.randn(shape, generator=generator) for generator in generators])

        def predict(x: Tensor, times: Tensor, passes: Any) -> Tensor:
            drop = drop_masks(passes, ["age"], batch_size=len(x) // len(passes), device=x.device)
            return 0.3 * x - 0.1 * drop["age"].to(x).view(-1, 1, 1, 1, 1) * x.sin()

        denoise = guided_denoiser(
            predict, 3.0, path=path, prediction_type="v_prediction", conditions=["age"], rescale_amount=0.7
        )
        return run(solver, denoise, noise(), make_steps(path, 6), noise=noise, eta=eta)

    whole = sample([3, 4, 5, 6, 7])
    assert torch.equal(whole, sample([3, 4, 5, 6, 7]))
    assert torch.equal(whole, torch.cat([sample([3, 4]), sample([5]), sample([6, 7])]))
    assert not torch.equal(whole[0], whole[1])


@EVERY_SOLVER
def test_start_is_not_changed(solver: str, gaussian: Any) -> None:
    x = torch.ones(4, dtype=torch.float32)
    result = run(solver, gaussian.denoiser(VP), x, make_steps(VP, 3), noise=seeded_noise(x))
    assert torch.equal(x, torch.ones(4))
    assert result.dtype == torch.float32


@EVERY_SOLVER
def test_callback_sees_every_step(solver: str, gaussian: Any) -> None:
    seen: list[SolverProgress] = []
    x = torch.ones(4, dtype=torch.float64)
    steps = make_steps(VP, 5)
    result = run(solver, gaussian.denoiser(VP), x, steps, noise=seeded_noise(x), callback=seen.append)
    assert [(progress.index, progress.num_steps) for progress in seen] == [(i, 5) for i in range(5)]
    assert [progress.state.step for progress in seen] == steps
    assert torch.equal(seen[-1].state.x, result)
    assert torch.equal(seen[0].state.x_0, gaussian.denoiser(VP)(x, 1000)[0])


@EVERY_SOLVER
@pytest.mark.parametrize(
    ("times", "message"),
    [
        ([], "there are no steps"),
        ([(1000, 500), (400, 0)], "ends at time 500 and the next begins at 400"),
        ([(500, 500)], r"\(500, 500\) does not go down"),
        ([(0, 500)], r"\(0, 500\) does not go down"),
    ],
)
def test_steps_with_gaps_are_refused(solver: str, times: Any, message: str, gaussian: Any) -> None:
    with pytest.raises(ValueError, match=message):
        run(
            solver,
            gaussian.denoiser(VP),
            torch.ones(1),
            [VP.step(t, s) for t, s in times],
            noise=lambda: torch.zeros(1),
        )


def test_eta_is_refused_where_it_has_no_meaning(gaussian: Any) -> None:
    for solver in ("ddpm", "dpm_solver_2m", "heun"):
        with pytest.raises(ValueError, match=f"'{solver}' has no eta"):
            run(solver, gaussian.denoiser(VP), torch.ones(1), make_steps(VP, 2), eta=0.5)
    with pytest.raises(ValueError, match=r"eta is 1\.5"):
        run("ddim", gaussian.denoiser(VP), torch.ones(1), make_steps(VP, 2), eta=1.5)


@PATHS
@pytest.mark.parametrize("name", list(PRESETS))
def test_presets_run_on_every_path(
    name: str, path: NoisePath, mixture: Any, generator: torch.Generator
) -> None:
    preset = PRESETS[name]
    x = torch.randn(2000, generator=generator, dtype=torch.float64)
    steps = make_steps(path, preset.num_steps, grid=preset.grid)
    samples = run(preset.solver, mixture.denoiser(path), x, steps, noise=seeded_noise(x, seed=1))
    assert abs(float((samples < 0).double().mean()) - 0.3) < 0.06
    # 0.3 sqrt(2 / pi) = 0.24 for exact samples; 10 steps are few where lambda runs to both infinities.
    assert float((samples.abs() - 2).abs().mean()) < (0.35 if name == "fast" else 0.26)


BETAS = {"beta_start": 0.00085, "beta_end": 0.012}


def toy_network(x: Tensor, t: float) -> Tensor:
    """Some smooth function of x and t in float32."""
    return 0.9 * x + 0.1 * torch.sin(3 * x + t / 1000)


@pytest.mark.parametrize(
    ("solver", "eta"), [("ddpm", 0.0), ("ddim", 0.0), ("ddim", 0.6), ("dpm_solver_2m", 0.0)]
)
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_steps_agree_with_diffusers(
    solver: str, eta: float, prediction_type: str, generator: torch.Generator
) -> None:
    diffusers = pytest.importorskip("diffusers")
    shared = {
        **BETAS,
        "beta_schedule": "scaled_linear",
        "prediction_type": prediction_type,
        "timestep_spacing": "trailing",
    }
    scheduler = {
        "ddpm": lambda: diffusers.DDPMScheduler(clip_sample=False, **shared),
        "ddim": lambda: diffusers.DDIMScheduler(clip_sample=False, set_alpha_to_one=True, **shared),
        "dpm_solver_2m": lambda: diffusers.DPMSolverMultistepScheduler(lower_order_final=True, **shared),
    }[solver]()
    # Their table is a float32 product of 1000 factors; test_paths compares it, the exact one stands in here.
    scheduler.alphas_cumprod = DDPMPath(**BETAS).alpha_sigma(torch.arange(1, 1001))[0] ** 2
    scheduler.alpha_t = scheduler.alphas_cumprod.sqrt()
    scheduler.sigma_t = (1 - scheduler.alphas_cumprod).sqrt()
    scheduler.set_timesteps(20)
    x = torch.randn(1, 2, 3, 3, 3, generator=generator)
    steps = make_steps(DDPMPath(**BETAS), 20)
    assert scheduler.timesteps.tolist() == [step.t - 1 for step in steps]

    options = {} if solver == "dpm_solver_2m" else {"generator": torch.Generator().manual_seed(1)}
    options |= {"eta": eta} if solver == "ddim" else {}
    theirs, states = x, []
    for t in scheduler.timesteps:
        theirs = scheduler.step(toy_network(theirs, int(t)), t, theirs, **options).prev_sample
        states.append(theirs)

    denoise = guided_denoiser(
        lambda x, times, passes: toy_network(x, int(times[0])),
        path=DDPMPath(**BETAS),
        prediction_type=prediction_type,
    )
    noise = seeded_noise(x, seed=1)
    seen: list[SolverProgress] = []
    run(solver, denoise, x, steps, noise=noise, eta=eta, callback=seen.append)
    for progress, state in zip(seen, states, strict=True):
        scale = float(state.abs().max())
        torch.testing.assert_close(progress.state.x / scale, state.float() / scale, rtol=0, atol=1e-6)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_steps_agree_with_diffusers(shift: float, generator: torch.Generator) -> None:
    diffusers = pytest.importorskip("diffusers")
    path, num_steps = FlowPath(shift=shift), 10
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(sigmas=[1 - i / num_steps for i in range(num_steps)])
    steps = make_steps(path, num_steps)
    torch.testing.assert_close(
        scheduler.sigmas, torch.tensor([step.t for step in steps] + [0.0]), rtol=0, atol=1e-6
    )
    x = torch.randn(1, 2, 3, 3, 3, generator=generator)
    theirs = x
    for t in scheduler.timesteps:
        theirs = scheduler.step(toy_network(theirs, float(t)), t, theirs).prev_sample
    denoise = guided_denoiser(
        lambda x, times, passes: toy_network(x, float(times[0])), path=path, prediction_type="velocity"
    )
    torch.testing.assert_close(run("ddim", denoise, x, steps), theirs, rtol=0, atol=1e-6)
