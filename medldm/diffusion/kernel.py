"""The mathematics of diffusion and flow models, in one formalism over two coefficients.

Every model here noises data along a path

    x_t = alpha_t x_0 + sigma_t eps,    eps ~ N(0, I)                                                    (1)

and paths differ in (alpha_t, sigma_t) only: from (1, 0), the data, to (0, 1) or nearly so, noise.

    x_0, x_t            clean latents, latents at time t                                       (B, C, X, Y, Z)
    eps                 standard normal noise                                                  (B, C, X, Y, Z)
    y                   what a network predicts                                                (B, C, X, Y, Z)
    alpha_t, sigma_t    signal and noise level: a Python float, or float64                     (B,)
    s                   standard deviation of x_0, the `spread`: 1.0, or float64 for each      (C,)
                        channel, or for each of its cosine modes, see `modes`                  (C, X, Y, Z)
    t, s                time, and the earlier time s < t to which a step of sampling goes
    lambda_t            log(alpha_t / sigma_t), half the log of SNR = (alpha_t / sigma_t)^2

Coefficients stay in float64 to the end; only their product with x is in x's own precision.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from medldm.diffusion.modes import resize_modes, scale_modes
from medldm.errors import ConfigError

Number = TypeVar("Number", float, Tensor)
Spread = float | Tensor
PREDICTION_TYPES = ("epsilon", "sample", "v_prediction", "velocity", "edm")


def add_noise(x_0: Tensor, noise: Tensor, alpha: Number, sigma: Number) -> Tensor:
    """Return x_t of Eq. (1), (B, ...) in x_0's dtype."""
    return _like(alpha, x_0) * x_0 + _like(sigma, x_0) * noise


def find_noise(x_t: Tensor, x_0: Tensor, alpha: Number, sigma: Number) -> Tensor:
    """Return eps of Eq. (1), (B, ...) like x_t; sigma is above 0."""
    return (x_t - _like(alpha, x_t) * x_0) / _like(sigma, x_t)


def half_log_snr(alpha: float, sigma: float) -> float:
    """Return lambda: inf for the data, -inf for noise without signal."""
    return math.inf if sigma == 0 else -math.inf if alpha == 0 else math.log(alpha / sigma)


# What the network predicts is linear in x_0 and eps,
#
#     y = a x_0 + b eps,    (a, b) =  (0, 1)             "epsilon"         Ho et al. 2020, Eq. 14        (2)
#                                     (1, 0)             "sample"
#                                     (-sigma, alpha)    "v_prediction"    Salimans and Ho 2022, Appendix D
#                                     (-1, 1)            "velocity"        Liu et al. 2023, Eq. 1
#                                     (-sigma / (s r), alpha s / r)   "edm"   Karras et al. 2022, Table 1
#
# so that (1) and (2) are two linear equations in x_0 and eps. With D = alpha b - sigma a,
#
#     x_0 = (b x_t - sigma y) / D,    eps = (alpha y - a x_t) / D.                                       (3)
#
# "edm" holds for each channel: r = ((alpha s)^2 + sigma^2)^(1/2) is the sd of x_t, and the network is given
# x_t / r. For y = 0, Eq. (3) is x_0 = alpha s^2 / r^2 x_t, the Wiener filter of the channel; y is the error
# that it leaves, in units of its sd sigma s / r. Where r = 1 and s = 1, y is v.
#
# With a spread of modes, s and r are those of a mode, and a and b factors of modes. The network is given the
# channel divided by its own r, and y is in units of sigma q, with q^2 the mean of (s / r)^2 over the modes:
#
#     (a, b) = (-sigma / r^2, alpha s^2 / r^2) / q,    D = 1 / q.
#
# Normalisations take the mean of a map away, and with it most of what a network sees of the largest modes;
# the filters of the modes let them pass.


def prediction_factors(
    prediction_type: str, alpha: Number, sigma: Number, spread: Spread = 1.0
) -> tuple[Number, Number, Number]:
    """Return a, b of Eq. (2), and D: as alpha, but (1, C) or (B, C) where "edm" is told a spread (C,).

    With one of modes, a and b are (1, C, X, Y, Z) or (B, C, X, Y, Z).

    Raises:
        ConfigError: if the prediction type is unknown.
    """
    zero, one = 0 * alpha, 0 * alpha + 1
    if prediction_type == "edm":
        alpha, sigma = levels_like(alpha, sigma, spread)
        r = deviation(alpha, sigma, spread)
        q = of_channels(spread / r)
        unit = q[..., None, None, None] if is_of_modes(spread) else q
        return -sigma / (unit * r**2), alpha * spread**2 / (unit * r**2), 1 / q
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


def is_of_modes(spread: Spread) -> bool:
    """Return whether a spread is one of modes."""
    return isinstance(spread, Tensor) and spread.ndim > 1


def of_channels(spread: Spread) -> Any:
    """Return the root of the mean square over modes, (..., C) of (..., C, X, Y, Z); else what is given."""
    if isinstance(spread, Tensor) and spread.ndim > 3:
        return spread.flatten(-3).square().mean(-1).sqrt()
    return spread


def levels_like(alpha: Any, sigma: Any, spread: Spread) -> tuple[Any, Any]:
    """Bring levels to a row for each sample that meets a spread (C,) or (C, X, Y, Z); of 1.0 they stay."""
    if not isinstance(spread, Tensor):
        return alpha, sigma
    alpha, sigma = (torch.as_tensor(level, dtype=torch.float64) for level in (alpha, sigma))
    axes = [1] * spread.ndim
    return alpha.view(-1, *axes).to(spread.device), sigma.view(-1, *axes).to(spread.device)


