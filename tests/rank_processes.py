"""Run a function in several processes that talk through gloo, as torchrun would start them."""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist

PATIENCE_S = 300


def run_on_ranks(function: Callable[[int], None], folder: Path, *, n: int = 2) -> list[int]:
    """Run `function(rank)` in n forked processes and return their exit codes; errors are printed.

    Args:
        function: of the rank.
        folder: for the file through which the processes meet; a fresh one each time.
        n: number of processes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_work, args=(function, folder, rank, n)) for rank in range(n)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(PATIENCE_S)
        process.kill()
        process.join()
    return [process.exitcode or 0 for process in processes]


def _work(function: Callable[[int], None], folder: Path, rank: int, n: int) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(n))
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meeting",
        rank=rank,
        world_size=n,
        timeout=timedelta(seconds=60),
    )
    try:
        function(rank)
    except SystemExit:
        raise
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    dist.destroy_process_group()
