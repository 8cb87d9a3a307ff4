"""Noise paths as objects: which (alpha_t, sigma_t) a model was trained on, and its times.

A path goes into a checkpoint's card as `to_dict` and comes back through `make_path`. Its tables are tuples of
Python floats: whatever precision they are used in, nothing can write to them.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from medldm.configs import unknown_name_message
from medldm.diffusion import kernel, schedules
from medldm.diffusion.kernel import Number, Step
from medldm.errors import ConfigError

MAX_TIMESTEPS = 1_000_000
"""The tables of a path have a row for each; schedules of the literature have 1000 to 4000."""
TIME_DISTRIBUTIONS = ("logit_normal", "uniform")


@dataclass(frozen=True, kw_only=True)
class NoisePath(ABC):
    """What all paths share. Build one with `make_path`."""

    kind: ClassVar[str]
    first_time: ClassVar[float]
    """The earliest time at which a network is asked; 0 itself is the data."""

    @property
    @abstractmethod
    def final_time(self) -> float:
        """The time of pure noise, T or 1."""

    @abstractmethod
    def alpha_sigma(self, t: Number) -> tuple[Number, Number]:
        """Return (alpha_t, sigma_t): floats for a number, float64 (B,) on t's device for a tensor."""

    @abstractmethod
    def sample_times(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw n training times (n,) on the generator's device."""

    @abstractmethod
    def network_time(self, t: Number) -> Number:
        """Return the time as the network is told it."""

    @property
    @abstractmethod
    def half_log_snr_range(self) -> tuple[float, float]:
        """lambda of the last time with signal and of the first network time; both finite."""

    @abstractmethod
    def time_at(self, half_log_snr: float) -> float:
        """Return the time with this lambda."""

    def snap_to_path(self, times: list[float]) -> list[float]:
        """Replace the decreasing times of a grid by those that the path has."""
        return times

    def shift_time(self, t: float) -> float:
        """Return the time that a grid even in t takes for t."""
        return t

    def add_noise(self, x_0: Tensor, noise: Tensor, t: Number) -> Tensor:
        """Return x_t (B, ...) in x_0's dtype for one time, or for times t (B,)."""
        return kernel.add_noise(x_0, noise, *self.alpha_sigma(t))

    def step(self, t: float, s: float) -> Step:
        """Return the step of sampling from t to s."""
        (alpha_t, sigma_t), (alpha_s, sigma_s) = self.alpha_sigma(t), self.alpha_sigma(s)
        return Step(t=t, s=s, alpha_t=alpha_t, sigma_t=sigma_t, alpha_s=alpha_s, sigma_s=sigma_s)

    def half_log_snr(self, t: float) -> float:
        """Return lambda_t: inf for the data, -inf for noise without signal."""
        return kernel.half_log_snr(*self.alpha_sigma(t))

    def check_prediction_type(self, prediction_type: str) -> None:
        """Raise ConfigError if a network cannot predict this on the whole path: epsilon where alpha = 0."""
        nothing = torch.zeros(1)
        kernel.estimates(prediction_type, nothing, nothing, *self.alpha_sigma(self.final_time))

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-able arguments from which `make_path` builds this path."""
        return {"kind": self.kind, **asdict(self)}


@dataclass(frozen=True, kw_only=True)
class DDPMPath(NoisePath):
    """Add noise in T small steps; times are the integers 0 ... T.

    Args:
        schedule: "linear", "scaled_linear", "sigmoid" or "cosine".
        n_timesteps: T.
        beta_start: beta_1, variance of the first step's noise; the cosine schedule does not read it.
        beta_end: beta_T; likewise.
        zero_terminal_snr: rescale so that alpha_T = 0; a network can then not predict epsilon.

    Raises:
        ConfigError: if an argument is outside its range.

    Source: Ho et al. 2020, "Denoising Diffusion Probabilistic Models", Eq. 2 and 4; schedules in `schedules`.

    Examples:
        >>> DDPMPath(n_timesteps=1000).alpha_sigma(0)
        (1.0, 0.0)
    """

    kind = "ddpm"
    first_time = 1

    schedule: str = "scaled_linear"
    n_timesteps: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012
    zero_terminal_snr: bool = False

    def __post_init__(self) -> None:
        if self.schedule not in schedules.BETA_SCHEDULES:
            raise ConfigError(f"schedule is {self.schedule!r}: choose from {list(schedules.BETA_SCHEDULES)}")
        if not 1 + self.zero_terminal_snr <= self.n_timesteps <= MAX_TIMESTEPS:
            raise ConfigError(
                f"n_timesteps is {self.n_timesteps}: at least 1, with zero_terminal_snr 2, and at most "
                f"{MAX_TIMESTEPS} is needed"
            )
        if not 0 < self.beta_start <= self.beta_end < 1:
            raise ConfigError(
                f"beta_start is {self.beta_start} and beta_end {self.beta_end}: "
                "variances with 0 < beta_start <= beta_end < 1 are needed"
            )

    @cached_property
    def betas(self) -> tuple[float, ...]:
        """beta_1 ... beta_T."""
        betas = schedules.BETA_SCHEDULES[self.schedule](self.n_timesteps, self.beta_start, self.beta_end)
        return tuple(
            (schedules.rescale_to_zero_terminal_snr(betas) if self.zero_terminal_snr else betas).tolist()
        )

    @cached_property
    def table(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """alpha_0 ... alpha_T and sigma_0 ... sigma_T."""
        return schedules.chain_steps(self.betas)

    @property
    def final_time(self) -> int:
        """T."""
        return self.n_timesteps

    def alpha_sigma(self, t: Number) -> tuple[Number, Number]:
        """Return (alpha_t, sigma_t); t is an integer 0 ... T or an integer tensor (B,) of such."""
        if isinstance(t, Tensor):
            alpha, sigma = torch.tensor(self.table, dtype=torch.float64, device=t.device).index_select(1, t)
            return alpha, sigma
        if not (0 <= t <= self.n_timesteps and t == int(t)):
            raise ValueError(f"time is {t}: this path has the integer times 0 to {self.n_timesteps}")
        return self.table[0][int(t)], self.table[1][int(t)]

    def sample_times(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw n times (n,) int64, even on 1 ... T (Ho et al. 2020, Algorithm 1)."""
        device = None if generator is None else generator.device
        return torch.randint(1, self.n_timesteps + 1, (n,), generator=generator, device=device)

    def network_time(self, t: Number) -> Number:
        """Return t - 1, as networks of MONAI and diffusers count from 0."""
        return t - 1

    @property
    def half_log_snr_range(self) -> tuple[float, float]:
        """lambda_T (lambda_{T-1} with zero terminal SNR) and lambda_1."""
        return self.half_log_snr(self.n_timesteps - self.zero_terminal_snr), self.half_log_snr(1)

    def time_at(self, half_log_snr: float) -> int:
        """Return the time 1 ... T whose lambda is nearest."""
        times = range(1, self.n_timesteps + 1)
        i = bisect_left(times, -half_log_snr, key=lambda t: -self.half_log_snr(t))
        return min(times[max(i - 1, 0) : i + 1], key=lambda t: abs(self.half_log_snr(t) - half_log_snr))

    def snap_to_path(self, times: list[float]) -> list[float]:
        """Round to as many different integers, at least 1."""
        if len(times) > self.n_timesteps:
            raise ConfigError(f"num_steps is {len(times)}: this path has {self.n_timesteps} steps at most")
        snapped: list[float] = []
        ceiling = self.n_timesteps
        for n_left, time in zip(range(len(times), 0, -1), times, strict=True):
            snapped.append(max(n_left, min(round(time), ceiling)))
            ceiling = int(snapped[-1]) - 1
        return snapped


@dataclass(frozen=True, kw_only=True)
class FlowPath(NoisePath):
    """Go straight from data to noise, x_t = (1 - t) x_0 + t eps; times are the numbers in [0, 1].

    Args:
        time_distribution: of training times before the shift, "logit_normal" or "uniform".
        logit_mean: mean of logit(t), for "logit_normal"; above 0 trains more on noise.
        logit_std: standard deviation of logit(t), for "logit_normal".
        shift: of training times and of the grids even in t; above 1 towards noise, as large volumes need, see
            `schedules.resolution_shift`.

    Raises:
        ConfigError: if an argument is outside its range.

    Source: Liu et al. 2023, "Flow Straight and Fast", Eq. 1; Esser et al. 2024, "Scaling Rectified Flow
    Transformers for High-Resolution Image Synthesis", Eq. 19 and 23.

    Examples:
        >>> FlowPath().alpha_sigma(0.25)
        (0.75, 0.25)
    """

    kind = "flow"
    first_time = 1e-3

    time_distribution: str = "logit_normal"
    logit_mean: float = 0.0
    logit_std: float = 1.0
    shift: float = 1.0

    def __post_init__(self) -> None:
        if self.time_distribution not in TIME_DISTRIBUTIONS:
            raise ConfigError(
                f"time_distribution is {self.time_distribution!r}: choose from {list(TIME_DISTRIBUTIONS)}"
            )
        if not (
            0 < self.logit_std < math.inf and 0 < self.shift < math.inf and math.isfinite(self.logit_mean)
        ):
            raise ConfigError(
                f"logit_mean is {self.logit_mean}, logit_std {self.logit_std} and shift {self.shift}: "
                "finite numbers are needed, the last two above 0"
            )

    @property
    def final_time(self) -> float:
        """1."""
        return 1.0

    def alpha_sigma(self, t: Number) -> tuple[Number, Number]:
        """Return (1 - t, t)."""
        if isinstance(t, Tensor):
            return 1 - t.double(), t.double()
        if not 0 <= t <= 1:
            raise ValueError(f"time is {t}: this path has times from 0 to 1")
        return 1.0 - t, 1.0 * t

    def sample_times(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw n times (n,) float64."""
        draw = torch.rand if self.time_distribution == "uniform" else torch.randn
        device = None if generator is None else generator.device
        t = draw(n, generator=generator, device=device, dtype=torch.float64)
        if self.time_distribution == "logit_normal":
            t = schedules.logit_normal_times(t, self.logit_mean, self.logit_std)
        return schedules.shift_time(t, self.shift)

    def network_time(self, t: Number) -> Number:
        """Return 1000 t, the range that time embeddings resolve."""
        return 1000 * t

    @property
    def half_log_snr_range(self) -> tuple[float, float]:
        """lambda at t = 0.999 and at t = 0.001."""
        return self.half_log_snr(1 - self.first_time), self.half_log_snr(self.first_time)

    def time_at(self, half_log_snr: float) -> float:
        """Return t of log((1 - t) / t) = lambda."""
        return 1 / (1 + math.exp(half_log_snr))

    def shift_time(self, t: float) -> float:
        """Return t shifted as in training."""
        return schedules.shift_time(t, self.shift)


PATHS: dict[str, type[NoisePath]] = {"ddpm": DDPMPath, "flow": FlowPath}


def make_path(description: Mapping[str, Any]) -> NoisePath:
    """Build a path from {"kind": "ddpm" or "flow", ...arguments}, as `NoisePath.to_dict` returns it.

    Raises:
        ConfigError: if the kind or an argument is unknown or outside its range.

    Examples:
        >>> make_path({"kind": "flow", "shift": 3.0}).to_dict()["shift"]
        3.0
    """
    arguments = dict(description)
    kind = arguments.pop("kind", None)
    if kind not in PATHS:
        raise ConfigError(f"kind of the noise path is {kind!r}: choose from {list(PATHS)}")
    known = [field.name for field in fields(PATHS[kind])]
    for name in arguments:
        if name not in known:
            raise ConfigError(unknown_name_message(name, known, kind=f"argument of a {kind} path"))
    return PATHS[kind](**arguments)
