"""Which cases of each batch a process of a training or validation gets."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

from torch.utils.data import BatchSampler, SequentialSampler

from medldm.runtime.batch_shard import BatchShard, whole_batch
from medldm.runtime.distributed import rank, shard_batch, world_size
from medldm.training.case_order import EpochSampler

logger = logging.getLogger(__name__)


class TrainingBatches(BatchSampler):
    """Split each batch of the cases that an `EpochSampler` draws among the processes of a training.

    Args:
        sampler: draws the same cases in every process.
        batch_size: cases of a batch, of all processes together; at least one for each.
    """

    sampler: EpochSampler

    def __init__(self, sampler: EpochSampler, batch_size: int) -> None:
        if batch_size < world_size():
            logger.warning(
                "batch_size is %d for %d processes: batches of %d cases are taken, one for each process",
                *(batch_size, world_size(), world_size()),
            )
        super().__init__(sampler, max(batch_size, world_size()), drop_last=False)

    def __iter__(self) -> Iterator[list[int]]:
        for batch in super().__iter__():
            shard = shard_batch(len(batch))
            yield batch[shard.start : shard.stop]

    def shard_of_batch(self, index: int) -> BatchShard:
        """Return which rows of a batch, its index in the epoch from 0, this process draws."""
        return shard_batch(min(self.batch_size, self.sampler.n_cases - index * self.batch_size))


class ValidationBatches(BatchSampler):
    """Deal the batches of a validation out to the processes, whole and in turn; none may go without.

    With fewer batches than processes every process takes all of them, which changes no mean.

    Args:
        n_cases: in the dataset, taken in its order.
        batch_size: cases of a batch.
    """

    def __init__(self, n_cases: int, batch_size: int = 1) -> None:
        super().__init__(SequentialSampler(range(n_cases)), batch_size, drop_last=False)
        n_batches = super().__len__()
        self._n_batches = n_batches
        self._step, self._first = (world_size(), rank()) if n_batches >= world_size() else (1, 0)

    def __len__(self) -> int:
        return len(range(self._first, self._n_batches, self._step))

    def __iter__(self) -> Iterator[list[int]]:
        for number, batch in enumerate(super().__iter__()):
            if number % self._step == self._first:
                yield batch

    def number_of(self, iteration: int) -> int:
        """Return the number, from 1, among the batches of all processes of this process's i-th, from 1."""
        return 1 + self._first + (iteration - 1) * self._step

    @property
    def n_common(self) -> int:
        """The batches that every process has."""
        return self._n_batches // self._step


def shard_of_batch(loader: Any, *, index: int, n_rows: int) -> BatchShard:
    """Return which rows of a training's batch a process has got from its data loader.

    Args:
        loader: of the training.
        index: of the batch in its epoch, from 0.
        n_rows: that the process has got.

    Raises:
        TypeError: if there are several processes and the loader does not split its batches among them.
    """
    batches = getattr(loader, "batch_sampler", None)
    if isinstance(batches, TrainingBatches):
        return batches.shard_of_batch(index)
    if world_size() > 1:
        raise TypeError(
            f"{world_size()} processes train, but the data loader gives each the same batches: make it with "
            "medldm.training.training_loader"
        )
    return whole_batch(n_rows)


def batch_number(loader: Any, iteration: int) -> int:
    """Return the number of the i-th batch of a validation among those of all processes, both from 1."""
    batches = getattr(loader, "batch_sampler", None)
    return batches.number_of(iteration) if isinstance(batches, ValidationBatches) else iteration


def has_common_batch(loader: Any, iteration: int) -> bool:
    """Say whether every process has a batch in this iteration of a validation, from 1."""
    batches = getattr(loader, "batch_sampler", None)
    return not isinstance(batches, ValidationBatches) or iteration <= batches.n_common
