"""Limits of a computer: memory, disk and permissions end in what to do; other errors pass as they are."""

from __future__ import annotations

import errno
import re

import pytest
import torch

from medldm.errors import ConfigError, StorageError
from medldm.runtime.endings import NotEnoughMemoryError, name_limit, report_error


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
    named = name_limit(error)
    assert type(named) is kind
    assert re.search(message, str(named))


def test_memory_of_the_cpu_is_a_limit_too() -> None:
    with pytest.raises(RuntimeError) as found:
        torch.empty(2**60)
    assert type(name_limit(found.value)) is NotEnoughMemoryError


def test_a_limit_ends_a_command_in_one_line(capsys) -> None:
    assert report_error(PermissionError(errno.EACCES, "Permission denied", "/out")) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: the system forbids it ([Errno 13] Permission denied: '/out')")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "error", [RuntimeError("shapes differ"), OSError(errno.ENOENT, "none"), ConfigError("a setting")]
)
def test_other_errors_are_what_they_are(error) -> None:
    assert name_limit(error) is error
