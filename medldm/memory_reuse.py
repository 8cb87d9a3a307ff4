"""Keep freed memory in the process, so that new feature maps take the place of old ones.

glibc gives each freed block of 32 MB and more back to the system. The next map then comes as untouched pages,
which the kernel clears one by one when they are first written: that takes as long as a normalisation, and
many times as long on virtual machines. Kept blocks cost nothing but that the process stays as large as its
peak. Networks give the same results to the bit.

Source: mallopt(3), M_MMAP_THRESHOLD and M_TRIM_THRESHOLD.
"""

from __future__ import annotations

import ctypes
import logging
import os
import platform

logger = logging.getLogger(__name__)

LARGEST_KEPT = 2**30
"""Bytes; larger blocks still come from the system and go back to it, as gaps of their size are too costly."""

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_NEVER = -1
_SETTINGS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_", "GLIBC_TUNABLES")


def reuse_freed_memory() -> bool:
    """Let this process keep what it frees; the bundles' workflows and the command line call it.

    It acts on glibc only (most Linux systems). What the environment says about glibc's allocator
    (`MALLOC_TRIM_THRESHOLD_`, `MALLOC_MMAP_THRESHOLD_`, `MALLOC_MMAP_MAX_`, `GLIBC_TUNABLES`) has precedence.

    Returns:
        Whether freed memory is kept from now on.

    Example:
        >>> reuse_freed_memory() in (True, False)
        True
    """
    stated = [name for name in _SETTINGS if name in os.environ]
    if stated:
        logger.info("the allocator stays as %s in the environment says", " and ".join(stated))
        return False
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_M_MMAP_THRESHOLD, LARGEST_KEPT)) and bool(mallopt(_M_TRIM_THRESHOLD, _NEVER))
