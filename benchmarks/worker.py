"""One side of a row in a process of its own, and the handle by which another process runs it.

Each process is forked from a clean one that has imported the libraries: it has no memory of the other side,
and may keep what it frees without the other side's gain.
"""

from __future__ import annotations

import multiprocessing
import signal
import time
import warnings
from multiprocessing.connection import Connection
from typing import Any

import torch
from network_work import make_network_work
from pipeline_work import make_pipeline_work
from rows import ROWS, Row, Setting
from side_by_side import count_operations, measure_memory, share_of_time, synchronise

from medldm.runtime.allocation import tune_allocation

PIPELINE = ("reading", "stage_2", "loop", "loading")
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["torch", "monai.networks.nets", "monai.transforms", "medldm.training"])


class Side:
    """A process that holds one side of a row; its first run measures memory and warms up.

    Args:
        name: of the row.
        side: which of its sides.
        setting: how it is run.
        threads: of PyTorch; 0 for its own choice.
    """

    def __init__(self, name: str, side: str, setting: Setting, *, threads: int) -> None:
        self._connection, other = _CONTEXT.Pipe()
        self._process = _CONTEXT.Process(target=_hold, args=(other, name, side, setting, threads))
        self._process.start()
        other.close()
        self._name = f"{name}, {side}"
        first: dict[str, Any] = self._ask("first")
        self.first_seconds: float = first["seconds"]
        self.n_bytes: int = first["bytes"]
        self.output = first["output"]

    def __enter__(self) -> Side:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()
        self._process.join()

    def run(self) -> float:
        """Run once; returns seconds."""
        return float(self._ask("run"))

    def count_operations(self) -> int:
        """Run once and count floating-point operations."""
        return int(self._ask("count"))

    def share_of_time(self) -> dict[str, float]:
        """Run once under the profiler."""
        return dict(self._ask("share"))

    def _ask(self, request: str) -> Any:
        self._connection.send(request)
        try:
            return self._connection.recv()
        except EOFError as error:
            raise RuntimeError(f"{self._name} ended before it was measured; its error is above") from error


def make_work(row: Row, side: str, setting: Setting) -> Any:
    """Build one side of a row."""
    make = make_pipeline_work if row.kind in PIPELINE else make_network_work
    return make(row, side, setting)


def _hold(connection: Connection, name: str, side: str, setting: Setting, threads: int) -> None:
    """Hold one side and do what is asked until the other end is closed."""
    warnings.filterwarnings("ignore")
    # The process that asks decides when all end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if threads:
        torch.set_num_threads(threads)
    if setting.is_tuned:
        tune_allocation()
    # A first small computation loads the kernels, whose memory is nobody's.
    make_work(ROWS[name], side, Setting(setting.device, setting.precision, quick=True))()
    work = make_work(ROWS[name], side, setting)
    answers = {
        "first": lambda: _run_first(work, setting.device),
        "run": lambda: _time(work, setting.device),
        "count": lambda: count_operations(work),
        "share": lambda: share_of_time(work),
    }
    while True:
        try:
            request = connection.recv()
        except EOFError:
            return
        connection.send(answers[request]())


def _run_first(work: Any, device: str) -> dict[str, Any]:
    outputs: list[torch.Tensor] = []
    start = time.perf_counter()
    n_bytes = measure_memory(lambda: outputs.append(work()), device=device)
    seconds = time.perf_counter() - start
    # NumPy arrays travel through a pipe; tensors would need shared memory.
    return {"seconds": seconds, "bytes": n_bytes, "output": outputs.pop().float().cpu().numpy()}


def _time(work: Any, device: str) -> float:
    synchronise(device)
    start = time.perf_counter()
    work()
    synchronise(device)
    return time.perf_counter() - start
