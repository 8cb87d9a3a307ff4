"""Classifier-free guidance: one weight for each condition, all passes of a step in one batch.

Of a network's outputs, y_0 has the guided conditions replaced by their nulls, y_c the group c in place:

    y = y_0 + sum_c w_c (y_c - y_0)                                                                       (1)

    Source: Ho and Salimans 2022, "Classifier-Free Diffusion Guidance", Eq. 6 (w is their w + 1);
    Liu et al. 2022, "Compositional Visual Generation with Composable Diffusion Models", Eq. 11.

A pass whose factor in (1) is zero is not run: a single weight 1 evaluates the conditional network alone, a
weight 0 the unconditional one, both exactly. As y is linear in (x_0, eps), guiding y guides both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from medldm.diffusion.kernel import Spread, estimates, network_input
from medldm.diffusion.paths import NoisePath
from medldm.diffusion.solvers import Denoise
from medldm.errors import ConfigError

Group = frozenset[str]
Passes = tuple[Group, ...]
"""The conditions in place in each pass of a batch: of n rows, row p B + b is sample b in pass p."""
Predict = Callable[[Tensor, Tensor, Passes], Tensor]

NULL: Group = frozenset()


def read_weights(weights: float | Mapping[str, float], conditions: Sequence[str]) -> dict[Group, float]:
    """Turn guidance weights into one for each group of conditions.

    Args:
        weights: a number guides all conditions together. A mapping has a weight for a condition alone, "age",
            or for a group, "age+sex"; conditions it does not name stay in place in every pass, unguided.
        conditions: names of the conditions given.

    Returns:
        Group of conditions to weight.

    Raises:
        ConfigError: if a name is not among the conditions or a weight is not finite.
    """
    named = weights if isinstance(weights, Mapping) else {"+".join(conditions): weights}
    groups: dict[Group, float] = {}
    for name, weight in named.items():
        group = frozenset(name.split("+")) if name else NULL
        if unknown := sorted(group - set(conditions)):
            raise ConfigError(f"guidance weight for {unknown}: the conditions given are {list(conditions)}")
        if not math.isfinite(weight):
            raise ConfigError(f"guidance weight of {name!r} is {weight}: a finite number is needed")
        groups[group] = groups.get(group, 0.0) + float(weight)
    return groups


def needed_passes(weights: Mapping[Group, float]) -> list[Group]:
    """Return the groups c whose outputs have a factor in Eq. (1) that is not zero; `NULL`, for y_0, first."""
    guided = [group for group, weight in weights.items() if group and weight != 0]
    return guided if sum(weights[group] for group in guided) == 1 else [NULL, *guided]


def combine(outputs: Mapping[Group, Tensor], weights: Mapping[Group, float]) -> Tensor:
    """Combine the outputs of the needed passes by Eq. (1).

    Args:
        outputs: group c to y_c (B, ...); `NULL` to y_0.
        weights: group c to w_c.

    Returns:
        (B, ...).
    """
    first, *others = needed_passes(weights)
    if first:
        return sum((weights[c] * outputs[c] for c in others), start=weights[first] * outputs[first])
    return sum((weights[c] * (outputs[c] - outputs[NULL]) for c in others), start=outputs[NULL])


def rescale(guided: Tensor, conditional: Tensor, amount: float) -> Tensor:
    """Bring the spread of each guided sample back towards that of the conditional one.

        y <- phi y std(y_c) / std(y) + (1 - phi) y

    Args:
        guided: (B, ...) output of `combine`.
        conditional: (B, ...) output with all conditions.
        amount: phi in [0, 1].

    Returns:
        (B, ...).

    Source: Lin et al. 2023, "Common Diffusion Noise Schedules and Sample Steps are Flawed", Eq. 15 and 16.
    """
    # One sample at a time: the order of additions in a batched reduction may depend on the batch.
    ratios = [y_c.std() / y.std() for y, y_c in zip(guided, conditional, strict=True)]
    return guided * (amount * torch.stack(ratios).view(-1, *[1] * (guided.ndim - 1)) + (1 - amount))


def drop_masks(
    passes: Passes, conditions: Sequence[str], *, batch_size: int, device: torch.device
) -> dict[str, Tensor]:
    """Return for each condition in which rows of the passes' batch its null stands for it, (n,) bool."""

    def rows(name: str) -> Tensor:
        dropped = torch.tensor([name not in group for group in passes], device=device)
        return dropped.repeat_interleave(batch_size)

    return {name: rows(name) for name in conditions}


