"""How a command ends: in one line where a user can mend the error, else in a traceback with the cause last.

Functions raise, command lines end processes. There are two command lines. `medldm` hands what a command
raises to `report_error`. `python -m monai.bundle` is MONAI's own, and leaves errors to Python; so the first
step of each workflow calls `end_as_medldm_does`, which sets `sys.excepthook` in a process that MONAI's
command line began, and in no other. Both end alike, under torchrun too:

- A `MedldmError` ends in "error: " and its message, with its exit code: 1 for most, 75 for a training that
  was told to stop.
- A limit of the computer (memory, disk space, permissions: `name_limit`) ends so too.
- Anything else ends in its traceback, with the exit code 1. Python prints the last of a chain of errors at
  the end, and MONAI wraps whatever a component raises in "Failed to instantiate component". So MONAI's
  wrappers are taken off, and the innermost cause is the last line.
"""

from __future__ import annotations

import errno
import logging
import re
import sys
import traceback
from types import TracebackType

from medldm.errors import MedldmError, StorageError
from medldm.runtime.command_lines import is_command_of_monai
from medldm.runtime.early_stop import EXIT_PREEMPTED, StoppedEarly, asked_to_stop
from medldm.runtime.plain_names import show

logger = logging.getLogger(__name__)

_OF_A_WORKER = re.compile(r"\ACaught (\w+) in [^\n]* worker .*^[\w.]*\b\1: ", re.DOTALL | re.MULTILINE)
"""What PyTorch puts before the message of an error in a worker of a data loader: the worker's traceback."""
_LAYOUT = "\n\t"
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)
_NO_MEMORY = ("DefaultCPUAllocator: can't allocate memory", "DefaultCPUAllocator: not enough memory")
"""How PyTorch's allocator of CPU memory words it, in a plain RuntimeError."""


class NotEnoughMemoryError(MedldmError, RuntimeError):
    """Report that a run does not fit the memory of its device."""


def report_error(error: BaseException) -> int:
    """Write to stderr what ended a command.

    Args:
        error: whatever was raised.

    Returns:
        The exit code to end with: where SIGTERM or SIGUSR1 came before, that of what goes on when the same
        command is run again, since the error may be what the signal left (a worker that it ended).
    """
    if _comes_of_a_stop(error):  # which has said so itself; an import that it broke off wraps it
        return EXIT_PREEMPTED
    code = _write_error(error)
    return code if asked_to_stop() is None else EXIT_PREEMPTED


def _comes_of_a_stop(error: BaseException | None) -> bool:
    while error is not None and not isinstance(error, StoppedEarly):
        error = error.__cause__ or error.__context__
    return error is not None


def _write_error(error: BaseException) -> int:
    error = name_limit(open_wrappers(error))
    if isinstance(error, MedldmError):
        logger.debug("the traceback of what follows", exc_info=error)
        kind = "error: " if error.exit_code == 1 else ""
        message = show(_OF_A_WORKER.sub("", str(error)).strip(), keep=_LAYOUT)
        sys.stderr.write(f"{kind}{message}\n")
        return error.exit_code
    sys.stderr.write(show("".join(traceback.format_exception(error)), keep=_LAYOUT))
    cause = innermost_cause(error)
    if cause is not error:
        text = "".join(traceback.format_exception_only(cause))
        sys.stderr.write(f"cause: {show(text, keep=_LAYOUT)}")
    return 1


def open_wrappers(error: BaseException) -> BaseException:
    """Return what MONAI wrapped: the cause of each RuntimeError that MONAI's own code raised from another."""
    while error.__cause__ is not None and type(error) is RuntimeError and _is_raised_by_monai(error):
        error = error.__cause__
    return error


def innermost_cause(error: BaseException) -> BaseException:
    """Return the first error of a chain of `raise ... from ...`."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def end_as_medldm_does() -> None:
    """Let a process that `python -m monai.bundle` began end as the module says; do nothing in any other."""
    if is_command_of_monai():
        sys.excepthook = _report_and_exit


def _report_and_exit(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if not isinstance(error, Exception):
        sys.__excepthook__(kind, error, trace)
        return
    code = report_error(error)
    if code != 1:
        # What a hook raises is printed, but for SystemExit, whose code Python ends with.
        raise SystemExit(code)


def _is_raised_by_monai(error: BaseException) -> bool:
    trace, module = error.__traceback__, ""
    while trace is not None:
        module, trace = trace.tb_frame.f_globals.get("__name__", ""), trace.tb_next
    return module.partition(".")[0] == "monai"


def name_limit(error: BaseException) -> BaseException:
    """Return what PyTorch or the system raises at a limit as an error that says what to do.

    Args:
        error: whatever was raised.

    Returns:
        A `NotEnoughMemoryError` where a device, or the computer, has no memory left; a `StorageError` where a
        disk is full or a file may not be read or written; any other error as it is.
    """
    if isinstance(error, MedldmError):
        return error
    reason = str(error).partition("\n")[0]
    if _is_of_memory(error):
        return NotEnoughMemoryError(
            f"this does not fit the memory ({reason or 'no memory is left'}): take a smaller batch_size, "
            "patch_size or size, or checkpointing; medldm plan says what fits"
        )
    number = error.errno if isinstance(error, OSError) else None
    if number in _NO_SPACE:
        return StorageError(f"the disk is full ({reason}): free some space, or choose another folder")
    if number in _NOT_ALLOWED:
        return StorageError(f"the system forbids it ({reason}): change who may, or choose another folder")
    return error


def _is_of_memory(error: BaseException) -> bool:
    # By its name, so that this module, which the command line imports, imports no torch.
    kinds = [f"{kind.__module__}.{kind.__name__}" for kind in type(error).__mro__]
    is_of_memory = "torch.OutOfMemoryError" in kinds or isinstance(error, MemoryError)
    return is_of_memory or any(sign in str(error) for sign in _NO_MEMORY)
