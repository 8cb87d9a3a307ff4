"""When the adversary takes part, and how much its term weighs."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from medldm.errors import ConfigError
from medldm.runtime.batch_shard import BatchShard, whole_batch

DELTA = 1e-6
LARGEST_WEIGHT = 1e4
_SCALE = 1024.0
_NEVER = 2**62


def batches_before_adversary(start: float | None, *, n_batches: int) -> int:
    """Return after how many batches of a training the discriminator takes part.

    Args:
        start: below 1 the share of the training's batches; a whole number from 2 on the number itself; None
            or infinity for never. Exactly 1 might mean either and is refused.
        n_batches: of the whole training.

    Raises:
        ConfigError: for another value.

    Examples:
        >>> batches_before_adversary(0.75, n_batches=480), batches_before_adversary(2000, n_batches=480)
        (360, 2000)
    """
    if start is None or start == math.inf:
        return _NEVER
    if 0 <= start < 1:
        return round(start * n_batches)
    if start >= 2 and start == round(start):
        return int(start)
    raise ConfigError(
        f"adversarial_start is {start:g}: give a share of the steps, from 0 to below 1, a whole "
        "number of steps from 2 on, or null for never"
    )


def adaptive_weight(
    reconstruction: Tensor, adversarial: Tensor, *, last_layer: Tensor, shard: BatchShard | None = None
) -> Tensor:
    """Return the weight with which the adversarial gradient is as long as that of the reconstruction.

        lambda = |grad_L reconstruction| / (|grad_L adversarial| + delta),    at most 10^4

    with gradients of the weights L of the decoder's last layer, over the whole batch. Both are multiplied by
    1024, which changes lambda in delta alone, so that half precision does not lose them.

    Args:
        reconstruction: scalar, mean over the own rows, its graph kept.
        adversarial: the same of the generator's adversarial term.
        last_layer: L.
        shard: the rows of the training's batch that the terms are of; None for a batch of their own.

    Returns:
        A scalar without gradient.

    Source: Esser et al. 2021, "Taming Transformers for High-Resolution Image Synthesis", Eq. 7.
    """
    shard = shard or whole_batch(1)

    def length(term: Tensor) -> Tensor:
        (gradient,) = torch.autograd.grad(term * _SCALE, last_layer, retain_graph=True)
        return shard.sum(gradient.float() * (shard.weight / shard.n_shards)).norm()

    return (length(reconstruction) / (length(adversarial) + DELTA)).clamp(max=LARGEST_WEIGHT).detach()
