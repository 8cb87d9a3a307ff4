"""Run command lines in processes of their own, without importing torch and MONAI anew for each.

A server imports the libraries that nearly every command imports, and forks for each command. The fork takes
the command's arguments, folder, environment and output, and runs it at the top of the interpreter, as
`python -m` does: what it raises reaches `sys.excepthook`, and the interpreter ends it. The server does not
import medldm: each command does. `tests/test_programs.py` compares such a run with a fresh interpreter's.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

LIBRARIES = ("torch", "monai.bundle")
_ENVIRONMENT = dict(os.environ)


def run_python(
    words: Sequence[str], *, cwd: Path, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Do what `subprocess.run([sys.executable, *words], capture_output=True, text=True, ...)` does.

    Args:
        words: "-m", a module and its arguments, or "-c", a program and its arguments.
        cwd: folder to run in.
        env: of the process; this process's if not given.
    """
    with tempfile.TemporaryDirectory() as folder:
        output = [str(Path(folder, name)) for name in ("stdout", "stderr")]
        job = {"words": list(words), "cwd": str(cwd), "env": dict(env or os.environ), "output": output}
        code = _server().run(job)
        stdout, stderr = (Path(path).read_text() for path in output)
    return subprocess.CompletedProcess([sys.executable, *words], code, stdout, stderr)


class _Server:
    """The process that forks; it ends with this one, whose end closes its input."""

    def __init__(self) -> None:
        self._bytecode = tempfile.TemporaryDirectory()
        self._process = subprocess.Popen(
            [sys.executable, __file__, self._bytecode.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=_ENVIRONMENT,
        )
        atexit.register(self._bytecode.cleanup)
        atexit.register(self._process.communicate)

    def run(self, job: Mapping[str, Any]) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


@cache
def _server() -> _Server:
    return _Server()


def _next_job() -> dict[str, Any] | None:
    """Fork for each job and report its exit code; return the job in the fork, None at the end."""
    for line in sys.stdin:
        process = os.fork()
        if not process:
            return json.loads(line)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])}\n")
        sys.stdout.flush()
    return None


def _become(job: Mapping[str, Any]) -> None:
    """Take a job's folder, environment, search path and output."""
    os.chdir(job["cwd"])
    os.environ.clear()
    os.environ.update(job["env"])
    former = _ENVIRONMENT.get("PYTHONPATH", "").split(os.pathsep)
    own = [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]
    start = str(Path.cwd()) if job["words"][0] == "-m" else ""
    sys.path[:] = [start, *own, *(part for part in sys.path if part not in former)]
    importlib.invalidate_caches()
    for number, path in zip((0, 1, 2), (os.devnull, *job["output"]), strict=True):
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        os.dup2(file, number)
        os.close(file)


if __name__ == "__main__":
    del sys.path[0]
    os.fsync = lambda handle: None  # as in conftest.py
    for library in LIBRARIES:
        with contextlib.suppress(ImportError):
            importlib.import_module(library)
    # Each fork compiles the package, unless the one before it may leave what it has compiled.
    sys.dont_write_bytecode, sys.pycache_prefix = False, sys.argv[1]
    # Else each fork visits, and so copies, all that was imported: two seconds at its end.
    gc.collect()
    gc.freeze()
    if found := _next_job():
        _become(found)
        kind, code, *arguments = found["words"]
        sys.argv = [kind, *arguments]
        if kind == "-m":
            runpy._run_module_as_main(code)  # type: ignore[attr-defined]
        else:
            exec(compile(code, "<string>", "exec"), globals())
