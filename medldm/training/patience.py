"""End a training when its validations no longer improve: a last phase of falling learning rate, then the end.

The learning rate is warmed up, stays, and falls in a last phase (warmup, stable, decay; Hu et al. 2024,
arXiv 2404.06395, Sec. 4). A cosine over all steps must know the end before it begins, and a training that is
stopped on its way has never had a low rate. Here the last phase may begin at any step, and the only thing to
remember is where it began.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

import torch
from ignite.engine import Engine, Events

from medldm.errors import ConfigError
from medldm.runtime.distributed import broadcast_from_first

logger = logging.getLogger(__name__)

_LAST_RATE = 0.01


class DecayPhase:
    """The last phase of a training, in which the learning rate falls on a line to 1 %.

    It is the last `share` of all steps, whether it begins where the planned length says so or earlier.

    Args:
        total_steps: optimiser steps of the training as planned.
        share: of the steps, in (0, 1).
    """

    def __init__(self, *, total_steps: int, share: float) -> None:
        if not 0 < share < 1:
            raise ConfigError(f"decay_share is {share}: a share above 0 and below 1 is needed")
        self.share = share
        self.total_steps = total_steps
        self.began: int | None = None
        """The step in which patience began it; None while the plan holds."""

    @property
    def start(self) -> int:
        """The first step of the phase."""
        return self.total_steps - round(self.share * self.total_steps) if self.began is None else self.began

    @property
    def length(self) -> int:
        """The steps of the phase."""
        if self.began is None:
            return max(1, self.total_steps - self.start)
        return max(
            1, min(math.ceil(self.share / (1 - self.share) * self.began), self.total_steps - self.began)
        )

    def factor(self, step: int) -> float:
        """Return the learning rate of a step, from 0, as a share of the full one."""
        progress = min(1.0, max(0.0, (step - self.start) / self.length))
        return 1 - (1 - _LAST_RATE) * progress


class Patience:
    """Begin the last phase of a training after some validations without improvement, and end with it.

    A validation improves if it is better than the last one that did by more than a margin. What was decided
    is part of the training's state: a training that goes on ends where it would have ended.

    Args:
        evaluator: the validation engine.
        metric: of the evaluator.
        larger_is_better: how the metric is compared.
        patience: validations without improvement.
        min_improvement: the margin, relative to the value to beat.
        decay: phase that is begun; the trainer's schedule follows it.

    Source: Prechelt 1998, "Early stopping - but when?", criterion UP, with a relative margin.
    """

    def __init__(
        self,
        evaluator: Engine,
        *,
        metric: str,
        larger_is_better: bool,
        patience: int,
        min_improvement: float,
        decay: DecayPhase,
    ) -> None:
        self.evaluator = evaluator
        self.metric = metric
        self.sign = 1.0 if larger_is_better else -1.0
        self.patience = patience
        self.min_improvement = min_improvement
        self.decay = decay
        self.to_beat: float | None = None
        self.n_without = 0
        self.end_epoch: int | None = None
        self._judged_epoch: int | None = None

    def attach(self, trainer: Any) -> None:
        """Follow the validations at the ends of a `ResumableTrainer`'s epochs."""
        self._trainer, self._asked = trainer, trainer.state.max_epochs
        self.evaluator.add_event_handler(Events.COMPLETED, self._judge)

    def state_dict(self) -> dict[str, Any]:
        """Return what was seen and decided."""
        return {
            "to_beat": self.to_beat,
            "n_without": self.n_without,
            "judged_epoch": self._judged_epoch,
            "end_epoch": self.end_epoch,
            "decay_began": self.decay.began,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state; the trainer's last epoch follows."""
        self.to_beat, self.n_without = state["to_beat"], state["n_without"]
        self._judged_epoch, self.end_epoch = state["judged_epoch"], state["end_epoch"]
        self.decay.began = state["decay_began"]
        self._trainer.state.max_epochs = self.end_epoch or self._asked
        if self.end_epoch is not None:
            logger.info(
                "patience ended this training: its last phase began at step %d, its last epoch is %d",
                *(self.decay.began, self.end_epoch),
            )

    def _judge(self, evaluator: Engine) -> None:
        epoch = self._trainer.state.epoch
        if self._judged_epoch == epoch:
            return
        self._judged_epoch = epoch
        # Of several processes all must end together.
        value = torch.tensor(float(evaluator.state.metrics[self.metric]), dtype=torch.float64)
        self._record(float(broadcast_from_first(value)))
        if self.n_without >= self.patience and self.end_epoch is None:
            self._begin_last_phase()

    def _record(self, value: float) -> None:
        if not math.isfinite(value):
            self.n_without += 1
        elif self.to_beat is None or self.sign * (value - self.to_beat) > self.min_improvement * abs(
            self.to_beat
        ):
            self.to_beat, self.n_without = value, 0
        else:
            self.n_without += 1

    def _begin_last_phase(self) -> None:
        trainer = self._trainer
        step = trainer.optimiser_steps[0].schedule.last_epoch
        if step >= self.decay.start:
            return  # the planned last phase is under way
        self.decay.began = step
        per_epoch = -(-trainer.state.epoch_length // trainer.optimiser_steps[0].accumulation_steps)
        self.end_epoch = min(trainer.state.epoch + -(-self.decay.length // per_epoch), self._asked)
        trainer.state.max_epochs = self.end_epoch
        logger.info(
            "%d validations without improvement of %s: the learning rate falls from here on, the training "
            "ends with epoch %d of %d",
            *(self.n_without, self.metric, self.end_epoch, self._asked),
        )


class Sufficiency:
    """End a training with the first epoch whose validation reaches a value.

    Args:
        evaluator: the validation engine.
        metric: of the evaluator; larger is better.
        value: that is enough.
    """

    def __init__(self, evaluator: Engine, *, metric: str, value: float) -> None:
        self.evaluator, self.metric, self.value = evaluator, metric, value
        self.end_epoch: int | None = None

    def attach(self, trainer: Any) -> None:
        """Follow the validations at the ends of a `ResumableTrainer`'s epochs."""
        self._trainer, self._asked = trainer, trainer.state.max_epochs
        self.evaluator.add_event_handler(Events.COMPLETED, self._judge)

    def state_dict(self) -> dict[str, Any]:
        """Return the last epoch, None while it is the planned one."""
        return {"end_epoch": self.end_epoch}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state; the trainer's last epoch follows."""
        self.end_epoch = state["end_epoch"]
        self._trainer.state.max_epochs = self.end_epoch or self._asked

    def _judge(self, evaluator: Engine) -> None:
        # Of several processes all must end together.
        value = torch.tensor(float(evaluator.state.metrics[self.metric]), dtype=torch.float64)
        found = float(broadcast_from_first(value))
        if found < self.value or self.end_epoch is not None:
            return
        self.end_epoch = self._trainer.state.max_epochs = self._trainer.state.epoch
        logger.info(
            "%s is %.4g, and %.4g is enough: the training ends with epoch %d of %d",
            *(self.metric, found, self.value, self.end_epoch, self._asked),
        )
