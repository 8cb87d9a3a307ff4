"""Solvers against those of diffusers, step by step."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from medldm.diffusion import (
    DDPMPath,
    FlowPath,
    guided_denoiser,
    make_steps,
)
from medldm.diffusion.solvers import SolverProgress
from tests.diffusion.solver_runs import (
    run,
    seeded_noise,
)

BETAS = {"beta_start": 0.00085, "beta_end": 0.012}


def toy_network(x: Tensor, t: float) -> Tensor:
    """Some smooth function of x and t in float32."""
    return 0.9 * x + 0.1 * torch.sin(3 * x + t / 1000)


@pytest.mark.parametrize(
    ("solver", "eta"),
    [("ddpm", 0.0), ("ddim", 0.0), ("ddim", 0.6), ("dpm_solver_2m", 0.0), ("dpm_solver_2m_sde", 0.0)],
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
        "dpm_solver_2m_sde": lambda: diffusers.DPMSolverMultistepScheduler(
            lower_order_final=True, algorithm_type="sde-dpmsolver++", **shared
        ),
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
