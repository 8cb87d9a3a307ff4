"""Do something in a process of its own, and tell what it did: processes, sockets, evaluated text, files."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from medldm.configs import Config, field_types

# Events of sys.addaudithook by which foreign code would show itself.
_NEVER = (
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "os.fork",
    "os.forkpty",
    "pty.spawn",
    "socket.__new__",
    "socket.bind",
    "socket.connect",
    "socket.getaddrinfo",
    "urllib.Request",
    "pickle.find_class",
    "ctypes.dlopen",
)
_CHANGES = (
    "os.remove",
    "os.rename",
    "os.mkdir",
    "os.rmdir",
    "os.truncate",
    "os.symlink",
    "os.link",
    "os.chmod",
)
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


class Watcher:
    """Collect events between `begin` and `end`; an audit hook can never be removed again."""

    def __init__(self) -> None:
        self.seen: list[str] | None = None
        self.folder = ""
        sys.addaudithook(self._hook)

    def begin(self, folder: Path) -> None:
        """Watch; writing is allowed below `folder` only."""
        self.folder, self.seen = str(folder.resolve()), []

    def end(self) -> list[str]:
        """Stop watching; return what was seen."""
        seen, self.seen = self.seen or [], None
        return seen

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.seen is None:
            return
        if event in _NEVER:
            self.seen.append(event)
        elif event == "exec" and getattr(arguments[0], "co_filename", "") == "<string>":
            self.seen.append("evaluated text")
        elif event == "import" and arguments[0] in ("antigravity", "planted"):
            self.seen.append(f"import {arguments[0]}")
        elif (
            event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITING
        ) or event in _CHANGES:
            # Of a link, only where it stands is written to.
            self._note_write(arguments[event in ("os.symlink", "os.link")])

    def _note_write(self, path: Any) -> None:
        if self.seen is not None and isinstance(path, (str, bytes, os.PathLike)):
            resolved = os.path.realpath(os.fsdecode(path))
            if resolved != self.folder and not resolved.startswith((self.folder + os.sep, "/dev/null")):
                self.seen.append(f"write {resolved}")


def watch_all(
    jobs: Iterable[tuple[str, Callable[[Path], object]]], folder: Path
) -> dict[str, tuple[str, list[str]]]:
    """Run jobs one after the other in one forked process.

    Args:
        jobs: name and function; it stands in a folder `<name>/bundle`, the only one it may write to.
        folder: receives the jobs' folders.

    Returns:
        Name -> (the error's text or "", what was seen).
    """
    process = multiprocessing.get_context("fork").Process(target=_work, args=(list(jobs), folder))
    process.start()
    process.join()
    assert process.exitcode == 0
    return {name: tuple(found) for name, found in json.loads((folder / "seen.json").read_text()).items()}


def _work(jobs: list[tuple[str, Callable[[Path], object]]], folder: Path) -> None:
    _read_annotations(Config)
    watcher, results = Watcher(), {}
    for name, job in jobs:
        bundle = folder / name / "bundle"
        bundle.mkdir(parents=True, exist_ok=True)
        os.chdir(bundle)
        watcher.begin(bundle)
        error = ""
        try:
            job(bundle)
        except BaseException as raised:  # even an exit is a result here
            error = f"{type(raised).__name__}: {raised}"
        results[name] = (error, watcher.end())
    (folder / "seen.json").write_text(json.dumps(results))


def _read_annotations(kind: type) -> None:
    """Evaluate the annotations of all loaded configurations: text of the package, once for each class."""
    for subclass in kind.__subclasses__():
        field_types(subclass)
        _read_annotations(subclass)
