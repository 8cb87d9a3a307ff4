"""How much noise at which time: variances of DDPM's steps, times of rectified flow. Symbols as in `kernel`.

A variance-preserving path is a chain of T steps of noise with variances beta_1 ... beta_T,

    x_t = sqrt(1 - beta_t) x_{t-1} + sqrt(beta_t) eps                      Ho et al. 2020, Eq. 2           (1)

A rectified flow is alpha_t = 1 - t, sigma_t = t, t in [0, 1]; Liu et al. 2023, Eq. 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from medldm.diffusion.kernel import Number


def linear_betas(n: int, start: float, end: float) -> Tensor:
    """Return beta_1 ... beta_n (n,), linear; Ho et al. 2020, Section 4."""
    return torch.linspace(start, end, n, dtype=torch.float64)


def scaled_linear_betas(n: int, start: float, end: float) -> Tensor:
    """Return betas (n,) linear in their root; Rombach et al. 2022, their code."""
    return torch.linspace(math.sqrt(start), math.sqrt(end), n, dtype=torch.float64) ** 2


def sigmoid_betas(n: int, start: float, end: float) -> Tensor:
    """Return betas (n,) on a logistic curve over [-6, 6]; Xu et al. 2022 (GeoDiff), their code."""
    return start + (end - start) * torch.linspace(-6, 6, n, dtype=torch.float64).sigmoid()


def cosine_betas(n: int, start: float, end: float) -> Tensor:
    """Return betas (n,) with alpha_t^2 = f(t) / f(0), f = cos^2; Nichol and Dhariwal 2021, Eq. 17.

    beta = 1 - f(t) / f(t - 1) is at most 0.999; there is no start and end.
    """
    f = torch.cos((torch.arange(n + 1, dtype=torch.float64) / n + 0.008) / 1.008 * math.pi / 2) ** 2
    return (1 - f[1:] / f[:-1]).clamp(max=0.999)


BETA_SCHEDULES: dict[str, Callable[[int, float, float], Tensor]] = {
    "linear": linear_betas,
    "scaled_linear": scaled_linear_betas,
    "sigmoid": sigmoid_betas,
    "cosine": cosine_betas,
}


def rescale_to_zero_terminal_snr(betas: Tensor) -> Tensor:
    """Return betas (n,) with the same alpha_1 and with alpha_n = 0 exactly; Lin et al. 2023, Algorithm 1."""
    alpha = (1 - betas).cumprod(0).sqrt()
    alpha = (alpha - alpha[-1]) * (alpha[0] / (alpha[0] - alpha[-1]))
    return 1 - torch.cat([alpha[:1], alpha[1:] / alpha[:-1]]) ** 2


def chain_steps(betas: Sequence[float]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return (alpha_0 ... alpha_T) and (sigma_0 ... sigma_T): the steps (1) chained, Ho et al. 2020, Eq. 4.

    Both recursions only multiply and add positive numbers. So sigma keeps all digits near t = 0, where
    sqrt(1 - alpha^2) would lose them.
    """
    signal, noise = [1.0], [0.0]
    for beta in betas:
        signal.append((1 - beta) * signal[-1])
        noise.append((1 - beta) * noise[-1] + beta)
    return tuple(map(math.sqrt, signal)), tuple(map(math.sqrt, noise))


def logit_normal_times(normal: Tensor, mean: float, std: float) -> Tensor:
    """Turn standard normal numbers (n,) into times, logit(t) ~ N(mean, std^2); Esser et al. 2024, Eq. 19."""
    return torch.sigmoid(mean + std * normal)


def shift_time(t: Number, shift: float) -> Number:
    """Move t towards noise: lambda falls by log(shift), 0 and 1 stay; Esser et al. 2024, Eq. 23."""
    return shift * t / (1 + (shift - 1) * t)


def resolution_shift(size: Sequence[int], *, reference_size: Sequence[int]) -> float:
    """Return the shift sqrt(n / m) for n voxels from a setting tuned for m; Esser et al. 2024, Eq. 23."""
    return math.sqrt(math.prod(size) / math.prod(reference_size))
