"""Every solver against exact solutions, and what all of them keep."""

from __future__ import annotations

import math
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
    NoisePath,
    guided_denoiser,
    make_steps,
)
from medldm.diffusion.guidance import drop_masks
from medldm.diffusion.kernel import Step, estimates, training_target
from medldm.diffusion.solvers import SolverProgress, invert_ddim
from tests.diffusion.solver_runs import (
    COSINE,
    EVERY_SOLVER,
    FLOW,
    PATHS,
    VP,
    run,
    seeded_noise,
)


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
