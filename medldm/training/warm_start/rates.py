"""The learning rate and its warm-up where the user leaves them open."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Literal

from medldm.errors import ConfigError
from medldm.training.warm_start.checkpoint import StartCheckpoint

logger = logging.getLogger(__name__)

AUTO: Literal["auto"] = "auto"
WARMUP_STEPS = 100
WARM_SHARE = 1 / 3
"""Learning rate of a training from weights, as a share of that of one from nothing."""
WARM_WARMUP_STEPS = 500
"""The same whatever the length, so that a training can be made longer."""


@dataclass(frozen=True, kw_only=True)
class Rates:
    """A learning rate, and the optimiser steps in which it is reached."""

    learning_rate: float
    warmup_steps: int


def choose_rates(
    *,
    default_rate: float,
    learning_rate: float | Literal["auto"] = "auto",
    warmup_steps: int | Literal["auto"] = "auto",
    start: StartCheckpoint | None = None,
) -> Rates:
    """Replace "auto" by what suits the weights that a training begins with; the log says so.

    From nothing it is the bundle's own rate after 100 steps. From a checkpoint it is a third of it after 500
    steps: the weights are near where they should be, and the optimiser's averages of gradients, which begin
    anew, are rough in the first steps.

    Args:
        default_rate: of a training from nothing.
        learning_rate: what the user says, or "auto".
        warmup_steps: likewise.
        start: the checkpoint that is started from; None for nothing.

    Raises:
        ConfigError: for a text that is not "auto".
    """
    for name, value in (("learning_rate", learning_rate), ("warmup_steps", warmup_steps)):
        if isinstance(value, str) and value != AUTO:
            raise ConfigError(f"{name} is {value!r}: auto, or a number is needed")
    is_warm = start is not None
    rate: Any = learning_rate
    if learning_rate == AUTO:
        rate = default_rate * (WARM_SHARE if is_warm else 1)
    steps: Any = warmup_steps
    if warmup_steps == AUTO:
        steps = WARM_WARMUP_STEPS if is_warm else WARMUP_STEPS
    if is_warm and AUTO in (learning_rate, warmup_steps):
        logger.info(
            "started from weights: learning_rate %.3g (%.3g from nothing) after %d warm-up steps; set "
            "learning_rate and warmup_steps for others",
            *(rate, default_rate, steps),
        )
    return Rates(learning_rate=rate, warmup_steps=steps)
