"""What to do when numbers go wrong: leave steps out, roll back, and in the end stop."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from medldm.configs import Config
from medldm.errors import MedldmError

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class DivergenceConfig(Config):
    """Say how many bad steps are borne; a step is bad if its loss or its gradient is not finite.

    Args:
        max_in_a_row: bad steps in a row that are only left out; one more rolls back to the last saved state.
        max_share: of bad steps among the last `window`; more roll back.
        window: steps that `max_share` is taken of.
        max_rollbacks: one more ends the training.
    """

    max_in_a_row: int = 4
    max_share: float = 0.01
    window: int = 500
    max_rollbacks: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("[0, inf)", "max_in_a_row", "max_rollbacks")
        self.require("[0, 1]", "max_share")
        self.require("[1, inf)", "window")


class RollBackError(RuntimeError):
    """Too many steps were bad: the training is to go on from its last saved state."""


class TrainingDivergedError(MedldmError, RuntimeError):
    """Rolling back did not help: the training ends."""


class DivergenceGuard:
    """Count bad steps.

    Args:
        config: how many are borne.
    """

    def __init__(self, config: DivergenceConfig | None = None) -> None:
        self.config = config or DivergenceConfig()
        self.n_in_a_row = 0
        self.n_rollbacks = 0
        self._bad: deque[int] = deque()
        self._n_steps = 0

    def record(self, *, is_bad: bool, cases: Sequence[int] = ()) -> None:
        """Count a step.

        Args:
            is_bad: its loss or its gradient was not finite, and it was left out.
            cases: the numbers of its cases in the list of the training cases, from 0.

        Raises:
            RollBackError: if there were too many bad ones.
        """
        self._n_steps += 1
        while self._bad and self._bad[0] <= self._n_steps - self.config.window:
            self._bad.popleft()
        if not is_bad:
            self.n_in_a_row = 0
            return
        self.n_in_a_row += 1
        self._bad.append(self._n_steps)
        logger.warning("a step was left out: loss or gradient is not finite; training cases %s", list(cases))
        most = round(self.config.max_share * self.config.window)
        if self.n_in_a_row > self.config.max_in_a_row or len(self._bad) > most:
            raise RollBackError(
                f"{self.n_in_a_row} bad steps in a row ({self.config.max_in_a_row} are borne), "
                f"{len(self._bad)} among the last {self.config.window} ({most} are borne)"
            )

    def roll_back(self, reason: RollBackError) -> None:
        """Count a return to the last saved state.

        Raises:
            TrainingDivergedError: if there were too many.
        """
        self.n_rollbacks += 1
        if self.n_rollbacks > self.config.max_rollbacks:
            raise TrainingDivergedError(
                f"the training stops: {reason}, also after {self.config.max_rollbacks} returns to the last "
                "saved state with another order of the data. The log names the training cases whose steps "
                "were left out, by their number from 0 in the cohort's list: look at these volumes (medldm "
                "check), or lower learning_rate, or use precision: float32"
            ) from reason
        self.n_in_a_row, self._bad = 0, deque()

    def state_dict(self) -> dict[str, Any]:
        """Return the counts."""
        return {
            "n_in_a_row": self.n_in_a_row,
            "n_rollbacks": self.n_rollbacks,
            "bad": list(self._bad),
            "n_steps": self._n_steps,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over counts; rollbacks that happened since they were saved are kept."""
        self.n_in_a_row, self._n_steps = state["n_in_a_row"], state["n_steps"]
        self.n_rollbacks = max(self.n_rollbacks, state["n_rollbacks"])
        self._bad = deque(state["bad"])
