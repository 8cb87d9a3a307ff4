"""The processes that `torchrun` starts for one training, generation or evaluation; alone, every call works.

A rank is the number of a process, from 0. The rows of a batch that it works on are its `BatchShard`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from medldm.errors import ConfigError, MedldmError
from medldm.runtime.batch_shard import BatchShard
from medldm.runtime.devices import DeviceError, choose_device

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
_LONGEST_MINUTES = 100_000
"""Ten weeks; beyond some centuries the clock of torch.distributed overflows."""


class DistributedError(MedldmError, RuntimeError):
    """Report processes that cannot work together, or one that another one lost."""


def init_distributed(*, device: str = "auto", timeout_minutes: float = 30.0) -> None:
    """Join the processes that torchrun started; a single process needs nothing and gets nothing.

    GPUs talk through NCCL, each process with the GPU of its local rank; CPUs through gloo. All but the first
    process log warnings only.

    Args:
        device: "auto", "cpu" or "cuda".
        timeout_minutes: that a process waits for another before the run ends.

    Raises:
        ConfigError: if the time is none.
        DeviceError: if there are fewer GPUs than processes, or the device is one GPU for all.
    """
    is_number = isinstance(timeout_minutes, (int, float)) and not isinstance(timeout_minutes, bool)
    if not is_number or not 0 < timeout_minutes <= _LONGEST_MINUTES:
        raise ConfigError(
            f"timeout_minutes is {timeout_minutes!r}: minutes above 0, {_LONGEST_MINUTES} at most, are needed"
        )
    if not is_launched() or is_distributed():
        return
    on_gpus = choose_device(device).type == "cuda"
    if on_gpus:
        _take_gpu(device)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if on_gpus else "gloo", timeout=timedelta(minutes=timeout_minutes)
    )
    if not is_main_process():
        logging.disable(logging.INFO)
    logger.info("%d processes on %s", world_size(), "GPUs" if on_gpus else "CPUs")


def close_distributed() -> None:
    """Leave the other processes, at the end of a run."""
    if is_distributed():
        dist.destroy_process_group()


def is_launched() -> bool:
    """Say whether torchrun, or what sets the same variables, started this process."""
    return all(name in os.environ for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))


def is_distributed() -> bool:
    """Say whether this process talks to others."""
    return dist.is_available() and dist.is_initialized()


def require_distributed() -> None:
    """Refuse to run beside other processes without talking to them.

    Raises:
        DistributedError: if torchrun started several processes that were not joined.
    """
    if is_launched() and int(os.environ["WORLD_SIZE"]) > 1 and not is_distributed():
        raise DistributedError(
            f"torchrun started {os.environ['WORLD_SIZE']} processes, each of which would do the whole work: "
            "add multi_gpu.yaml, as in --config_file \"['train_diffusion.yaml','multi_gpu.yaml']\""
        )


def is_connection_lost(error: RuntimeError) -> bool:
    """Say whether an error says that another process is gone, or does not answer in time."""
    signs = ("Connection closed by peer", "Connection reset by peer", "Timed out waiting", "Broken pipe")
    return is_distributed() and (
        isinstance(error, dist.DistError) or any(sign in str(error) for sign in signs)
    )


def rank() -> int:
    """Return the number of this process, from 0."""
    return dist.get_rank() if is_distributed() else 0


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if is_distributed() else 1


def is_main_process() -> bool:
    """Say whether this process is the one that writes what is written once."""
    return rank() == 0


def items_of_rank(items: Sequence[Item]) -> list[Item]:
    """Return the items that this process works on: every n-th, beginning with its rank."""
    return list(items[rank() :: world_size()])


def gather_rows(
    items: Sequence[Item], compute: Callable[[Sequence[Item]], Sequence[npt.NDArray[np.float64]]]
) -> npt.NDArray[np.float64]:
    """Return a row for each item, of which each process computes its own part.

    Where a process meets an error, every one computes all rows, and so ends as one alone would.

    Args:
        items: the same in every process.
        compute: returns a row (D,) of float64 for each of some items.

    Returns:
        (len(items), D), the same bytes in every process and for any number of them.
    """
    if world_size() == 1:
        return np.stack(list(compute(items)))
    require_same({"how many cases there are": len(items)})
    rows, error = [], None
    try:
        rows = list(compute(items_of_rank(items)))
    except Exception as each:  # whatever it is, the others must not wait for rows that never come
        error = each
    if bool(all_reduce_any(torch.tensor(error is not None))):
        logger.warning("a process met an error (%s): each computes all rows", error or "another one")
        return np.stack(list(compute(items)))
    table = torch.zeros(len(items), all_reduce_max(max((len(row) for row in rows), default=0)))
    table = table.double()
    for place, row in enumerate(rows):
        table[rank() + place * world_size()] = torch.from_numpy(row)
    # As integers: a sum with 0.0 would lose the sign of -0.0.
    dist.all_reduce(table.view(torch.int64))
    return table.numpy()


def barrier() -> None:
    """Return when every process has come here."""
    if world_size() > 1:
        dist.all_reduce(torch.zeros(1))


def require_same(stated: Mapping[str, Any]) -> None:
    """Refuse to go on where processes do not work on the same; a single process may.

    Copies of a cohort that differ from machine to machine would be mixed in silence.

    Args:
        stated: name -> plain values that can be written as JSON, with the same names in every process.

    Raises:
        DistributedError: in every process, naming what differs and the processes that differ from the first.
    """
    if not is_distributed() or world_size() == 1:
        return
    digests = [_digest_words([name, value]) for name, value in stated.items()]
    # The list of names first: with other names, tables of other sizes would be exchanged.
    names = _gather_words([_digest_words(list(stated))])
    others = [other for other in range(world_size()) if not torch.equal(names[other], names[0])]
    if others:
        raise DistributedError(
            f"processes {others} do other work than process 0: start the same command with the same version "
            "in all of them"
        )
    found = _gather_words(digests)
    differing = {
        name: [rank for rank, rows in enumerate(found) if not torch.equal(rows[place], found[0][place])]
        for place, name in enumerate(stated)
    }
    wrong = [f"{name} (processes {ranks})" for name, ranks in differing.items() if ranks]
    if wrong:
        raise DistributedError(
            f"the {world_size()} processes do not work on the same: {', '.join(wrong)} differ from those of "
            "process 0. Give all of them the same files, best on a file system that all share, and the same "
            "command"
        )


def require_close(values: Tensor, *, name: str) -> None:
    """Refuse to go on where processes begin with other numbers, rounding aside.

    Args:
        values: of the same shape in every process.
        name: of them, for the error.

    Raises:
        DistributedError: in every process.
    """
    if not is_distributed() or world_size() == 1:
        return
    first = broadcast_from_first(values)
    is_other = not torch.allclose(values, first, rtol=1e-3, atol=1e-5, equal_nan=True)
    if bool(all_reduce_any(torch.tensor(is_other))):
        raise DistributedError(
            f"the {world_size()} processes do not begin with the same: {name} differ. Give all of them the "
            "same files and the same command"
        )


def _digest_words(value: Any) -> list[int]:
    text = json.dumps(value, sort_keys=True, default=str)
    return np.frombuffer(hashlib.sha256(text.encode()).digest(), dtype=np.int64).tolist()


def _gather_words(rows: Sequence[Sequence[int]]) -> list[Tensor]:
    own = torch.tensor(rows, dtype=torch.int64)
    found = [torch.zeros_like(own) for _ in range(world_size())]
    dist.all_gather(found, own)
    return found


def all_reduce_sum(values: Tensor) -> Tensor:
    """Return the sum of a tensor over all processes; gradients pass to each process's part."""
    return _Sum.apply(values) if world_size() > 1 else values


