"""One optimiser step, the same for both stages: scaling, accumulation, clipping, schedule."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from medldm.errors import ConfigError
from medldm.runtime.distributed import all_reduce_any
from medldm.training.patience import DecayPhase
from medldm.training.sharding import clip_gradients, shard_optimiser_state

logger = logging.getLogger(__name__)


def make_schedule(
    optimizer: torch.optim.Optimizer, *, warmup_steps: int, total_steps: int, decay: DecayPhase | None = None
) -> LambdaLR:
    """Return a schedule in optimiser steps: linear warm-up, then a cosine down to 1 % at the end.

    With a last phase the rate stays until it begins, and falls within it.
    """

    def factor(step: int) -> float:
        warmup = min(1.0, (step + 1) / max(1, warmup_steps))
        if decay is not None:
            return warmup * decay.factor(step)
        progress = min(1.0, step / max(1, total_steps))
        return warmup * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))

    return LambdaLR(optimizer, factor)


def make_adam(
    weights: Iterable[nn.Parameter], learning_rate: float, *, weight_decay: float = 0.0, **options: Any
) -> torch.optim.AdamW:
    """Return the optimiser of all trainings, without weight decay unless it is given."""
    return torch.optim.AdamW(weights, lr=learning_rate, fused=True, weight_decay=weight_decay, **options)


class OptimiserStep:
    """Apply gradients: scale, accumulate, check, clip, step, schedule.

    A step whose loss or gradient is not finite changes nothing: not the weights, not the optimiser, not the
    schedule, and not the buffers of a module given to `prepare`.

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
            raise ConfigError(f"accumulation_steps is {accumulation_steps}: at least 1 is needed")
        self.optimizer = optimizer
        self.scaler = scaler
        self.schedule = schedule
        self.accumulation_steps = accumulation_steps
        self.gradient_clip = gradient_clip
        self.is_complete = True
        """Whether the last batch ended a step; between steps gradients are pending, and no state is saved."""
        self.is_bad = False
        """Whether the last step was left out because loss or gradient was not finite."""
        self._buffers: list[tuple[Tensor, Tensor]] = []
        self._losses: list[Tensor] = []

    def prepare(self, module: nn.Module, *, index: int) -> None:
        """Remember a module's buffers before a batch's forward pass, which may change them (a codebook).

        Args:
            module: of the forward pass.
            index: of the batch in its epoch, from 0.
        """
        if index % self.accumulation_steps == 0:
            self._buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]

    def ends_with(self, *, index: int, epoch_length: int) -> bool:
        """Say whether a batch, its index in the epoch from 0, is the last one of its step."""
        return (index + 1) % self.accumulation_steps == 0 or index + 1 == epoch_length

    def __call__(self, loss: Tensor, *, index: int, epoch_length: int) -> bool:
        """Add the gradient of a batch's loss; step when enough batches, or the epoch, are complete.

        Args:
            loss: scalar.
            index: of the batch in its epoch, from 0.
            epoch_length: number of batches in the epoch.

        Returns:
            Whether the weights changed.
        """
        group = index // self.accumulation_steps * self.accumulation_steps
        group_size = min(self.accumulation_steps, epoch_length - group)
        if index == group:
            self.optimizer.zero_grad(set_to_none=True)
            self._losses = []
        # A loss that is not finite takes part, so that in a distributed training all processes go backward.
        self.scaler.scale(loss / group_size).backward()
        self._losses.append(loss.detach())
        self.is_complete = self.ends_with(index=index, epoch_length=epoch_length)
        return self.is_complete and self._step()

    def _step(self) -> bool:
        self.scaler.unscale_(self.optimizer)
        norm = clip_gradients(self._parameters(), self.gradient_clip)
        has_bad_loss = all_reduce_any(~torch.isfinite(torch.stack(self._losses)).all())
        is_bad_loss, is_bad_norm = torch.stack([has_bad_loss, ~torch.isfinite(norm)]).tolist()
        is_good = not (is_bad_loss or is_bad_norm)
        # A scale that is still too large gives infinite gradients; the scaler lowers it, nothing is wrong.
        is_scaling = self.scaler.is_enabled() and self.scaler.get_scale() > 1
        self.is_bad = is_bad_loss or (is_bad_norm and not is_scaling)
        if is_good:
            self.scaler.step(self.optimizer)
            if self.schedule is not None:
                self.schedule.step()
        else:
            logger.warning("a step was left out: the norm of its gradient is %s", float(norm))
            for buffer, former in self._buffers:
                buffer.copy_(former)
        self.scaler.update()
        return is_good

    def state_dict(self) -> dict[str, Any]:
        """Return the states of optimiser, scaler and schedule."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "schedule": None if self.schedule is None else self.schedule.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over states.

        Raises:
            ValueError: if they are of another optimiser, or of other settings of it.
        """
        _check_settings(self.optimizer.state_dict(), state["optimizer"])
        if (self.schedule is None) != (state["schedule"] is None):
            raise ValueError("the state has a learning-rate schedule and this training none, or the reverse")
        self.optimizer.load_state_dict(shard_optimiser_state(state["optimizer"], list(self._parameters())))
        self.scaler.load_state_dict(state["scaler"])
        if self.schedule is not None:
            self.schedule.load_state_dict(state["schedule"])

    def _parameters(self) -> Iterable[nn.Parameter]:
        return (weight for group in self.optimizer.param_groups for weight in group["params"])


def _check_settings(own: Mapping[str, Any], saved: Mapping[str, Any]) -> None:
    """Compare what the user sets of an optimiser: loading would put the saved values in their place."""
    for here, there in zip(own["param_groups"], saved["param_groups"], strict=True):
        for name in sorted(here.keys() - {"params", "lr" if "initial_lr" in here else "params"}):
            if name not in there or there[name] != here[name]:
                raise ValueError(
                    f"the optimiser's {name.replace('initial_lr', 'learning rate')} is {here[name]} here and "
                    f"{there.get(name)} in the saved state: use the same, or start anew with resume: never"
                )
