"""How memory is allocated; tried in fresh processes, as the setting holds for a whole process."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from medldm.runtime import allocation

TRY = """
import importlib.util, os, resource, sys
import torch
spec = importlib.util.spec_from_file_location("allocation", {path!r})
allocation = importlib.util.module_from_spec(spec)
spec.loader.exec_module(allocation)

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

def use():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**26, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

{before}
found = {call}
faults, before = min(use() for _ in range(40)), resident()
x = torch.ones(2**26, dtype=torch.uint8)
del x
print(found, faults, resident() - before < 2**24, "THP_MEM_ALLOC_ENABLE" in os.environ, sep=",")
"""
TUNE = "allocation.tune_allocation()"
NO_HUGE_PAGES = "allocation.HUGE_PAGES = allocation.Path('/nowhere')"

has_huge_pages = allocation.HUGE_PAGES.exists() and "[never]" not in allocation.HUGE_PAGES.read_text()
huge_pages = pytest.mark.skipif(not has_huge_pages, reason="the system has no transparent huge pages")
glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator is set")


def try_out(*, call: str = TUNE, before: str = "", **environment: str) -> tuple[str, int, bool]:
    """Return what was found, the fewest faults of a map of 64 MB, and whether a freed map is given back.

    glibc finds a kept block only after some uses, as small blocks come to lie between.
    """
    code = TRY.format(path=allocation.__file__, call=call, before=before)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    output = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, env=clean | environment
    )
    found, faults, is_returned, is_inherited = output.stdout.strip().split(",")
    assert is_inherited == str("THP_MEM_ALLOC_ENABLE" in environment)
    return found, int(faults), is_returned == "True"


@glibc
@huge_pages
def test_huge_pages_take_few_faults_and_freed_maps_go_back() -> None:
    assert try_out(call="'plain'")[1] > 10_000
    found, faults, is_returned = try_out()
    assert (found, is_returned) == ("huge pages", True)
    assert faults < 2_000


@glibc
@pytest.mark.parametrize("before", [NO_HUGE_PAGES, "torch.zeros(1)"], ids=["system without", "too late"])
def test_freed_memory_is_kept_where_there_are_no_huge_pages(before: str) -> None:
    found, faults, _ = try_out(before=before)
    assert found == "kept"
    assert faults < 2_000


@glibc
@pytest.mark.parametrize(
    "setting", [{"MALLOC_TRIM_THRESHOLD_": "131072"}, {"THP_MEM_ALLOC_ENABLE": "0"}], ids=str
)
def test_the_environment_has_precedence(setting: dict[str, str]) -> None:
    found, faults, _ = try_out(**setting)
    assert found == "untouched"
    assert faults > 10_000


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocation.platform, "libc_ver", lambda: ("", ""))
    assert allocation.tune_allocation() == "untouched"


def test_a_system_that_says_never_has_no_huge_pages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(allocation, "HUGE_PAGES", tmp_path / "enabled")
    (tmp_path / "enabled").write_text("always madvise [never]\n")
    assert not allocation._take_huge_pages()
