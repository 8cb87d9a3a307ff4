"""The mathematics of diffusion and flow models, in one formalism over two coefficients.

Every model here noises data along a path

    x_t = alpha_t x_0 + sigma_t eps,    eps ~ N(0, I)                                                    (1)

and paths differ in (alpha_t, sigma_t) only: from (1, 0), the data, to (0, 1) or nearly so, noise.

    x_0, x_t            clean latents, latents at time t                                       (B, C, X, Y, Z)
    eps                 standard normal noise                                                  (B, C, X, Y, Z)
    y                   what a network predicts                                                (B, C, X, Y, Z)
    alpha_t, sigma_t    signal and noise level: a Python float, or float64                     (B,)
    t, s                time, and the earlier time s < t to which a step of sampling goes
    lambda_t            log(alpha_t / sigma_t), half the log of SNR = (alpha_t / sigma_t)^2

Coefficients stay in float64 to the end; only their product with x is in x's own precision.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, TypeVar, get_args

import torch
from torch import Tensor

from medldm.errors import ConfigError

Number = TypeVar("Number", float, Tensor)
PredictionType = Literal["epsilon", "sample", "v_prediction", "velocity"]
LossWeighting = Literal["plain", "min_snr", "p2"]
PREDICTION_TYPES: tuple[str, ...] = get_args(PredictionType)
LOSS_WEIGHTINGS: tuple[str, ...] = get_args(LossWeighting)


def add_noise(x_0: Tensor, noise: Tensor, alpha: Number, sigma: Number) -> Tensor:
    """Return x_t of Eq. (1), (B, ...) in x_0's dtype."""
    return _like(alpha, x_0) * x_0 + _like(sigma, x_0) * noise


# Variance-preserving paths: T steps of noise with variances beta_1 ... beta_T.
#
#     x_t = sqrt(1 - beta_t) x_{t-1} + sqrt(beta_t) eps                      Ho et al. 2020, Eq. 2       (2)


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
    """Return (alpha_0 ... alpha_T) and (sigma_0 ... sigma_T): the steps (2) chained, Ho et al. 2020, Eq. 4.

    Both recursions only multiply and add positive numbers. So sigma keeps all digits near t = 0, where
    sqrt(1 - alpha^2) would lose them.
    """
    signal, noise = [1.0], [0.0]
    for beta in betas:
        signal.append((1 - beta) * signal[-1])
        noise.append((1 - beta) * noise[-1] + beta)
    return tuple(map(math.sqrt, signal)), tuple(map(math.sqrt, noise))


# Rectified flow: alpha_t = 1 - t, sigma_t = t, t in [0, 1]; Liu et al. 2023, Eq. 1.


def logit_normal_times(normal: Tensor, mean: float, std: float) -> Tensor:
    """Turn standard normal numbers (n,) into times, logit(t) ~ N(mean, std^2); Esser et al. 2024, Eq. 19."""
    return torch.sigmoid(mean + std * normal)


def shift_time(t: Number, shift: float) -> Number:
    """Move t towards noise: lambda falls by log(shift), 0 and 1 stay; Esser et al. 2024, Eq. 23."""
    return shift * t / (1 + (shift - 1) * t)


def resolution_shift(size: Sequence[int], *, reference_size: Sequence[int]) -> float:
    """Return the shift sqrt(n / m) for n voxels from a setting tuned for m; Esser et al. 2024, Eq. 23."""
    return math.sqrt(math.prod(size) / math.prod(reference_size))


# What the network predicts is linear in x_0 and eps,
#
#     y = a x_0 + b eps,    (a, b) =  (0, 1)             "epsilon"         Ho et al. 2020, Eq. 14        (3)
#                                     (1, 0)             "sample"
#                                     (-sigma, alpha)    "v_prediction"    Salimans and Ho 2022, Appendix D
#                                     (-1, 1)            "velocity"        Liu et al. 2023, Eq. 1
#
# so that (1) and (3) are two linear equations in x_0 and eps. With D = alpha b - sigma a,
#
#     x_0 = (b x_t - sigma y) / D,    eps = (alpha y - a x_t) / D.                                       (4)


def _prediction(prediction_type: str, alpha: Number, sigma: Number) -> tuple[Number, Number, Number]:
    """Return a, b and D."""
    zero, one = 0 * alpha, 0 * alpha + 1
    a_b = {
        "epsilon": (zero, one),
        "sample": (one, zero),
        "v_prediction": (-sigma, alpha),
        "velocity": (-one, one),
    }
    if prediction_type not in a_b:
        raise ConfigError(f"prediction_type is {prediction_type!r}: choose from {list(PREDICTION_TYPES)}")
    a, b = a_b[prediction_type]
    return a, b, alpha * b - sigma * a


