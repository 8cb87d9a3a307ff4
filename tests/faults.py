"""Faults of the system below `medldm.files` and every reader: EIO, EACCES, ENOSPC, slow files; no FUSE.

    with faults(Fault("read", "*/state.json", error=errno.EIO)):
        ...

What Python opens, flushes, renames, makes, lists and removes passes through here while the block runs; what
a library opens by itself, such as a memory map of safetensors, does not.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import shutil
import threading
import time
from collections import namedtuple
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any
from unittest import mock

CALLS = ("open", "read", "write", "flush", "rename", "make", "list", "remove")


@dataclass
class Fault:
    """What goes wrong.

    Args:
        call: one of `CALLS`; "open" is that for reading, "make" that of a file or folder that is written.
        path: pattern of the files' paths, as of `fnmatch`.
        error: number of the error; None for none.
        after: calls that go well before.
        times: calls that go wrong then; None for all.
        delay_s: of each of them.

    Attributes:
        n_hit: calls that went wrong.
    """

    call: str
    path: str = "*"
    error: int | None = errno.EIO
    after: int = 0
    times: int | None = None
    delay_s: float = 0.0
    n_hit: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if self.call not in CALLS:
            raise ValueError(f"call is {self.call!r}: choose from {CALLS}")

    def meet(self, call: str, path: str) -> None:
        """Go wrong where it is this call of this file."""
        if call != self.call or not fnmatch(path, self.path):
            return
        if self.after > 0:
            self.after -= 1
            return
        if self.times is not None and self.n_hit >= self.times:
            return
        self.n_hit += 1
        time.sleep(self.delay_s)
        if self.error is not None:
            raise OSError(self.error, os.strerror(self.error), path)


class _File:
    """A file object whose reads and writes can go wrong."""

    def __init__(self, file: Any, path: str, meet: Callable[[str, str], None]) -> None:
        self._file, self._path, self._meet = file, path, meet

    def __getattr__(self, name: str) -> Any:
        own = getattr(self._file, name)
        call = {"read": "read", "readline": "read", "readinto": "read", "readlines": "read"}.get(name)
        call = "write" if name in ("write", "writelines") else call
        if call is None:
            return own

        def met(*arguments: Any) -> Any:
            self._meet(call, self._path)
            return own(*arguments)

        return met

    def __enter__(self) -> _File:
        self._file.__enter__()
        return self

    def __exit__(self, *arguments: Any) -> Any:
        return self._file.__exit__(*arguments)

    def __iter__(self) -> Iterator[Any]:
        for line in self._file:
            self._meet("read", self._path)
            yield line


@contextmanager
def faults(*given: Fault) -> Iterator[None]:
    """Let calls of this process go wrong while a `with` block runs; the same call counts once."""
    inside = threading.local()

    def meet(call: str, path: Any) -> None:
        if isinstance(path, int):
            link = Path(f"/proc/self/fd/{path}")
            path = link.readlink() if link.is_symlink() else ""
        for fault in given:
            fault.meet(call, os.fspath(path))

    def watched(owner: Any, name: str, call: str | Callable[..., str]) -> Any:
        real = getattr(owner, name)

        def met(path: Any, *arguments: Any, **options: Any) -> Any:
            if getattr(inside, "is", False) or (isinstance(path, int) and call != "flush"):
                return real(path, *arguments, **options)
            kind = call if isinstance(call, str) else call(*arguments, **options)
            meet(kind, path)
            setattr(inside, "is", True)
            try:
                result = real(path, *arguments, **options)
            finally:
                setattr(inside, "is", False)
            return _File(result, os.fspath(path), meet) if name == "open" and owner is not os else result

        return mock.patch.object(owner, name, met)

    with ExitStack() as stack:
        for owner, name, call in _PATCHED:
            stack.enter_context(watched(owner, name, call))
        yield


def _opened(mode: Any = "r", *_: Any, **options: Any) -> str:
    mode = options.get("mode", mode)
    return "make" if isinstance(mode, str) and set(mode) & set("wxa+") else "open"


def _opened_by_number(flags: int, *_: Any, **__: Any) -> str:
    return "make" if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) else "open"


_PATCHED: list[tuple[Any, str, Any]] = [
    *((owner, "open", _opened) for owner in (builtins, io, Path)),
    (os, "open", _opened_by_number),
    (os, "fsync", "flush"),
    *((Path, name, "rename") for name in ("rename", "replace")),
    *((os, name, "rename") for name in ("rename", "replace")),
    *((owner, "mkdir", "make") for owner in (os, Path)),
    *((os, name, "list") for name in ("listdir", "scandir")),
    (Path, "iterdir", "list"),
    *((os, name, "remove") for name in ("unlink", "remove", "rmdir")),
    *((Path, name, "remove") for name in ("unlink", "rmdir")),
]


@contextmanager
def full_disk(free: int = 0) -> Iterator[None]:
    """Let every disk say that so many bytes are free while a `with` block runs."""
    usage = namedtuple("usage", "total used free")(10 * free + 1, 9 * free + 1, free)
    with mock.patch.object(shutil, "disk_usage", lambda _: usage):
        yield
