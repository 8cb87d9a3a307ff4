"""Data laws whose optimal denoiser and probability flow are known in closed form."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from medldm.diffusion import NoisePath


@dataclass(frozen=True)
class Gaussian:
    """x_0 ~ N(mean, sd^2) in each element, independently."""

    mean: float = 0.7
    sd: float = 0.5

    def spread(self, path: NoisePath, t: float) -> float:
        """Standard deviation of x_t."""
        alpha, sigma = path.alpha_sigma(t)
        return math.hypot(alpha * self.sd, sigma)

    def denoiser(self, path: NoisePath) -> Any:
        """E[x_0 | x_t] and E[eps | x_t]."""

        def denoise(x: Tensor, t: float) -> tuple[Tensor, Tensor]:
            alpha, sigma = path.alpha_sigma(t)
            residual = (x - alpha * self.mean) / self.spread(path, t) ** 2
            return self.mean + alpha * self.sd**2 * residual, sigma * residual

        return denoise

    def flow(self, path: NoisePath, x: Tensor, t: float, s: float) -> Tensor:
        """Exact solution of the probability flow from t to s."""
        alpha_t, _ = path.alpha_sigma(t)
        alpha_s, _ = path.alpha_sigma(s)
        return alpha_s * self.mean + self.spread(path, s) / self.spread(path, t) * (x - alpha_t * self.mean)


@dataclass(frozen=True)
class Mixture:
    """x_0 ~ sum_k weight_k N(mean_k, sd^2) in each element, independently."""

    weights: tuple[float, ...] = (0.3, 0.7)
    means: tuple[float, ...] = (-2.0, 2.0)
    sd: float = 0.3

    def denoiser(self, path: NoisePath) -> Any:
        """E[x_0 | x_t] and E[eps | x_t]."""
        centres = torch.tensor(self.means, dtype=torch.float64)
        weights = torch.tensor(self.weights, dtype=torch.float64)

        def denoise(x: Tensor, t: float) -> tuple[Tensor, Tensor]:
            alpha, sigma = path.alpha_sigma(t)
            variance = (alpha * self.sd) ** 2 + sigma**2
            means, prior = (values.view(-1, *[1] * x.ndim) for values in (centres, weights.log()))
            deviation = x - alpha * means
            share = torch.softmax(prior - deviation**2 / (2 * variance), dim=0)
            residual = deviation / variance
            x_0 = (share * (means + alpha * self.sd**2 * residual)).sum(0)
            return x_0, (share * sigma * residual).sum(0)

        return denoise


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Keep tiny tensors on one thread: on a busy machine, threads mostly wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(
    params=[
        (0.9999, math.sqrt(1 - 0.9999**2)),
        (0.6, 0.8),
        (0.05, math.sqrt(1 - 0.05**2)),
        (0.7, 0.3),
        (0.01, 0.99),
    ]
)
def levels(request: pytest.FixtureRequest) -> tuple[float, float]:
    """alpha and sigma; the last two are on no variance-preserving path."""
    return request.param


@pytest.fixture
def clean_and_noise(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """x_0 (2, 3, 5, 4, 3) far outside [-1, 1], and noise."""
    draw = torch.randn(2, 2, 3, 5, 4, 3, generator=generator, dtype=torch.float64)
    return 7 * draw[0] + 3, draw[1]


@pytest.fixture
def gaussian() -> Gaussian:
    """One Gaussian."""
    return Gaussian()


@pytest.fixture
def mixture() -> Mixture:
    """Two well separated components."""
    return Mixture()