def training_target(prediction_type: str, x_0: Tensor, noise: Tensor, alpha: Number, sigma: Number) -> Tensor:
    """Return y of Eq. (3), (B, ...) like x_0.

    Raises:
        ValueError: if the prediction type is unknown.
    """
    a, b, _ = _prediction(prediction_type, alpha, sigma)
    return _like(a, x_0) * x_0 + _like(b, x_0) * noise


def estimates(
    prediction_type: str, output: Tensor, x_t: Tensor, alpha: Number, sigma: Number
) -> tuple[Tensor, Tensor]:
    """Return the estimates (x_0, eps) that follow from the output y at x_t, Eq. (4), each (B, ...) like x_t.

    Raises:
        ConfigError: if the prediction type is unknown, or D = 0: epsilon at alpha = 0, sample at sigma = 0.
    """
    a, b, determinant = _prediction(prediction_type, alpha, sigma)
    if bool(torch.as_tensor(determinant == 0).any()):
        raise ConfigError(
            f"{prediction_type!r} does not determine x_0 and the noise at alpha = {alpha}, sigma = {sigma}: "
            "on paths that end with alpha = 0 (zero terminal SNR, flow) use 'v_prediction' or 'velocity'"
        )
    x_0 = _like(b / determinant, x_t) * x_t - _like(sigma / determinant, x_t) * output
    eps = _like(alpha / determinant, x_t) * output - _like(a / determinant, x_t) * x_t
    return x_0, eps


def loss_weight(
    weighting: str,
    prediction_type: str,
    alpha: Tensor,
    sigma: Tensor,
    *,
    gamma: float | None = None,
    k: float = 1.0,
) -> Tensor:
    """Return the weight (B,) of each sample's mean squared error of y.

    By Eq. (4) an error of y is one of x_0 times D / sigma. A weight W of |error of x_0|^2 is therefore
    W sigma^2 / D^2 here, and a weighting means the same thing for each prediction type:

        plain      unweighted error of y                                Ho et al. 2020, Eq. 14, for epsilon
        min_snr    W = min(SNR, gamma)               gamma = 5          Hang et al. 2023, "Min-SNR"
        p2         W = SNR / (k + SNR)^gamma         gamma = 1          Choi et al. 2022, Eq. 8, "P2"

    Args:
        weighting: "plain", "min_snr" or "p2".
        prediction_type: what the network predicts.
        alpha: (B,) float64; above 0 for epsilon.
        sigma: (B,) float64, above 0.
        gamma: as in the table; None for the value given there.
        k: of "p2".

    Raises:
        ConfigError: if a name is unknown.
    """
    snr = (alpha / sigma) ** 2
    _, _, determinant = _prediction(prediction_type, alpha, sigma)
    if weighting == "plain":
        return torch.ones_like(alpha)
    if weighting == "min_snr":
        weight = snr.clamp(max=5.0 if gamma is None else gamma)
    elif weighting == "p2":
        weight = snr / (k + snr) ** (1.0 if gamma is None else gamma)
    else:
        raise ConfigError(f"weighting of the loss is {weighting!r}: choose from {list(LOSS_WEIGHTINGS)}")
    return weight * (sigma / determinant) ** 2


def posterior(alpha_t: float, sigma_t: float, alpha_s: float, sigma_s: float) -> tuple[float, float, float]:
    """Return (c_t, c_0, sd) of one step back, q(x_s | x_t, x_0) = N(c_t x_t + c_0 x_0, sd^2), for any s < t.

    With rho = e^(lambda_t - lambda_s), the ratio of the signal-to-noise amplitudes,

        c_t = rho sigma_s / sigma_t,    c_0 = alpha_s (1 - rho^2),    sd^2 = sigma_s^2 (1 - rho^2).      (5)

    Source: Ho et al. 2020, Eq. 7 (s = t - 1); Kingma et al. 2021, "Variational Diffusion Models", App. A.2.
    """
    rho = (alpha_t * sigma_s) / (alpha_s * sigma_t)
    return rho * sigma_s / sigma_t, alpha_s * (1 - rho**2), sigma_s * math.sqrt(1 - rho**2)


def _like(coefficient: Number, x: Tensor) -> Number:
    """Bring a coefficient (B,) to x's device, dtype and number of axes; a float stays."""
    if isinstance(coefficient, Tensor):
        return coefficient.to(device=x.device, dtype=x.dtype).view(-1, *[1] * (x.ndim - 1))
    return coefficient
