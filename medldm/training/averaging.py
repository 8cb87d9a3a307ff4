"""Moving average of a network's weights, which is what is validated and saved."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from medldm.errors import ConfigError

MOST_LENGTH = 0.28
"""Above it gamma is negative: the oldest weights would count most."""

Tensors = tuple[Tensor, ...] | list[Tensor]


def average_weights(module: nn.Module, decay: float, *, length: float | None = None) -> AveragedModel:
    """Return a moving average of a module's weights; its `.module` is the averaged network.

    The decay rises with the number of updates n as min(decay, (1 + n) / (10 + n)), so that early averages
    forget the initialisation. With a length it is (1 - 1 / (n + 1))^(gamma + 1), and the average spans the
    same share of the training at every moment. Buffers are copied.

    Args:
        module: the module that is trained.
        decay: of an exponential average, in [0, 1); 0 keeps the latest weights.
        length: standard deviation of a power-function average in the place of it, as a share of the training
            so far, in (0, 0.28); 0.05 to 0.15 are usual. None for the exponential one.

    Source: Karras et al. 2024, arXiv 2312.02696, Eq. 2 to 4 and Algorithm 2.
    """
    exponent = None if length is None else power_of(length)

    def update(average: Tensors, current: Tensors, n_updates: Tensor | int) -> None:
        n = int(n_updates)
        if exponent is not None:
            torch._foreach_lerp_(average, current, 1 - (n / (n + 1)) ** (exponent + 1))
            return
        torch._foreach_lerp_(average, current, 1 - min(decay, (1 + n) / (10 + n)))

    return AveragedModel(module, multi_avg_fn=update)


def power_of(length: float) -> float:
    """Return gamma of the power-function average t^gamma of a relative width.

    It solves length^2 = (gamma + 1) / ((gamma + 2)^2 (gamma + 3)).

    Args:
        length: standard deviation as a share of the training, in (0, 0.28).

    Raises:
        ConfigError: for a length that no such average has.
    """
    if not 0 < length < MOST_LENGTH:
        raise ConfigError(f"ema_length is {length}: a share above 0 and below {MOST_LENGTH} is needed")
    inverse = length**-2
    return float(np.roots([1, 7, 16 - inverse, 12 - inverse]).real.max())