def deviation(alpha: Any, sigma: Any, spread: Spread) -> Any:
    """Return r, the standard deviation of x_t."""
    return ((alpha * spread) ** 2 + sigma**2) ** 0.5


def network_input(
    prediction_type: str, x_t: Tensor, alpha: Number, sigma: Number, spread: Spread = 1.0
) -> Tensor:
    """Return what the network is given of x_t, (B, ...): x_t / r of its channels for "edm", else x_t."""
    if prediction_type != "edm":
        return x_t
    spread = of_channels(_fit(spread, x_t))
    alpha, sigma = levels_like(alpha, sigma, spread)
    return _times(1 / deviation(alpha, sigma, spread), x_t)


def training_target(
    prediction_type: str,
    x_0: Tensor,
    noise: Tensor,
    alpha: Number,
    sigma: Number,
    spread: Spread = 1.0,
) -> Tensor:
    """Return y of Eq. (2), (B, ...) like x_0."""
    a, b, _ = prediction_factors(prediction_type, alpha, sigma, _fit(spread, x_0))
    return _times(a, x_0) + _times(b, noise)


def estimates(
    prediction_type: str,
    output: Tensor,
    x_t: Tensor,
    alpha: Number,
    sigma: Number,
    spread: Spread = 1.0,
) -> tuple[Tensor, Tensor]:
    """Return the estimates (x_0, eps) that follow from the output y at x_t, Eq. (3), each (B, ...) like x_t.

    Raises:
        ConfigError: if the prediction type is unknown, or D = 0: epsilon at alpha = 0, sample at sigma = 0.
    """
    spread = _fit(spread, x_t)
    a, b, determinant = prediction_factors(prediction_type, alpha, sigma, spread)
    if bool(torch.as_tensor(determinant == 0).any()):
        raise ConfigError(
            f"{prediction_type!r} does not determine x_0 and the noise at alpha = {alpha}, sigma = {sigma}: "
            "on paths that end with alpha = 0 (zero terminal SNR, flow) use 'v_prediction' or 'velocity'"
        )
    if prediction_type == "edm":
        alpha, sigma = levels_like(alpha, sigma, of_channels(spread))
    of_modes: Any = determinant
    if is_of_modes(spread):
        of_modes = of_modes[..., None, None, None]
    x_0 = _times(b / of_modes, x_t) - _times(sigma / determinant, output)
    eps = _times(alpha / determinant, output) - _times(a / of_modes, x_t)
    return x_0, eps


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One step of sampling, from time t to the earlier time s, with the path's coefficients at both.

    Two numbers say how long it is. Whatever the path, they are those of DPM-Solver++:

        h = lambda_s - lambda_t,    rho = e^-h = (alpha_t sigma_s) / (alpha_s sigma_t)                   (4)

    For known x_0 the step back is Gaussian, q(x_s | x_t, x_0) = N(c_t x_t + c_0 x_0, sd^2), with

        c_t = rho sigma_s / sigma_t,    c_0 = alpha_s (1 - rho^2),    sd^2 = sigma_s^2 (1 - rho^2).      (5)

    Args:
        t: time before the step.
        s: time after it, s < t.
        alpha_t: signal level at t.
        sigma_t: noise level at t, above 0.
        alpha_s: signal level at s, above 0.
        sigma_s: noise level at s; 0 at the data.

    Source: (4) Lu et al. 2022, "DPM-Solver++", Algorithm 2; (5) Ho et al. 2020, Eq. 7 (s = t - 1), Kingma
    et al. 2021, "Variational Diffusion Models", Appendix A.2.
    """

    t: float
    s: float
    alpha_t: float
    sigma_t: float
    alpha_s: float
    sigma_s: float

    @property
    def h(self) -> float:
        """Rise of lambda; inf from noise without signal, and to the data."""
        return half_log_snr(self.alpha_s, self.sigma_s) - half_log_snr(self.alpha_t, self.sigma_t)

    @property
    def rho(self) -> float:
        """e^-h, in [0, 1)."""
        return (self.alpha_t * self.sigma_s) / (self.alpha_s * self.sigma_t)

    @property
    def posterior_mean(self) -> tuple[float, float]:
        """(c_t, c_0) of Eq. (5)."""
        return self.rho * self.sigma_s / self.sigma_t, self.alpha_s * (1 - self.rho**2)

    @property
    def posterior_sd(self) -> float:
        """sd of Eq. (5)."""
        return self.sigma_s * math.sqrt(1 - self.rho**2)


def _fit(spread: Spread, x: Tensor) -> Spread:
    """Bring a spread of modes to the grid of x."""
    return resize_modes(spread, tuple(x.shape[2:])) if is_of_modes(spread) else spread  # type: ignore[arg-type]


def _times(coefficient: Number, x: Tensor) -> Tensor:
    """Multiply x (B, C, ...) by a coefficient as of `_like`, or its modes by theirs (B or 1, C, X, Y, Z)."""
    if isinstance(coefficient, Tensor) and coefficient.ndim > 2:
        return scale_modes(x, coefficient)
    return _like(coefficient, x) * x


def _like(coefficient: Number, x: Tensor) -> Number:
    """Bring a coefficient (B,), (1, C) or (B, C) to x's device, dtype and number of axes; a float stays."""
    if isinstance(coefficient, Tensor):
        axes = (*coefficient.shape, *[1] * (x.ndim - coefficient.ndim))
        return coefficient.to(device=x.device, dtype=x.dtype).view(axes)
    return coefficient
