"""The faults that other tests rely on happen, once each, and only where they are asked for."""

from __future__ import annotations

import errno
import time
from pathlib import Path

import numpy as np
import pytest

from medldm.errors import StorageError
from medldm.files import atomic_folder, hash_file, replaced_folder, write_atomically
from tests.faults import Fault, faults, full_disk


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("call", ["make", "flush", "rename"])
@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.ENOSPC])
def test_whatever_fails_in_writing_a_file_or_folder_leaves_the_old_one(tmp_path, call, number) -> None:
    write_atomically(tmp_path / "a" / "old.bin", b"old")
    with faults(Fault(call, "*", error=number)):
        with pytest.raises(StorageError, match=r"old\.bin cannot be written"):
            write_atomically(tmp_path / "a" / "old.bin", b"new")
        with pytest.raises(StorageError, match="cannot be written"), atomic_folder(tmp_path / "b"):
            pass
        with pytest.raises(StorageError, match="cannot be written"), replaced_folder(tmp_path / "a"):
            pass
    assert (tmp_path / "a" / "old.bin").read_bytes() == b"old"
    assert names(tmp_path) == ["a"] and names(tmp_path / "a") == ["old.bin"]


def test_reads_writes_and_lists_fail_where_they_are_asked_to_and_nowhere_else(tmp_path) -> None:
    path, other = tmp_path / "a.bin", tmp_path / "b.bin"
    np.save(tmp_path / "c.npy", np.ones(3))
    for each in (path, other):
        each.write_bytes(b"abc")
    read = Fault("read", "*/a.bin", after=1, times=1)
    with faults(read, Fault("write", "*/a.bin"), Fault("list", str(tmp_path), error=errno.EACCES)):
        assert path.read_bytes() == b"abc"
        with pytest.raises(OSError, match="Input/output error"):
            hash_file(path)
        assert hash_file(path) == hash_file(other)
        with pytest.raises(OSError, match="Input/output error"):
            path.write_bytes(b"x")
        with pytest.raises(PermissionError):
            list(tmp_path.iterdir())
        assert np.load(tmp_path / "c.npy").sum() == 3
    assert read.n_hit == 1
    assert names(tmp_path) == ["a.bin", "b.bin", "c.npy"]


def test_slow_files_and_full_disks(tmp_path) -> None:
    (tmp_path / "a.bin").write_bytes(b"abc")
    started = time.monotonic()
    with faults(Fault("read", "*/a.bin", error=None, delay_s=0.05)):
        assert (tmp_path / "a.bin").read_bytes() == b"abc"
    assert time.monotonic() - started >= 0.05
    with full_disk(100), pytest.raises(StorageError, match=r"0\.0 MB free"):
        write_atomically(tmp_path / "a.bin", b"new")
