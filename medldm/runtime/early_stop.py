"""SIGTERM and SIGUSR1 before and after the loop of a training: end at once, with the code that asks to go on.

The loop itself saves first (`medldm.training.resume.preemption`). Outside of it, while packages are imported,
volumes are read and latents are encoded, there is nothing to save: what is written is whole, and the same
command goes on with it. The exception is no `Exception`, so that nothing that bears with bad files bears
with it; where it is lost all the same (Python drops what is raised in a destructor), the loop asks
`asked_to_stop`.

The module imports neither torch nor MONAI, so that a command can begin with it.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from medldm.runtime.command_lines import is_command_of_monai

EXIT_PREEMPTED = 75
"""Exit code of what was told to stop and goes on when the same command is run again (EX_TEMPFAIL)."""

_NAMES = ("SIGTERM", "SIGUSR1")
_UNWINDING_S = 10.0
"""Slurm and torchrun both send a signal: a second one within this time does not disturb the cleaning up."""


class StoppedEarly(SystemExit):
    """A signal ended a command outside of a training's loop; the process ends with `EXIT_PREEMPTED`."""

    def __init__(self) -> None:
        super().__init__(EXIT_PREEMPTED)


class _State:
    owner = 0
    received: signal.Signals | None = None
    at = 0.0


def asked_to_stop() -> signal.Signals | None:
    """Return the signal that came while the handlers of this module were in charge; None without one."""
    return _State.received if _State.owner == os.getpid() else None


@contextmanager
def ending_on_signals() -> Iterator[None]:
    """Raise `StoppedEarly` in the block when SIGTERM or SIGUSR1 comes, and put the former handlers back."""
    former = _install()
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
        _State.received = None


def end_command_of_monai_on_signals() -> None:
    """Do so until the end of a process that `python -m monai.bundle` began; do nothing in any other."""
    # The name of the main module of a process that multiprocessing spawned.
    is_child = getattr(sys.modules.get("__main__"), "__name__", None) == "__mp_main__"
    if is_command_of_monai() and not is_child and _State.owner != os.getpid():
        _install()


def _install() -> dict[signal.Signals, Any]:
    if threading.current_thread() is not threading.main_thread():
        return {}
    _State.owner, _State.received = os.getpid(), None
    numbers = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]
    return {number: signal.signal(number, _receive) for number in numbers}


def _receive(number: int, frame: FrameType | None) -> None:
    if os.getpid() != _State.owner:  # a forked worker: it ends as if it knew nothing of the handler
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        return
    if _State.received is not None and time.monotonic() - _State.at < _UNWINDING_S:
        return
    name = signal.Signals(number).name
    _State.received, _State.at = signal.Signals(number), time.monotonic()
    # Not through sys.stderr, in the middle of whose work the signal may have come.
    os.write(
        2,
        f"{name} outside of a training's loop: what is written is whole; run the same command again to go on "
        f"(exit code {EXIT_PREEMPTED})\n".encode(),
    )
    raise StoppedEarly
