"""The rows of a training's batch that one process works on, and how they become the whole batch.

Random numbers are drawn for the whole batch in every process, from generators of equal state, and each
process takes its rows: so the number of processes changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor


def _same(values: Tensor) -> Tensor:
    return values


@dataclass(frozen=True, kw_only=True)
class BatchShard:
    """The rows of a batch that one process works on.

    A batch with fewer rows than processes leaves some without one. They stand in with the first row, so that
    all take part in the exchange of gradients, and what they compute counts nothing.

    Args:
        start: first row.
        stop: the row after the last.
        total: rows of the batch, of all processes together.
        n_shards: number of processes.
        is_stand_in: whether the rows are another process's, and count nothing.
        reduce: returns the sum of a tensor over all processes.
    """

    start: int
    stop: int
    total: int
    n_shards: int = 1
    is_stand_in: bool = False
    reduce: Callable[[Tensor], Tensor] = field(default=_same, compare=False)

    @property
    def weight(self) -> float:
        """Factor of a mean over the own rows with which the mean over processes is that over the batch."""
        return 0.0 if self.is_stand_in else self.n_shards * (self.stop - self.start) / self.total

    def own(self, values: Tensor) -> Tensor:
        """Return the own rows of a tensor of the whole batch."""
        return values[self.start : self.stop]

    def draw_normal(self, like: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw standard normal noise for the whole batch and return the own rows, of the shape of `like`.

        The noise is drawn on the generator's device.
        """
        device = like.device if generator is None else generator.device
        shape = (self.total, *like.shape[1:])
        noise = torch.randn(shape, generator=generator, device=device, dtype=like.dtype)
        return self.own(noise).to(like.device)

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum over the batch of what each process has summed over its rows."""
        return self.reduce(0 * values if self.is_stand_in else values)

    def from_first(self, values: Tensor) -> Tensor:
        """Return the tensor of the process that has the first row; the others give one of the same shape."""
        return self.sum(values if self.start == 0 else torch.zeros_like(values))

    def mean_terms(self, terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the means over the batch of scalars that are means over the own rows, without gradient."""
        own = {name: term.detach() for name, term in terms.items()}
        if self.n_shards == 1:
            return own
        stacked = torch.stack([term.float() for term in own.values()]) * (self.weight / self.n_shards)
        return dict(zip(own, self.reduce(stacked), strict=True))


def whole_batch(n_rows: int) -> BatchShard:
    """Return the shard of a process that works on a batch by itself."""
    return BatchShard(start=0, stop=n_rows, total=n_rows)
