"""One writer for one output folder: a lock that dies with the process that holds it.

`locked_output` takes `flock` on the file `.medldm.lock` in the folder. The system frees it when its process
ends, however it ends, so that no lock outlives a SIGKILL; the file of a dead holder is taken over. It says
who holds the folder and since when, for the message of whoever comes second. A holder that ends in order
removes it.

Whoever holds the folder removes the temporary files that a killed holder has left in it.

Of several processes of one run the first one takes the lock; all of them learn of a refusal. Processes that
are forked while it is held, such as those of a data loader, do not hold it.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from medldm.files import name_cause, remove_leftovers
from medldm.runtime.distributed import all_reduce_max, is_main_process
from medldm.runtime.lock_file import (
    FolderInUseError,
    drop_lock,
    read_holder,
    take_lock,
    write_holder,
)

logger = logging.getLogger(__name__)

SWEPT = {
    "training": ("latents", "logs", "state"),
    "generation": ("images", "labels", "sidecars"),
    "prepare": ("images", "labels", ".prepare"),
    "private list": (),
}
"""Kind of work to the folders below its output folder that it writes into, beside the folder itself."""


@dataclass
class _Held:
    """A folder that this process holds, and made; the handle is None on a file system without locks."""

    handle: int | None
    thread: int
    uses: int = 0
    is_made: bool = False


_held: dict[str, _Held] = {}
_guard = threading.Lock()


@contextmanager
def locked_output(folder: str | Path, *, work: str) -> Iterator[None]:
    """Be the only run that writes into a folder, while a `with` block runs.

    It may be nested in one thread. Every process of a run takes part.

    Args:
        folder: the output folder; it is made where it is missing.
        work: what is done, one of `SWEPT`.

    Raises:
        FolderInUseError: where another run holds the folder; it says which one, and since when.
        StorageError: where the folder cannot be written, or something else stands in the lock's place.

    Examples:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> with locked_output(folder, work="training"):
        ...     sorted(path.name for path in Path(folder).iterdir())
        ['.medldm.lock']
        >>> list(Path(folder).iterdir())
        []
    """
    _take_together(folder, work=work, uses=1)
    try:
        yield
    finally:
        _release(_key(folder))


def hold_output(folder: str | Path, *, work: str) -> None:
    """Take a folder for a run that is still being put together.

    It is let go of when the first `locked_output` of it has ended, by `release_holds`, or with the process.

    Args:
        folder: as of `locked_output`, like `work`.
        work: what is done.

    Raises:
        FolderInUseError: as of `locked_output`.
        StorageError: likewise.
    """
    _take_together(folder, work=work, uses=0)


def release_holds() -> None:
    """Let go of folders that `hold_output` took and nothing has used since."""
    with _guard:
        for key in [key for key, own in _held.items() if own.uses == 0]:
            _let_go(key)


def _take_together(folder: str | Path, *, work: str, uses: int) -> None:
    """Let the first process take a folder; all raise where it may not."""
    error: Exception | None = None
    if is_main_process():
        try:
            _take(Path(folder), work=work, uses=uses)
        except Exception as each:  # whatever it is, the others must not wait for ever
            error = each
    if all_reduce_max(int(error is not None)):
        raise error or FolderInUseError(
            f"the first process of this run could not take {folder}: its own error says why"
        )


def _take(folder: Path, *, work: str, uses: int) -> None:
    key, thread = _key(folder), threading.get_ident()
    with _guard:
        own = _held.get(key)
        if own is not None and own.thread == thread:
            own.uses += uses
            return
    is_made = not folder.exists()
    handle = take_lock(folder)
    with _guard:
        _held[key] = _Held(handle, thread, uses, is_made)
    if handle is None:
        return
    try:
        _sweep(folder, handle, work=work)
    except OSError as error:
        _release(key, is_all=True)
        raise name_cause(folder, error) from error


def _sweep(folder: Path, handle: int, *, work: str) -> None:
    """Say whose lock is taken over, write the own name, and remove what killed holders left."""
    former = read_holder(handle)
    if former is not None:
        logger.info("%s did not end in order: what it left half-written is removed", former)
    write_holder(handle, work=work)
    remove_leftovers(folder)
    for name in SWEPT[work]:
        if not (folder / name).is_symlink():
            remove_leftovers(folder / name, is_deep=True)


def _release(key: str, *, is_all: bool = False) -> None:
    with _guard:
        own = _held.get(key)
        if own is None or (own.thread != threading.get_ident() and not is_all):
            return
        own.uses -= 1
        if own.uses <= 0 or is_all:
            _let_go(key)


def _let_go(key: str) -> None:
    own = _held.pop(key)
    if own.handle is not None:
        drop_lock(Path(key), own.handle)
    if own.is_made:
        # A run that wrote nothing leaves nothing; a folder with something in it stays.
        with suppress(OSError):
            Path(key).rmdir()


def _key(folder: str | Path) -> str:
    return os.path.realpath(folder)


def _forget_in_child() -> None:
    """Close what a forked process has inherited; closing there leaves the parent's lock as it is."""
    global _guard
    _guard = threading.Lock()
    for own in _held.values():
        if own.handle is not None:
            os.close(own.handle)
    _held.clear()


atexit.register(release_holds)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)
