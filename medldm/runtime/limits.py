"""The limits of a computer that a user can mend: memory, disk space, permissions."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from medldm.errors import MedldmError, StorageError

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)
# How PyTorch's allocator of CPU memory words it, in a plain RuntimeError.
_NO_MEMORY = ("DefaultCPUAllocator: can't allocate memory", "DefaultCPUAllocator: not enough memory")


class NotEnoughMemoryError(MedldmError, RuntimeError):
    """Report that a run does not fit the memory of its device."""


@contextmanager
def limits_named() -> Iterator[None]:
    """Turn what PyTorch and the system raise at a limit into errors that say what to do.

    Raises:
        NotEnoughMemoryError: where a device, or the computer, has no memory left.
        StorageError: where a disk is full, or a file may not be read or written.
    """
    try:
        yield
    except MedldmError:
        raise
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise _no_memory(error) from error
    except RuntimeError as error:
        if not any(sign in str(error) for sign in _NO_MEMORY):
            raise
        raise _no_memory(error) from error
    except OSError as error:
        if error.errno in _NO_SPACE:
            raise StorageError(
                f"the disk is full ({error}): free some space, or choose another folder"
            ) from error
        if error.errno in _NOT_ALLOWED:
            raise StorageError(
                f"the system forbids it ({error}): change who may, or choose another folder"
            ) from error
        raise


def _no_memory(error: BaseException) -> NotEnoughMemoryError:
    reason = str(error).partition("\n")[0] or "no memory is left"
    return NotEnoughMemoryError(
        f"this does not fit the memory ({reason}): take a smaller batch_size, patch_size or size, or "
        "checkpointing; medldm plan says what fits"
    )
