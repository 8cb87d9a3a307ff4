"""Exponential moving average of a network's weights, which is what is validated and saved."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

Tensors = tuple[Tensor, ...] | list[Tensor]


def average_weights(module: nn.Module, decay: float) -> AveragedModel:
    """Return an exponential moving average of a module's weights; its `.module` is the averaged network.

    The decay rises with the number of updates n as min(decay, (1 + n) / (10 + n)), so that early averages
    forget the initialisation. Buffers are copied.

    Args:
        module: the module that is trained.
        decay: of the average, in [0, 1); 0 keeps the latest weights.
    """

    def update(average: Tensors, current: Tensors, n_updates: Tensor | int) -> None:
        n = int(n_updates)
        torch._foreach_lerp_(average, current, 1 - min(decay, (1 + n) / (10 + n)))

    return AveragedModel(module, multi_avg_fn=update)
