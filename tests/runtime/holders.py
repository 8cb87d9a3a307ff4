"""Let another process hold an output folder, and kill it."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.synchronize import Event
from pathlib import Path

from medldm.runtime.output_lock import locked_output

FORK = multiprocessing.get_context("fork")
_PATIENCE_S = 30


@contextmanager
def another(folder: Path, act: Callable[[], None] | None = None) -> Iterator[int]:
    """Let another process hold a folder while a `with` block runs, and kill it at the end.

    Args:
        folder: to hold.
        act: what the process does when it holds it.

    Yields:
        The number of the process.
    """
    ready = FORK.Event()
    process = FORK.Process(target=_hold, args=(folder, act, ready))
    process.start()
    try:
        if not ready.wait(_PATIENCE_S):
            raise TimeoutError(f"nobody holds {folder}")
        yield process.pid or 0
    finally:
        process.kill()
        process.join()


def _hold(folder: Path, act: Callable[[], None] | None, ready: Event) -> None:
    with locked_output(folder, work="training"):
        if act is not None:
            act()
        ready.set()
        time.sleep(2 * _PATIENCE_S)
