"""The loss of a denoiser: the squared error of what it predicts, weighted by the noise level."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from medldm.diffusion.kernel import (
    Spread,
    add_noise,
    levels_like,
    network_input,
    of_channels,
    prediction_factors,
    training_target,
)
from medldm.diffusion.paths import NoisePath
from medldm.errors import ConfigError

LOSS_WEIGHTINGS = ("plain", "min_snr", "p2")


def denoising_losses(
    predict: Callable[[Tensor, Tensor], Tensor],
    x_0: Tensor,
    *,
    t: Tensor,
    noise: Tensor,
    path: NoisePath,
    prediction_type: str,
    spread: Spread = 1.0,
    weighting: str = "plain",
    region_weights: Tensor | None = None,
) -> Tensor:
    """Return each sample's loss (B,), float32.

    Args:
        predict: (x_t, network times (B,)) to the network's output y (B, ...); it holds the conditions.
        x_0: (B, ...) standardised latents.
        t: (B,) times on the path.
        noise: (B, ...) standard normal.
        path: noise path.
        prediction_type: what the network predicts.
        spread: standard deviations of x_0, for "edm": (C,) of channels, or (C, X, Y, Z) of their modes.
        weighting: see `loss_weight`.
        region_weights: (B, 1, ...) of the squared errors, of mean 1 in each sample; None for 1.

    Source: Ho et al. 2020, Algorithm 1 and Eq. 14.
    """
    alpha, sigma = path.alpha_sigma(t)
    levels = (alpha, sigma, spread)
    target = training_target(prediction_type, x_0, noise, *levels)
    x_t = add_noise(x_0, noise, alpha, sigma)
    output = predict(network_input(prediction_type, x_t, *levels), path.network_time(t))
    squares = (output.float() - target.float()) ** 2
    if region_weights is not None:
        squares = squares * region_weights
    weight = loss_weight(weighting, prediction_type, *levels).to(squares)
    # (B,), or (1, C) or (B, C) where channels differ.
    return (squares.flatten(2).mean(2) * (weight[:, None] if weight.ndim == 1 else weight)).mean(1)


def loss_weight(
    weighting: str,
    prediction_type: str,
    alpha: Tensor,
    sigma: Tensor,
    spread: Spread = 1.0,
    *,
    gamma: float | None = None,
    k: float = 1.0,
) -> Tensor:
    """Return the weight (B,) of each sample's mean squared error of y; (1, C) or (B, C) of each channel's.

    By Eq. (3) of `kernel` an error of y is one of x_0 times D / sigma. A weight W of |error of x_0|^2 is
    therefore W sigma^2 / D^2 here, and a weighting means the same thing for each prediction type:

        plain      unweighted error of y                                Ho et al. 2020, Eq. 14, for epsilon;
                   for "edm" channel c counts s_c / mean(s)             Karras et al. 2022, Eq. 8
        min_snr    W = min(SNR, gamma)               gamma = 5          Hang et al. 2023, "Min-SNR"
        p2         W = SNR / (k + SNR)^gamma         gamma = 1          Choi et al. 2022, Eq. 8, "P2"

    Args:
        weighting: "plain", "min_snr" or "p2".
        prediction_type: what the network predicts.
        alpha: (B,) float64; above 0 for epsilon.
        sigma: (B,) float64, above 0.
        spread: standard deviations of x_0, for "edm": (C,) of channels, or (C, X, Y, Z) of their modes.
        gamma: as in the table; None for the value given there.
        k: of "p2".

    Raises:
        ConfigError: if a name is unknown.
    """
    snr = (alpha / sigma) ** 2
    _, _, determinant = prediction_factors(prediction_type, alpha, sigma, spread)
    if weighting == "plain":
        channels = of_channels(spread)
        if prediction_type == "edm" and isinstance(channels, Tensor):
            return (channels / channels.mean())[None]
        return torch.ones_like(alpha)
    if weighting == "min_snr":
        weight = snr.clamp(max=5.0 if gamma is None else gamma)
    elif weighting == "p2":
        weight = snr / (k + snr) ** (1.0 if gamma is None else gamma)
    else:
        raise ConfigError(f"weighting of the loss is {weighting!r}: choose from {list(LOSS_WEIGHTINGS)}")
    if prediction_type == "edm":
        weight, sigma = levels_like(weight, sigma, of_channels(spread))
    return weight * (sigma / determinant) ** 2
