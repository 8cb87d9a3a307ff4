"""How long a training is: from optimiser steps to epochs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from medldm.errors import ConfigError

DEFAULT_STEPS = 20_000
"""Optimiser steps of a training where neither steps nor epochs are given."""


def count_epochs(
    *,
    n_steps: int | None,
    n_epochs: int | None,
    cases: Sequence[Any],
    batch_size: int,
    accumulation_steps: int = 1,
) -> int:
    """Return the epochs of a training whose length is given in optimiser steps or in epochs.

    Steps make whole epochs, rounded up: a training validates and ends at the end of an epoch.

    Args:
        n_steps: optimiser steps; None for those of `n_epochs`, or for `DEFAULT_STEPS` without either.
        n_epochs: passes over the cases.
        cases: of the training.
        batch_size: cases of a batch.
        accumulation_steps: batches of a step.

    Raises:
        ConfigError: if both are given, or one is below 1.
    """
    given = {
        name: value for name, value in (("n_steps", n_steps), ("n_epochs", n_epochs)) if value is not None
    }
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigError(f"{name} is {value!r}: a whole number of at least 1 is needed")
    if len(given) > 1:
        raise ConfigError(
            f"n_steps is {n_steps} and n_epochs is {n_epochs}: both say how long the training "
            "is, give one of them"
        )
    if n_epochs is not None:
        return n_epochs
    return -(-(n_steps or DEFAULT_STEPS) // steps_per_epoch(len(cases), batch_size, accumulation_steps))


def steps_per_epoch(n_cases: int, batch_size: int, accumulation_steps: int = 1) -> int:
    """Return the optimiser steps of an epoch, the last one of fewer batches or cases included."""
    n_batches = -(-max(1, n_cases) // batch_size)
    return -(-n_batches // accumulation_steps)
