"""Run a function in several processes that talk through gloo, as torchrun would start them."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist

from medldm.runtime.endings import report_error

PATIENCE_S = 300


def run_on_ranks(
    function: Callable[[int], None], folder: Path, *, n: int = 2, joined: bool = True
) -> list[int]:
    """Run `function(rank)` in n forked processes and return their exit codes; errors end as in a command.

    Args:
        function: of the rank.
        folder: for the file through which the processes meet; a fresh one each time.
        n: number of processes.
        joined: False to leave the joining to the function, with the environment that torchrun gives.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("fork")
    meeting = f"file://{folder}/meeting" if joined else f"tcp://127.0.0.1:{port}"
    processes = [context.Process(target=_work, args=(function, meeting, rank, n)) for rank in range(n)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(PATIENCE_S)
        process.kill()
        process.join()
    return [process.exitcode or 0 for process in processes]


def _work(function: Callable[[int], None], meeting: str, rank: int, n: int) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(n))
    if meeting.startswith("file:"):
        wait = timedelta(seconds=60)
        dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=n, timeout=wait)
    else:
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=meeting.rsplit(":", 1)[1])
    try:
        function(rank)
    except Exception as error:
        code = report_error(error)
        sys.stderr.flush()
        os._exit(code)
    if dist.is_initialized():
        dist.destroy_process_group()
