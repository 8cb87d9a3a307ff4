"""Signals that end a training: remembered at once, acted upon at the next step."""

from __future__ import annotations

import logging
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from medldm.errors import MedldmError
from medldm.runtime.distributed import all_reduce_max
from medldm.runtime.early_stop import EXIT_PREEMPTED, asked_to_stop

logger = logging.getLogger(__name__)

EXIT_INTERRUPTED = 128 + signal.SIGINT
"""Exit code of a training that was stopped by Ctrl-C and saved its state."""


class TrainingStopped(MedldmError):
    """A signal ended a training, whose state is saved: run it again to go on.

    Args:
        message: which signal, and what is saved.
        exit_code: `EXIT_PREEMPTED` or `EXIT_INTERRUPTED`.
    """

    def __init__(self, message: str, *, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


_NAMES = ("SIGTERM", "SIGUSR1", "SIGINT")


class StopSignals:
    """Catch SIGTERM, SIGUSR1 and Ctrl-C while a `with` block runs; a second Ctrl-C ends it at once.

    Outside of the main thread, where Python allows no handlers, nothing is caught.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._former: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        """Install the handlers."""
        self.received = asked_to_stop()
        if threading.current_thread() is not threading.main_thread():
            logger.info("not in the main thread: signals will end this training without saving it")
            return self
        for name in _NAMES:
            if hasattr(signal, name):
                number = getattr(signal, name)
                self._former[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Put the former handlers back."""
        for number, former in self._former.items():
            signal.signal(number, former)
        self._former = {}

    def agree(self) -> bool:
        """Say whether a signal came; all processes of a training ask together and get the same answer."""
        if number := all_reduce_max(int(self.received or 0)):
            self.received = signal.Signals(number)
        return self.received is not None

    @property
    def exit_code(self) -> int:
        """The code to end with: 75, or 130 after Ctrl-C."""
        return EXIT_INTERRUPTED if self.received == signal.SIGINT else EXIT_PREEMPTED

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.received == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)
