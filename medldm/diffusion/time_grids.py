"""Time grids: at which times a solver of N steps asks the network.

A grid is N decreasing times, the first one pure noise; 0, the data, follows as the last step's end. For the
final time T, the smallest network time t_1 and i = 0 ... N - 1:

    trailing    T (1 - i / N)                              Lin et al. 2023, Section 3.3
    uniform     T + (t_1 - T) i / (N - 1)                  Nichol and Dhariwal 2021, Section 4
    log_snr     lambda evenly spaced                       Lu et al. 2022, "DPM-Solver"
    karras      (sigma / alpha)^(1/7) evenly spaced        Karras et al. 2022, Eq. 5 with rho = 7

DDPM paths round to integers. Flow paths apply their shift to the first two.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

from medldm.diffusion.kernel import Step
from medldm.diffusion.paths import NoisePath
from medldm.errors import ConfigError

KARRAS_RHO = 7


def linspace(first: float, last: float, n: int) -> list[float]:
    """Return n evenly spaced numbers from first to last; for n = 1 the first."""
    return [first + (last - first) * (i / max(n - 1, 1)) for i in range(n)]


def trailing(path: NoisePath, n: int) -> list[float]:
    """Space times evenly from the final time, the last step as long as the others."""
    return [path.shift_time(path.final_time * ((n - i) / n)) for i in range(n)]


def uniform(path: NoisePath, n: int) -> list[float]:
    """Space times evenly from the final time to the smallest network time."""
    return [path.shift_time(t) for t in linspace(path.final_time, path.first_time, n)]


def log_snr(path: NoisePath, n: int) -> list[float]:
    """Space lambda evenly."""
    return [path.time_at(value) for value in linspace(*path.half_log_snr_range, n)]


def karras(path: NoisePath, n: int) -> list[float]:
    """Space (sigma / alpha)^(1 / rho) evenly."""
    first, last = (math.exp(-value / KARRAS_RHO) for value in path.half_log_snr_range)
    return [path.time_at(-KARRAS_RHO * math.log(value)) for value in linspace(first, last, n)]


GRIDS: dict[str, Callable[[NoisePath, int], list[float]]] = {
    "trailing": trailing,
    "uniform": uniform,
    "log_snr": log_snr,
    "karras": karras,
}


def make_steps(path: NoisePath, num_steps: int, *, grid: str = "trailing") -> list[Step]:
    """Return the steps of a solver, from the path's final time to 0: each begins where the one before ended.

    Args:
        path: noise path.
        num_steps: number N of steps, at least 1; at most T on a DDPM path.
        grid: "trailing", "uniform", "log_snr" or "karras".

    Returns:
        N steps from t to s, t > s.

    Raises:
        ConfigError: if the grid is unknown or the number of steps impossible.

    Examples:
        >>> from medldm.diffusion import DDPMPath
        >>> [(step.t, step.s) for step in make_steps(DDPMPath(n_timesteps=1000), 4)]
        [(1000, 750), (750, 500), (500, 250), (250, 0)]
    """
    if grid not in GRIDS:
        raise ConfigError(f"grid is {grid!r}: choose from {list(GRIDS)}")
    if num_steps < 1:
        raise ConfigError(f"num_steps is {num_steps}: at least 1 is needed")
    times = path.snap_to_path([path.final_time, *GRIDS[grid](path, num_steps)[1:]])
    return _steps_through(path, times)


def steps_from_level(path: NoisePath, level: float, num_steps: int) -> list[Step]:
    """Return steps from the time with sigma / alpha = `level` to 0, evenly spaced in lambda.

    Args:
        path: noise path.
        level: of the noise, above 0; clamped to what the path has between its ends.
        num_steps: at most; times of the path that fall together count once.

    Examples:
        >>> from medldm.diffusion import FlowPath
        >>> [(step.t, step.s) for step in steps_from_level(FlowPath(), 1.0, 1)]
        [(0.5, 0.0)]
    """
    if level <= 0 or num_steps < 1:
        raise ConfigError(f"level is {level} and num_steps {num_steps}: above 0, and at least 1, are needed")
    last = path.half_log_snr_range[1]
    first = min(max(-math.log(level), path.half_log_snr_range[0]), last)
    times = {path.time_at(value) for value in linspace(first, last, num_steps)}
    return _steps_through(path, sorted(times, reverse=True))


def _steps_through(path: NoisePath, times: list[float]) -> list[Step]:
    """Return the steps from each time to the next, and from the last to 0."""
    return [path.step(t, s) for t, s in pairwise([*times, path.final_time * 0])]
