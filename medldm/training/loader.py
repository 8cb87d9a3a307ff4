"""The training's data loader: random transforms depend on (seed, epoch, case) alone.

So a training can go on in the middle of an epoch, and neither the number of worker processes nor that of the
processes that share a batch changes anything.
"""

from __future__ import annotations

import random
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from monai.data import Dataset as MonaiDataset
from monai.data import list_data_collate
from monai.transforms import Randomizable
from torch.utils.data import DataLoader, Dataset

from medldm.training.batches import TrainingBatches, ValidationBatches
from medldm.training.case_order import DrawnCase, EpochSampler
from medldm.training.quarantine import FOUND, BadCase, CollateSound, Quarantine, QuarantineError


class SeededDataset(Dataset[Any]):
    """Seed the random transforms of a dataset before each case.

    MONAI's `self.R` of every transform and the generators of Python, NumPy and torch are seeded with the
    `DrawnCase`'s seed; the last three are put back afterwards.

    Args:
        dataset: with a random `transform`.
    """

    def __init__(self, dataset: MonaiDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        if not isinstance(index, DrawnCase):
            return self.dataset[index]
        if isinstance(self.dataset.transform, Randomizable):
            self.dataset.transform.set_random_state(index.seed)
        with _seeded(index.seed):
            return self.dataset[int(index)]


class QuarantinedDataset(Dataset[Any]):
    """Give the next sound case in the place of a bad one, and say under `FOUND` which were met.

    Args:
        dataset: gives dictionaries, or a `BadCase`.
        quarantine: its cases are not loaded again.
    """

    def __init__(self, dataset: Dataset[Any], quarantine: Quarantine) -> None:
        self.dataset = dataset
        self.quarantine = quarantine

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Any:
        found: list[tuple[int, str]] = []
        known, seed = set(self.quarantine.numbers), getattr(index, "seed", 0)
        for step in range(len(self)):
            number = (int(index) + step) % len(self)
            if number in known:
                continue
            case = self.dataset[DrawnCase(number, seed)]
            if not isinstance(case, BadCase):
                return {**case, FOUND: found} if found else case
            found.append((number, case.reason))
        raise QuarantineError(f"none of the {len(self)} training cases can be used: {found}")


def training_loader(
    dataset: Dataset[Any],
    *,
    batch_size: int,
    seed: int,
    shuffle: bool = True,
    num_workers: int = 0,
    collate_fn: Callable[[Sequence[Any]], Any] = list_data_collate,
    quarantine: Quarantine | None = None,
) -> DataLoader[Any]:
    """Return a data loader whose batches follow from the seed and the epoch alone, see `EpochSampler`.

    Args:
        dataset: of the training; a MONAI dataset's random transforms are seeded for each case.
        batch_size: cases of a batch, of all processes together.
        seed: of order and transforms.
        shuffle: draw an order for each epoch.
        num_workers: processes that load; their number changes nothing but the speed.
        collate_fn: makes a batch.
        quarantine: if given, bad cases are replaced and reported in the batch, see `QuarantinedDataset`.
    """
    sampler = EpochSampler(len(dataset), seed=seed, shuffle=shuffle)  # type: ignore[arg-type]
    dataset = SeededDataset(dataset) if isinstance(dataset, MonaiDataset) else dataset
    if quarantine is not None:
        dataset, collate_fn = QuarantinedDataset(dataset, quarantine), CollateSound(collate_fn)
    return DataLoader(
        dataset,
        batch_sampler=TrainingBatches(sampler, batch_size),
        num_workers=num_workers,
        collate_fn=collate_fn,
        generator=torch.Generator().manual_seed(seed),
        worker_init_fn=leave_signals_to_parent,
    )


def validation_loader(dataset: Any, *, batch_size: int, num_workers: int = 0) -> DataLoader[Any]:
    """Return a data loader of all cases in their order, whose batches are the same with any processes."""
    # A generator of its own: how often is validated must not change the training's draws.
    return DataLoader(
        dataset,
        batch_sampler=ValidationBatches(len(dataset), batch_size),
        num_workers=num_workers,
        worker_init_fn=leave_signals_to_parent,
        generator=torch.Generator(),
    )


def leave_signals_to_parent(_: int) -> None:
    """Ignore, in a worker process, the signals that a scheduler sends to all processes of a job.

    The training decides when it ends; a worker that died before would take the last step with it.
    """
    for name in ("SIGTERM", "SIGUSR1", "SIGINT"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed the generators of the process, and put them back."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
