"""The locked file in an output folder, which says who holds the folder and since when.

`flock` dies with its process, so that a file which a killed process left is taken over; one that ends in
order removes it. It may lie in a folder that others write to: no link is followed, nothing of another origin
is written over, and what it says is shown without control characters.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import stat
import time
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from socket import gethostname
from typing import Any

from medldm.errors import MedldmError, StorageError
from medldm.files import name_cause

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

LOCK = ".medldm.lock"
"""Name of the file in an output folder that is locked."""

_PATIENCE_S = 5.0
"""A killed process that frees much memory holds its lock a moment longer."""
_MARK, _LONGEST = "medldm lock", 1024
_HELD_BY_OTHERS = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)
_WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
_warned: set[int] = set()


class FolderInUseError(MedldmError, RuntimeError):
    """Report that another run writes into an output folder."""


def take_lock(folder: Path) -> int | None:
    """Lock the file in a folder.

    Returns:
        Its handle; None where the file system has no locks.

    Raises:
        FolderInUseError: where another process, or another thread, holds the folder.
        StorageError: where the folder cannot be written, or something else stands in the lock's place.
    """
    until = time.monotonic() + _PATIENCE_S
    while True:
        try:
            handle = _try_lock(folder)
        except FolderInUseError:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)
            continue
        except OSError as error:
            raise name_cause(folder, error) from error
        if handle is not None:
            return handle if handle >= 0 else None


def drop_lock(folder: Path, handle: int) -> None:
    """Remove the locked file, and free it."""
    try:
        # While it is locked: whoever opened it meanwhile sees that the name is gone, and makes a new one.
        if _is_named(handle, folder / LOCK):
            (folder / LOCK).unlink()
    except OSError as error:
        logger.debug("%s stays: %s", LOCK, error)
    finally:
        os.close(handle)


def _try_lock(folder: Path) -> int | None:
    """Return a handle; -1 without locks; None to try again, where the file went while it was opened."""
    folder.mkdir(parents=True, exist_ok=True)
    if fcntl is None:
        _warn_once(folder)
        return -1
    handle = _open(folder / LOCK)
    try:
        _lock(handle, folder)
        if _is_named(handle, folder / LOCK):
            return handle
    except _NoLocks:
        _warn_once(folder)
        os.close(handle)
        return -1
    except BaseException:
        os.close(handle)
        raise
    os.close(handle)
    return None


class _NoLocks(Exception):
    """The file system has no locks."""


def _lock(handle: int, folder: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _WITHOUT_LOCKS:
            raise _NoLocks from error
        if error.errno not in _HELD_BY_OTHERS:
            raise
        holder = read_holder(handle) or "another run that has just begun"
        raise FolderInUseError(
            f"{folder} is in use: {holder} writes there. Two runs in one folder would destroy each other's "
            "work: wait for that one or stop it, or give another output folder"
        ) from error


def _open(path: Path) -> int:
    """Open the file that is locked, and no other: no link, no second name of a file, nothing of others'."""
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        handle = os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise _not_a_lock(path) from error
        raise
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1 or not _is_lock(os.pread(handle, 64, 0)):
        os.close(handle)
        raise _not_a_lock(path)
    return handle


def _not_a_lock(path: Path) -> StorageError:
    return StorageError(
        f"{path} is not a lock that medldm made, but a link or something of another origin: look at what it "
        "is and remove it, or give another output folder"
    )


def _is_lock(content: bytes) -> bool:
    # A power cut may leave zeros, or nothing.
    return not content.strip(b"\0") or _MARK.encode() in content


def _is_named(handle: int, path: Path) -> bool:
    """Say whether an open file is the one that has a name now."""
    try:
        own, named = os.fstat(handle), path.lstat()
    except FileNotFoundError:
        return False
    return (own.st_dev, own.st_ino) == (named.st_dev, named.st_ino)


def write_holder(handle: int, *, work: str) -> None:
    """Write into a locked file who holds it, and since when."""
    holder = {
        "is": _MARK,
        "work": work,
        "process": os.getpid(),
        "host": gethostname(),
        "job": os.environ.get("SLURM_JOB_ID", ""),
        "since": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC"),
    }
    os.ftruncate(handle, 0)
    os.pwrite(handle, json.dumps(holder).encode(), 0)


def read_holder(handle: int) -> str | None:
    """Return who holds a lock, or held it last, in words; None where the file does not say."""
    try:
        found = json.loads(os.pread(handle, _LONGEST, 0))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(found, Mapping):
        return None
    where = f"process {_plain(found, 'process')} on {_plain(found, 'host')}"
    if found.get("process") == os.getpid() and found.get("host") == gethostname():
        where = f"this process ({where})"
    job = f", Slurm job {_plain(found, 'job')}" if found.get("job") else ""
    return f"a run ({_plain(found, 'work')}, {where}{job}, since {_plain(found, 'since')})"


def _plain(found: Mapping[str, Any], name: str) -> str:
    """Return a value for a message: a file that others may write must not speak to the terminal."""
    text = str(found.get(name, "unknown"))[:80]
    return "".join(one if one.isascii() and one.isprintable() else "?" for one in text)


def _warn_once(folder: Path) -> None:
    device = folder.stat().st_dev
    if device not in _warned:
        _warned.add(device)
        logger.warning(
            "the file system of %s has no locks: nothing keeps a second run from writing there, so see to it "
            "that there is one at a time",
            folder,
        )
