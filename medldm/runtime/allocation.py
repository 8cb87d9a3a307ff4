"""Make fresh memory cheap, so that feature maps do not cost more to allocate than to compute.

glibc gives each freed block of 32 MB and more back to the system. The next map then comes as untouched pages
of 4 KB, which the kernel clears one by one when they are first written: that takes as long as a
normalisation, and many times as long on some virtual machines. Two ways out, neither of which changes a
result:

- Huge pages. PyTorch asks for pages of 2 MB, 512 times fewer, and freed maps still go back to the system, so
  that a process is as large as its tensors. Blocks of 8 MB and more come straight from the system.
- Where the system has none, freed memory is kept in the process. That is as fast or faster, but gaps between
  maps of different sizes stay with it: a training step of an autoencoder took 40 to 70 % more memory so.

Source: mallopt(3), M_MMAP_THRESHOLD and M_TRIM_THRESHOLD; madvise(2), MADV_HUGEPAGE; Linux,
Documentation/admin-guide/mm/transhuge.rst; THP_MEM_ALLOC_ENABLE in PyTorch's CPU allocator.
"""

from __future__ import annotations

import ctypes
import logging
import mmap
import os
import platform
from pathlib import Path
from typing import Literal

import torch

logger = logging.getLogger(__name__)

SMALLEST_RETURNED = 2**23
"""Bytes; with huge pages, blocks of this size and more come from the system and go back to it."""

LARGEST_FREE_END = 2 * SMALLEST_RETURNED
"""Bytes; with huge pages, so much free memory may stay at the heap's end. glibc takes as much if it moves the
other threshold by itself; where that one is set, it takes 128 KB, and a loop may fetch its maps anew."""

LARGEST_KEPT = 2**30
"""Bytes; without, larger blocks come from the system and go back, as gaps of their size are too costly."""

HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_SWITCH = "THP_MEM_ALLOC_ENABLE"
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_SETTINGS = (
    "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_", "GLIBC_TUNABLES", _SWITCH,
)  # fmt: skip


def tune_allocation() -> Literal["huge pages", "kept", "untouched"]:
    """Make this process allocate as the module says; the bundles' workflows and the command line call it.

    It acts on glibc only (most Linux systems), on huge pages only before the first tensor is made. What the
    environment says about the allocators (`MALLOC_TRIM_THRESHOLD_`, `MALLOC_MMAP_THRESHOLD_`,
    `MALLOC_MMAP_MAX_`, `GLIBC_TUNABLES`, `THP_MEM_ALLOC_ENABLE`) has precedence.

    Returns:
        Which of the two ways is taken from now on, or "untouched".

    Examples:
        >>> tune_allocation() in ("huge pages", "kept", "untouched")
        True
    """
    stated = [name for name in _SETTINGS if name in os.environ]
    if stated:
        logger.info("the allocator stays as %s in the environment says", " and ".join(stated))
        return "untouched"
    if platform.libc_ver()[0] != "glibc":
        return "untouched"
    mallopt = ctypes.CDLL(None).mallopt
    is_set = mallopt(_M_MMAP_THRESHOLD, SMALLEST_RETURNED) and mallopt(_M_TRIM_THRESHOLD, LARGEST_FREE_END)
    if is_set and _take_huge_pages():
        return "huge pages"
    is_kept = mallopt(_M_MMAP_THRESHOLD, LARGEST_KEPT) and mallopt(_M_TRIM_THRESHOLD, -1)
    return "kept" if is_kept else "untouched"


def _take_huge_pages() -> bool:
    """Switch PyTorch's huge pages on; whether it worked shows in where a tensor lies.

    With them PyTorch begins a tensor at a page, without them 64 bytes into one where glibc's own note about a
    block from the system stands first. The switch is read at the first allocation, and taken back so that no
    child process inherits it.
    """
    if not HUGE_PAGES.exists() or "[never]" in HUGE_PAGES.read_text(encoding="ascii"):
        return False
    os.environ[_SWITCH] = "1"
    probe = torch.empty(2 * SMALLEST_RETURNED, dtype=torch.uint8)
    del os.environ[_SWITCH]
    return probe.data_ptr() % mmap.PAGESIZE == 0
