"""Freed memory stays in the process; tried in fresh ones, as the setting holds for a whole process."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from medldm import memory_reuse

COUNT_FAULTS = """
import ctypes, resource, runpy
module = runpy.run_path({path!r})
if {keeps}:
    assert module["reuse_freed_memory"]() is {expected}
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes, libc.memset.argtypes = [ctypes.c_void_p], [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
def use():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = libc.malloc(64 * 2**20)
    libc.memset(block, 1, 64 * 2**20)
    libc.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
use()
print(use())
"""

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator is set")


def second_faults(*, keeps: bool, expected: bool = True, **environment: str) -> int:
    """Page faults of using a block of 64 MB for the second time."""
    code = COUNT_FAULTS.format(path=memory_reuse.__file__, keeps=keeps, expected=expected)
    output = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, env=os.environ | environment
    )
    return int(output.stdout)


@glibc
def test_a_freed_block_is_used_again_without_page_faults() -> None:
    assert second_faults(keeps=False) > 100
    assert second_faults(keeps=True) < 10


@glibc
def test_the_environment_has_precedence() -> None:
    assert second_faults(keeps=True, expected=False, MALLOC_TRIM_THRESHOLD_="131072") > 100


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_reuse.platform, "libc_ver", lambda: ("", ""))
    assert memory_reuse.reuse_freed_memory() is False
