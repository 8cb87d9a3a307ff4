"""Limits of a computer: memory, disk and permissions end in what to do; other errors pass as they are."""

from __future__ import annotations

import errno

import pytest
import torch

from medldm.errors import ConfigError, StorageError
from medldm.runtime.limits import NotEnoughMemoryError, limits_named


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried 2 GiB"),
            NotEnoughMemoryError,
            "smaller batch_size",
        ),
        (MemoryError(), NotEnoughMemoryError, "no memory is left"),
        (
            OSError(errno.ENOSPC, "No space left on device", "/out/a"),
            StorageError,
            "the disk is full .*/out/a",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "/out"),
            StorageError,
            "the system forbids it .*/out",
        ),
    ],
)
def test_a_limit_says_what_to_do(error, kind, message) -> None:
    with pytest.raises(kind, match=message) as found, limits_named():
        raise error
    assert found.value.__cause__ is error


def test_memory_of_the_cpu_is_a_limit_too() -> None:
    with pytest.raises(NotEnoughMemoryError, match="DefaultCPUAllocator"), limits_named():
        torch.empty(2**60)


@pytest.mark.parametrize(
    "error", [RuntimeError("shapes differ"), OSError(errno.ENOENT, "none"), ConfigError("a setting")]
)
def test_other_errors_pass(error) -> None:
    with pytest.raises(type(error)) as found, limits_named():
        raise error
    assert found.value is error
