"""One optimiser step, the same for both stages: scaling, accumulation, clipping, schedule."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

logger = logging.getLogger(__name__)

SCHEDULES = ("constant", "cosine")


def make_schedule(
    optimizer: torch.optim.Optimizer, *, kind: str = "constant", warmup_steps: int = 0, total_steps: int = 0
) -> LambdaLR:
    """Return a schedule in optimiser steps: linear warm-up, then constant or a cosine down to 1 % at the end.

    Raises:
        ValueError: if the kind is unknown.
    """
    if kind not in SCHEDULES:
        raise ValueError(f"learning-rate schedule is {kind!r}: choose from {list(SCHEDULES)}")

    def factor(step: int) -> float:
        warmup = min(1.0, (step + 1) / max(1, warmup_steps))
        if kind == "constant":
            return warmup
        progress = min(1.0, step / max(1, total_steps))
        return warmup * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))

    return LambdaLR(optimizer, factor)


class OptimiserStep:
    """Apply gradients: scale, accumulate, clip, step, schedule.

    Args:
        optimizer: of the weights to train.
        scaler: of the loss; acts for float16 only.
        schedule: stepped once for each optimiser step; None for a constant rate.
        accumulation_steps: batches whose mean gradient makes one step.
        gradient_clip: largest norm of the gradient; larger ones are scaled down to it.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        *,
        scaler: torch.amp.GradScaler,
        schedule: LambdaLR | None = None,
        accumulation_steps: int = 1,
        gradient_clip: float = 1.0,
    ) -> None:
        if accumulation_steps < 1:
            raise ValueError(f"accumulation_steps is {accumulation_steps}: at least 1 is needed")
        self.optimizer = optimizer
        self.scaler = scaler
        self.schedule = schedule
        self.accumulation_steps = accumulation_steps
        self.gradient_clip = gradient_clip

    def __call__(self, loss: Tensor, *, index: int, epoch_length: int) -> bool:
        """Add the gradient of a batch's loss; step when enough batches, or the epoch, are complete.

        Args:
            loss: scalar.
            index: of the batch in its epoch, from 0.
            epoch_length: number of batches in the epoch.

        Returns:
            Whether the weights changed; a step whose gradient is not finite is left out, with a line in the
            log.
        """
        group = index // self.accumulation_steps * self.accumulation_steps
        group_size = min(self.accumulation_steps, epoch_length - group)
        if index == group:
            self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss / group_size).backward()
        if index + 1 < group + group_size:
            return False
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self._parameters(), self.gradient_clip)
        is_finite = bool(torch.isfinite(norm))
        if is_finite:
            self.scaler.step(self.optimizer)
        else:
            logger.warning(
                "a step was left out: the norm of its gradient is %s (loss %.4g)",
                float(norm),
                float(loss.detach()),
            )
        self.scaler.update()
        if self.schedule is not None:
            self.schedule.step()
        return is_finite

    def _parameters(self) -> Iterable[nn.Parameter]:
        return (weight for group in self.optimizer.param_groups for weight in group["params"])
