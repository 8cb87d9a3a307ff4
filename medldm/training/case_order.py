"""The order of the cases, a function of the seed and the epoch, so that a training can go on within one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from torch.utils.data import Sampler

from medldm.errors import ConfigError
from medldm.seeds import case_seed, order_generator


class DrawnCase(int):
    """The number of a case, which also carries the seed of its random transforms in this epoch.

    Attributes:
        number: of the case in the dataset.
        seed: in [0, 2^32).
    """

    seed: int

    def __new__(cls, number: int, seed: int = 0) -> DrawnCase:
        """Make the number; it is an int wherever an int is needed."""
        case = super().__new__(cls, number)
        case.seed = seed
        return case


class EpochSampler(Sampler[int]):
    """Draw every case once an epoch, in an order that follows from the seed and the epoch.

    Each pass over it is the next epoch. `place` begins in the middle of one, and `reorder` draws another
    order of what is left of it.

    Args:
        n_cases: in the dataset.
        seed: of the orders.
        shuffle: False for the dataset's own order.
    """

    def __init__(self, n_cases: int, *, seed: int, shuffle: bool = True) -> None:
        if n_cases < 1:
            raise ConfigError(f"there are {n_cases} cases to draw from: at least 1 is needed")
        self.n_cases = n_cases
        self.seed = seed
        self.shuffle = shuffle
        self.attempt = 0
        self._next_epoch, self._start = 0, 0
        self._tails: list[list[int]] = []
        self._order: list[int] = []

    def __len__(self) -> int:
        return self.n_cases

    def __iter__(self) -> Iterator[int]:
        epoch, start = self._next_epoch, self._start
        if start == 0:
            self._tails = [[0, self.attempt]]
        self._order = self._draw_order(epoch)
        self._next_epoch, self._start = epoch + 1, 0
        attempt = self.attempt
        for number in self._order[start:]:
            yield DrawnCase(number, case_seed(self.seed, attempt=attempt, epoch=epoch, case=number))

    def place(self, *, epoch: int, start: int = 0) -> None:
        """Let the next pass be that of an epoch, from 0, from its case `start` on."""
        self._next_epoch, self._start = epoch, start

    def reorder(self, attempt: int) -> None:
        """Draw another order of the cases that are left, from here on in every epoch."""
        self.attempt = attempt
        if self._start > 0:
            self._tails.append([self._start, attempt])

    def cases(self, first: int, last: int) -> list[int]:
        """Return the numbers of the cases in the places first to last - 1 of the epoch under way."""
        return [int(number) for number in self._order[first:last]]

    def state_dict(self) -> dict[str, Any]:
        """Return what, beside the place, the orders depend on."""
        return {"seed": self.seed, "attempt": self.attempt, "tails": [list(tail) for tail in self._tails]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state."""
        self.seed, self.attempt = state["seed"], state["attempt"]
        self._tails = [list(tail) for tail in state["tails"]]

    def _draw_order(self, epoch: int) -> list[int]:
        order = np.arange(self.n_cases)
        if self.shuffle:
            for start, attempt in self._tails:
                generator = order_generator(self.seed, attempt=attempt, epoch=epoch, start=start)
                order[start:] = generator.permutation(order[start:])
        return order.tolist()