def run_passes(predict: Predict, x: Tensor, time: float, *, passes: Passes) -> dict[Group, Tensor]:
    """Evaluate all passes in one batch.

    Args:
        predict: see `guided_denoiser`.
        x: (B, ...) noisy latents.
        time: network time of all samples.
        passes: the conditions in place in each pass.

    Returns:
        Pass to its output (B, ...).
    """
    times = torch.full((len(x) * len(passes),), time, dtype=torch.float32, device=x.device)
    outputs = predict(x.repeat(len(passes), *[1] * (x.ndim - 1)), times, passes)
    return dict(zip(passes, outputs.chunk(len(passes)), strict=True))


def guided_denoiser(
    predict: Predict,
    weights: float | Mapping[str, float] = 1.0,
    *,
    path: NoisePath,
    prediction_type: str,
    spread: Spread = 1.0,
    conditions: Sequence[str] = (),
    interval: tuple[float, float] = (0.0, math.inf),
    rescale_amount: float = 0.0,
) -> Denoise:
    """Make the `denoise` of a solver from a network and guidance weights.

    Args:
        predict: maps (x, times, passes) to the network's output like x (n, ...); times (n,) are network
            times, passes say which conditions are in place in which rows, see `Passes` and `drop_masks`.
        weights: see `read_weights`.
        path: noise path of the training.
        prediction_type: what the network predicts.
        spread: standard deviations of x_0, for "edm": (C,) of channels, or (C, X, Y, Z) of their modes.
        conditions: names of the conditions given.
        interval: noise levels sigma / alpha, low < level <= high, at which guidance acts; at others the
            network sees all conditions, unguided. Kynkäänniemi et al. 2024, "Applying Guidance in a Limited
            Interval".
        rescale_amount: phi of `rescale`, in [0, 1]; with several groups it takes one more pass.

    Returns:
        denoise(x, t) -> (x_0, eps).

    Raises:
        ConfigError: if an argument is outside its range, or the prediction type not possible on the path.
    """
    path.check_prediction_type(prediction_type)
    if not 0 <= rescale_amount <= 1:
        raise ConfigError(f"rescale_amount is {rescale_amount}: a number in [0, 1] is needed")
    if not 0 <= interval[0] < interval[1]:
        raise ConfigError(f"guidance interval is {interval}: noise levels with 0 <= low < high are needed")
    guidance = read_weights(weights, conditions)
    guided: Group = NULL.union(*guidance)
    unguided = frozenset(conditions) - guided

    def denoise(x: Tensor, t: float) -> tuple[Tensor, Tensor]:
        alpha, sigma = path.alpha_sigma(t)
        is_guided = interval[0] < (sigma / alpha if alpha > 0 else math.inf) <= interval[1]
        active = guidance if is_guided else {guided: 1.0}
        groups = needed_passes(active)
        is_rescaled = is_guided and rescale_amount > 0 and groups != [guided]
        if is_rescaled and guided not in groups:
            groups.append(guided)
        passes = tuple(group | unguided for group in groups)
        given = network_input(prediction_type, x, alpha, sigma, spread)
        outputs = run_passes(predict, given, path.network_time(t), passes=passes)
        outputs = {group - unguided: output for group, output in outputs.items()}
        output = combine(outputs, active)
        if is_rescaled:
            output = rescale(output, outputs[guided], rescale_amount)
        return estimates(prediction_type, output, x, alpha, sigma, spread)

    return denoise
