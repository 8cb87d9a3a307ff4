"""Solvers: from noise to data in few steps.

Pure functions of one signature; the state is x, nothing is hidden. A step goes from t to s < t, both given;
symbols as in `kernel`. Along any path the probability flow is a line integral over the curve (alpha, sigma),

    dx = x_0 dalpha + eps dsigma,    x_0 and eps the network's estimates at (x_t, t),                    (1)

which is why one code runs variance-preserving and flow paths: an Euler step of (1) is DDIM, a trapezoidal one
Heun.

All operations are elementwise with Python floats: a sample's result does not depend on its batch. Latents are
never clipped. Every solver ends with sigma = 0, where x is the last estimate of x_0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import NamedTuple

from torch import Tensor

from medldm.diffusion.kernel import Step, add_noise
from medldm.errors import ConfigError

Denoise = Callable[[Tensor, float], tuple[Tensor, Tensor]]
"""Maps (x_t, t) to the estimates (x_0, eps), each like x_t."""
Noise = Callable[[], Tensor]
"""Returns fresh standard normal noise like x."""
Steps = Sequence[Step]


class SolverState(NamedTuple):
    """What a solver yields after each step.

    Attributes:
        step: the step that was made.
        x: (B, ...) state after it.
        x_0: (B, ...) the estimate of the clean latents that it used.
    """

    step: Step
    x: Tensor
    x_0: Tensor


Solver = Callable[[Denoise, Tensor, Steps], Iterator[SolverState]]
"""Integrates x (B, ...), which is not changed, over steps that decrease without gaps; yields each state."""


def ddim(denoise: Denoise, x: Tensor, steps: Steps) -> Iterator[SolverState]:
    """Step along Eq. (1) by Euler: put the estimated noise on the estimated data, less of it.

    Source: Song et al. 2021, "Denoising Diffusion Implicit Models", Eq. 12 with sigma_t = 0.
    """
    for step in steps:
        x_0, eps = denoise(x, step.t)
        x = add_noise(x_0, eps, step.alpha_s, step.sigma_s)
        yield SolverState(step, x, x_0)


def stochastic_ddim(
    denoise: Denoise, x: Tensor, steps: Steps, *, eta: float, noise: Noise
) -> Iterator[SolverState]:
    """Step as DDIM does, with a part of the noise replaced by fresh noise z; eta = 1 is DDPM.

        x_s = alpha_s x_0 + sqrt(sigma_s^2 - eta^2 sd^2) eps + eta sd z,    sd as in Eq. (5) of `kernel`

    Source: Song et al. 2021, "Denoising Diffusion Implicit Models", Eq. 12 and 16.
    """
    for step in steps:
        x_0, eps = denoise(x, step.t)
        fresh = eta * step.posterior_sd
        x = add_noise(x_0, eps, step.alpha_s, math.sqrt(max(step.sigma_s**2 - fresh**2, 0.0)))
        if fresh > 0:
            x = x + fresh * noise()
        yield SolverState(step, x, x_0)


def ddpm(denoise: Denoise, x: Tensor, steps: Steps, *, noise: Noise) -> Iterator[SolverState]:
    """Sample ancestrally: draw x_s from q(x_s | x_t, x_0) of these very s and t, with x_0 estimated.

    Source: Ho et al. 2020, Algorithm 2 and Eq. 7.
    """
    for step in steps:
        x_0, _ = denoise(x, step.t)
        x = _draw_back(x, x_0, step, noise)
        yield SolverState(step, x, x_0)


def dpm_solver_2m(denoise: Denoise, x: Tensor, steps: Steps) -> Iterator[SolverState]:
    """Extrapolate x_0 linearly in lambda from two steps; second order with one evaluation a step.

        D   = (1 + c) x_0 - c x_0^before,    c = 1 / (2 r),    r = h^before / h
        x_s = (sigma_s / sigma_t) x_t + alpha_s (1 - e^-h) D

    c = 0, first order, in the first step and in one to sigma = 0.

    Source: Lu et al. 2022, "DPM-Solver++", Algorithm 2.
    """
    x_0_before, h_before = x, math.inf
    for step in steps:
        x_0, _ = denoise(x, step.t)
        d = _extrapolate(x_0, x_0_before, step.h, h_before)
        x = (step.sigma_s / step.sigma_t) * x + step.alpha_s * (1 - step.rho) * d
        x_0_before, h_before = x_0, step.h
        yield SolverState(step, x, x_0)


def dpm_solver_2m_sde(denoise: Denoise, x: Tensor, steps: Steps, *, noise: Noise) -> Iterator[SolverState]:
    """Draw x_s as `ddpm` does, from the x_0 that `dpm_solver_2m` extrapolates: second order in its mean.

    Fresh noise corrects what earlier steps got wrong, which a deterministic solver carries to the end.

    Source: Lu et al. 2022, "DPM-Solver++", Section 4 and Appendix: SDE-DPM-Solver++(2M).
    """
    x_0_before, h_before = x, math.inf
    for step in steps:
        x_0, _ = denoise(x, step.t)
        x = _draw_back(x, _extrapolate(x_0, x_0_before, step.h, h_before), step, noise)
        x_0_before, h_before = x_0, step.h
        yield SolverState(step, x, x_0)


def _extrapolate(x_0: Tensor, x_0_before: Tensor, h: float, h_before: float) -> Tensor:
    """Return D of `dpm_solver_2m`."""
    c = 0.0 if h == math.inf else h / (2 * h_before)
    return (1 + c) * x_0 - c * x_0_before


def _draw_back(x: Tensor, x_0: Tensor, step: Step, noise: Noise) -> Tensor:
    """Draw x_s from q(x_s | x_t, x_0), Eq. (5) of `kernel`."""
    c_t, c_0 = step.posterior_mean
    x = c_t * x + c_0 * x_0
    return x + step.posterior_sd * noise() if step.posterior_sd > 0 else x


def heun(denoise: Denoise, x: Tensor, steps: Steps) -> Iterator[SolverState]:
    """Step along Eq. (1) by the trapezoidal rule; second order, with two evaluations a step (one if s = 0).

        x_s = x_t + (alpha_s - alpha_t) (x_0 + x_0') / 2 + (sigma_s - sigma_t) (eps + eps') / 2,
        x_0', eps' the estimates at s after an Euler step

    Source: Karras et al. 2022, "Elucidating the Design Space", Algorithm 1.
    """
    for step in steps:
        x_0, eps = denoise(x, step.t)
        x_s = add_noise(x_0, eps, step.alpha_s, step.sigma_s)
        if step.sigma_s > 0:
            x_0_end, eps_end = denoise(x_s, step.s)
            half_dalpha, half_dsigma = (step.alpha_s - step.alpha_t) / 2, (step.sigma_s - step.sigma_t) / 2
            x_s = x + half_dalpha * (x_0 + x_0_end) + half_dsigma * (eps + eps_end)
        x = x_s
        yield SolverState(step, x, x_0)


SOLVERS: dict[str, Callable[..., Iterator[SolverState]]] = {
    "ddpm": ddpm,
    "ddim": ddim,
    "dpm_solver_2m": dpm_solver_2m,
    "dpm_solver_2m_sde": dpm_solver_2m_sde,
    "heun": heun,
}
"""By name; `make_solver` gives those with fresh noise what they need of it."""
STOCHASTIC = ("ddpm", "dpm_solver_2m_sde")
"""Those that always draw fresh noise."""


def make_solver(name: str, *, noise: Noise, eta: float = 0.0) -> Solver:
    """Return the solver of a name.

    Args:
        name: one of `SOLVERS`.
        noise: asked by "ddpm" and "dpm_solver_2m_sde", and by "ddim" with eta above 0.
        eta: share of fresh noise, in [0, 1], of "ddim" alone.

    Raises:
        ConfigError: if the name is unknown or eta not the solver's.
    """
    if name not in SOLVERS:
        raise ConfigError(f"solver is {name!r}: choose from {list(SOLVERS)}")
    if name != "ddim" and eta != 0:
        raise ConfigError(f"eta is {eta}, but {name!r} has no eta: set it to 0, or take the solver 'ddim'")
    if not 0 <= eta <= 1:
        raise ConfigError(f"eta is {eta}: a share of fresh noise in [0, 1] is needed")
    if eta > 0:
        return partial(stochastic_ddim, eta=eta, noise=noise)
    return partial(SOLVERS[name], noise=noise) if name in STOCHASTIC else SOLVERS[name]


@dataclass(frozen=True, kw_only=True)
class SolverProgress:
    """What a callback is told after each step.

    Args:
        index: 0 for the first step.
        num_steps: of the whole run.
        state: what the solver yielded.
    """

    index: int
    num_steps: int
    state: SolverState


Callback = Callable[[SolverProgress], None]


def run_solver(
    solver: Solver,
    denoise: Denoise,
    x: Tensor,
    steps: Steps,
    *,
    repeats: int = 1,
    callback: Callback | None = None,
) -> Tensor:
    """Return the state (B, ...) after the last step.

    Args:
        solver: made by `make_solver`.
        denoise: see `Denoise`.
        x: (B, ...) state at the first time; standard normal noise at a path's final time.
        steps: see `make_steps`.
        repeats: how often the solver makes each step.
        callback: called after each step.

    Raises:
        ValueError: if the steps have gaps or go up.
    """
    check_steps(steps)
    for index, state in enumerate(solver(denoise, x, steps)):
        x = state.x
        if callback is not None:
            callback(SolverProgress(index=index, num_steps=repeats * len(steps), state=state))
    return x


def invert_ddim(denoise: Denoise, x: Tensor, steps: Steps) -> Iterator[SolverState]:
    """Make DDIM's steps backwards, to first order: from data to the noise from which DDIM makes it.

        x_t = alpha_t x_0 + sigma_t eps,    x_0 = (x_s - sigma_s eps) / alpha_s

    with eps estimated at (x_s, s), in the step from s = 0 at (x_s, t): no network knows the time 0.

    Args:
        denoise: see `Denoise`.
        x: (B, ...) latents at the end of the last step, usually clean ones.
        steps: those of the DDIM run to come.

    Yields:
        The state at t of each step, from the last one to the first.

    Source: Dhariwal and Nichol 2021, "Diffusion Models Beat GANs", App. F; Mokady et al. 2023, "Null-text".
    """
    for step in reversed(steps):
        _, eps = denoise(x, step.s if step.sigma_s > 0 else step.t)
        x_0 = (x - step.sigma_s * eps) / step.alpha_s
        x = add_noise(x_0, eps, step.alpha_t, step.sigma_t)
        yield SolverState(step, x, x_0)


def check_steps(steps: Steps) -> None:
    """Raise ValueError if there are no steps, if one does not go down, or if there is a gap between two."""
    if not steps:
        raise ValueError("there are no steps: a solver needs at least one")
    for step in steps:
        if not step.t > step.s:
            raise ValueError(f"step ({step.t}, {step.s}) does not go down: it goes from t to a smaller s")
    for before, after in pairwise(steps):
        if before.s != after.t:
            raise ValueError(
                f"one step ends at time {before.s} and the next begins at {after.t}: they must be the same"
            )


class SamplingPreset(NamedTuple):
    """A solver, by its name in `SOLVERS`, with its number of steps and the name of its time grid."""

    solver: str
    num_steps: int
    grid: str


PRESETS: dict[str, SamplingPreset] = {
    "fast": SamplingPreset(solver="dpm_solver_2m", num_steps=10, grid="log_snr"),
    "balanced": SamplingPreset(solver="dpm_solver_2m", num_steps=30, grid="log_snr"),
    "reference": SamplingPreset(solver="ddpm", num_steps=250, grid="trailing"),
}
