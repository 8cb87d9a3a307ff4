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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

from torch import Tensor

from medldm.diffusion.kernel import posterior
from medldm.diffusion.paths import NoisePath
from medldm.errors import ConfigError

Denoise = Callable[[Tensor, float], tuple[Tensor, Tensor]]
Pairs = Sequence[tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class SolverStep:
    """What a callback is told after each step.

    Args:
        index: 0 for the first step.
        num_steps: of the whole run.
        t: time before the step.
        s: time after it.
        x: (B, ...) state after the step.
        x_0: (B, ...) the estimate of the clean latents that the step used.
    """

    index: int
    num_steps: int
    t: float
    s: float
    x: Tensor
    x_0: Tensor


Callback = Callable[[SolverStep], None]


class Solver(Protocol):
    """Integrate from pairs[0][0] to pairs[-1][1].

    Args:
        denoise: maps (x_t, t) to the estimates (x_0, eps), each like x_t.
        x: (B, ...) state at the first time; standard normal noise at a path's final time. Not changed.
        path: noise path.
        pairs: steps (t, s), decreasing and without gaps; see `NoisePath.time_pairs`.
        noise: returns fresh standard normal noise like x.
        eta: share of fresh noise, DDIM only; other solvers refuse all but 0.
        callback: called after each step.

    Returns:
        (B, ...) state at the last time.

    Raises:
        ValueError: if the pairs have gaps or go up, or eta is not the solver's.
    """

    def __call__(
        self,
        denoise: Denoise,
        x: Tensor,
        path: NoisePath,
        pairs: Pairs,
        *,
        noise: Callable[[], Tensor],
        eta: float = 0.0,
        callback: Callback | None = None,
    ) -> Tensor: ...


def ddpm(
    denoise: Denoise,
    x: Tensor,
    path: NoisePath,
    pairs: Pairs,
    *,
    noise: Callable[[], Tensor],
    eta: float = 0.0,
    callback: Callback | None = None,
) -> Tensor:
    """Sample the ancestors: draw x_s from q(x_s | x_t, x_0) of these very s and t, with x_0 estimated.

    Source: Ho et al. 2020, Algorithm 2 and Eq. 7; see `kernel.posterior`. Args: see `Solver`.
    """
    _check(pairs, eta, "ddpm")
    for i, (t, s) in enumerate(pairs):
        x_0, _ = denoise(x, t)
        c_t, c_0, sd = posterior(*path.alpha_sigma(t), *path.alpha_sigma(s))
        x = c_t * x + c_0 * x_0
        if sd > 0:
            x = x + sd * noise()
        _tell(callback, i, pairs, x, x_0)
    return x


def ddim(
    denoise: Denoise,
    x: Tensor,
    path: NoisePath,
    pairs: Pairs,
    *,
    noise: Callable[[], Tensor],
    eta: float = 0.0,
    callback: Callback | None = None,
) -> Tensor:
    """Step along Eq. (1) by Euler; eta > 0 replaces a part of the noise by fresh noise, and eta = 1 is DDPM.

        x_s = alpha_s x_0 + sqrt(sigma_s^2 - eta^2 sd^2) eps + eta sd z,    sd^2 = sigma_s^2 (1 - rho^2)

    Source: Song et al. 2021, "Denoising Diffusion Implicit Models", Eq. 12 and 16. Args: see `Solver`.
    """
    _check(pairs, eta, "ddim")
    for i, (t, s) in enumerate(pairs):
        x_0, eps = denoise(x, t)
        alpha_s, sigma_s = path.alpha_sigma(s)
        _, _, sd = posterior(*path.alpha_sigma(t), alpha_s, sigma_s)
        x = alpha_s * x_0 + math.sqrt(max(sigma_s**2 - (eta * sd) ** 2, 0.0)) * eps
        if eta * sd > 0:
            x = x + eta * sd * noise()
        _tell(callback, i, pairs, x, x_0)
    return x


def dpm_solver_2m(
    denoise: Denoise,
    x: Tensor,
    path: NoisePath,
    pairs: Pairs,
    *,
    noise: Callable[[], Tensor],
    eta: float = 0.0,
    callback: Callback | None = None,
) -> Tensor:
    """Extrapolate x_0 linearly in lambda from two steps; second order with one evaluation a step.

        x_s = (sigma_s / sigma_t) x_t + alpha_s (1 - rho) ((1 + c) x_0 - c x_0^before)
        c = h / (2 h^before),    h = lambda_s - lambda_t;    c = 0 in the first step and in one to sigma = 0

    Source: Lu et al. 2022, "DPM-Solver++", Algorithm 2. Args: see `Solver`.
    """
    _check(pairs, eta, "dpm_solver_2m")
    x_0_before, h_before = x, math.inf
    for i, (t, s) in enumerate(pairs):
        x_0, _ = denoise(x, t)
        (alpha_t, sigma_t), (alpha_s, sigma_s) = path.alpha_sigma(t), path.alpha_sigma(s)
        rho = (alpha_t * sigma_s) / (alpha_s * sigma_t)
        h = path.half_log_snr(s) - path.half_log_snr(t)
        c = 0.0 if i == 0 or h == math.inf else h / (2 * h_before)
        slope = x_0 if c == 0 else (1 + c) * x_0 - c * x_0_before
        x = (sigma_s / sigma_t) * x + alpha_s * (1 - rho) * slope
        x_0_before, h_before = x_0, h
        _tell(callback, i, pairs, x, x_0)
    return x


def heun(
    denoise: Denoise,
    x: Tensor,
    path: NoisePath,
    pairs: Pairs,
    *,
    noise: Callable[[], Tensor],
    eta: float = 0.0,
    callback: Callback | None = None,
) -> Tensor:
    """Step along Eq. (1) by the trapezoidal rule; second order, with two evaluations a step (one if s = 0).

        x_s = x_t + (alpha_s - alpha_t) (x_0 + x_0') / 2 + (sigma_s - sigma_t) (eps + eps') / 2,
        x_0', eps' the estimates at s after an Euler step

    Source: Karras et al. 2022, "Elucidating the Design Space", Algorithm 1. Args: see `Solver`.
    """
    _check(pairs, eta, "heun")
    for i, (t, s) in enumerate(pairs):
        x_0, eps = denoise(x, t)
        (alpha_t, sigma_t), (alpha_s, sigma_s) = path.alpha_sigma(t), path.alpha_sigma(s)
        euler = alpha_s * x_0 + sigma_s * eps
        if sigma_s > 0:
            x_0_end, eps_end = denoise(euler, s)
            x = x + (alpha_s - alpha_t) / 2 * (x_0 + x_0_end) + (sigma_s - sigma_t) / 2 * (eps + eps_end)
        else:
            x = euler
        _tell(callback, i, pairs, x, x_0)
    return x


SOLVERS: dict[str, Solver] = {"ddpm": ddpm, "ddim": ddim, "dpm_solver_2m": dpm_solver_2m, "heun": heun}


def invert_ddim(
    denoise: Denoise, x: Tensor, path: NoisePath, pairs: Pairs, *, callback: Callback | None = None
) -> Tensor:
    """Return the noise from which DDIM on the same pairs makes x: its steps backwards, to first order.

        x_t = alpha_t (x_s - sigma_s eps) / alpha_s + sigma_t eps

    with eps estimated at (x_s, s), in the step from s = 0 at (x_s, t): no network knows the time 0.

    Args:
        denoise: maps (x_t, t) to the estimates (x_0, eps).
        x: (B, ...) latents at the last time of the pairs, usually clean ones.
        path: noise path.
        pairs: those of the DDIM run to come.
        callback: called after each step.

    Returns:
        (B, ...) state at the first time of the pairs.

    Source: Dhariwal and Nichol 2021, "Diffusion Models Beat GANs", App. F; Mokady et al. 2023, "Null-text".
    """
    _check(pairs, 0.0, "ddim")
    upward = [(s, t) for t, s in reversed(pairs)]
    for i, (s, t) in enumerate(upward):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = path.alpha_sigma(t), path.alpha_sigma(s)
        _, eps = denoise(x, s if sigma_s > 0 else t)
        x_0 = (x - sigma_s * eps) / alpha_s
        x = alpha_t * x_0 + sigma_t * eps
        _tell(callback, i, upward, x, x_0)
    return x


@dataclass(frozen=True, kw_only=True)
class SamplingPreset:
    """A solver with its grid and number of steps.

    Args:
        solver: name in `SOLVERS`.
        num_steps: number of steps.
        grid: name of a time grid.
    """

    solver: str
    num_steps: int
    grid: str


PRESETS: dict[str, SamplingPreset] = {
    "fast": SamplingPreset(solver="dpm_solver_2m", num_steps=10, grid="log_snr"),
    "balanced": SamplingPreset(solver="dpm_solver_2m", num_steps=30, grid="log_snr"),
    "reference": SamplingPreset(solver="ddpm", num_steps=250, grid="trailing"),
}


def _check(pairs: Pairs, eta: float, solver: str) -> None:
    if not pairs:
        raise ValueError("there are no time pairs: a solver needs at least one step (t, s)")
    for t, s in pairs:
        if not t > s:
            raise ValueError(f"time pair ({t}, {s}) does not go down: a step goes from t to a smaller s")
    for (_, end), (start, _) in pairwise(pairs):
        if end != start:
            raise ValueError(
                f"one step ends at time {end} and the next begins at {start}: they must be the same"
            )
    if solver != "ddim" and eta != 0:
        raise ConfigError(f"eta is {eta}, but {solver!r} has no eta: set it to 0, or take the solver 'ddim'")
    if not 0 <= eta <= 1:
        raise ConfigError(f"eta is {eta}: a share of fresh noise in [0, 1] is needed")


def _tell(callback: Callback | None, index: int, pairs: Pairs, x: Tensor, x_0: Tensor) -> None:
    if callback is not None:
        t, s = pairs[index]
        callback(SolverStep(index=index, num_steps=len(pairs), t=t, s=s, x=x, x_0=x_0))