def all_reduce_any(flag: Tensor) -> Tensor:
    """Return whether a flag, a boolean scalar, is set in any process."""
    if world_size() == 1:
        return flag
    votes = flag.to(torch.int32)
    dist.all_reduce(votes, op=dist.ReduceOp.MAX)
    return votes > 0


def all_reduce_max(value: int) -> int:
    """Return the largest of the processes' numbers."""
    if world_size() == 1:
        return value
    votes = torch.tensor(value)
    dist.all_reduce(votes, op=dist.ReduceOp.MAX)
    return int(votes)


def broadcast_from_first(values: Tensor) -> Tensor:
    """Return the first process's tensor; the others give one of the same shape and type."""
    if world_size() == 1:
        return values
    own = values.clone().contiguous()
    dist.broadcast(own, src=0)
    return own


def shard_batch(total: int) -> BatchShard:
    """Return the own rows of a batch that is split evenly among the processes, in their order."""
    own, n = rank(), world_size()
    start, stop = own * total // n, (own + 1) * total // n
    is_stand_in = start == stop
    if is_stand_in:
        start, stop = 0, 1
    return BatchShard(
        start=start, stop=stop, total=total, n_shards=n, is_stand_in=is_stand_in, reduce=all_reduce_sum
    )


def data_parallel(module: nn.Module) -> nn.Module:
    """Return what to call in the place of a module, so that its gradients are the mean over the processes."""
    if world_size() == 1 or not any(weight.requires_grad for weight in module.parameters()):
        return module
    # Kernels of one channel come with other strides of the axis of length 1: the same layout.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    # What it is called from torch 2.13 on, torch 2.8 does not know.
    warnings.filterwarnings("ignore", message=".broadcast_buffers. is deprecated", category=FutureWarning)
    return DistributedDataParallel(module, broadcast_buffers=False)


def accumulating(module: nn.Module, *, is_last: bool) -> AbstractContextManager[Any]:
    """Return a context in which gradients stay in the process unless the batch is the last of its step.

    A module that is sharded exchanges them for each batch: to keep them it would have to hold all of them.

    Args:
        module: of `data_parallel`; both passes belong into the context.
        is_last: whether the step follows.
    """
    if isinstance(module, DistributedDataParallel) and not is_last:
        return module.no_sync()
    return nullcontext()


class _Sum(torch.autograd.Function):
    """The sum over processes: the gradient of a part is the sum of what every process has as gradient."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone().contiguous()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Tensor:
        total = gradients[0].clone().contiguous()
        dist.all_reduce(total)
        return total


def _take_gpu(device: str) -> None:
    own, n_here = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if torch.device("cuda" if device == "auto" else device).index is not None:
        raise DeviceError(f"device is {device!r}, one GPU for all processes: use 'auto', or 'cuda'")
    if own >= n_here:
        raise DeviceError(
            f"process {own} of this machine has no GPU, there are {n_here}: start as many processes as GPUs "
            "(torchrun --nproc_per_node), or use device: cpu"
        )
    torch.cuda.set_device(own)
