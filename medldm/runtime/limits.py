"""The limits of a computer that a user can mend: memory, disk space, permissions."""

from __future__ import annotations

import errno

from medldm.errors import MedldmError, StorageError

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)
_NO_MEMORY = ("DefaultCPUAllocator: can't allocate memory", "DefaultCPUAllocator: not enough memory")
"""How PyTorch's allocator of CPU memory words it, in a plain RuntimeError."""


class NotEnoughMemoryError(MedldmError, RuntimeError):
    """Report that a run does not fit the memory of its device."""


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
