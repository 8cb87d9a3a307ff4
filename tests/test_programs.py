"""A command in a fork of the server does what it does in a fresh interpreter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.programs import run_python

SHOW = """
import atexit, json, os, sys
print(json.dumps([sys.argv, sys.path, os.getcwd(), os.environ["PLANTED"], sys.stdin.read(), __name__,
                  getattr(sys.modules["__main__"].__spec__, "name", None), "medldm" in sys.modules]))
print("to stderr", file=sys.stderr)
atexit.register(print, "at exit")
"""
ENDINGS = {
    "well": "",
    "by code": "sys.exit(75)",
    "by words": "sys.exit('words')",
    "by error": "raise ValueError('wrong')",
    "by hook": "sys.excepthook = lambda *_: sys.exit(3)\nraise ValueError('wrong')",
    "by signal": "sys.stdout.flush(); os.kill(os.getpid(), 9)",
}


def both(words: list[str], folder: Path) -> tuple[subprocess.CompletedProcess[str], ...]:
    environment = {**os.environ, "PLANTED": "here", "PYTHONPATH": f"{folder}/own"}
    fresh = subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    return fresh, run_python(words, cwd=folder, env=environment)


@pytest.mark.parametrize("ending", ENDINGS.values(), ids=ENDINGS)
@pytest.mark.parametrize("kind", ["-m", "-c"])
def test_a_program_says_and_ends_as_in_a_fresh_interpreter(kind: str, ending: str, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "shown.py").write_text(SHOW + ending)
    fresh, forked = both([kind, "shown" if kind == "-m" else SHOW + ending, "--knob", "1"], tmp_path)
    assert json.loads(fresh.stdout.splitlines()[0])[3] == "here"
    assert forked.stdout == fresh.stdout
    assert forked.returncode == fresh.returncode
    assert forked.stderr.splitlines()[0] == fresh.stderr.splitlines()[0]
    assert forked.stderr.splitlines()[-1] == fresh.stderr.splitlines()[-1]


def test_programs_know_nothing_of_each_other(tmp_path: Path) -> None:
    run_python(["-c", "import os, sys; os.environ['LEFT'] = '1'; sys.left = 1"], cwd=tmp_path)
    found = run_python(
        ["-c", "import os, sys; print('LEFT' in os.environ, hasattr(sys, 'left'))"], cwd=tmp_path
    )
    assert found.stdout == "False False\n"
