"""Files are written whole or not at all, whatever happens meanwhile."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from medldm import files
from medldm.errors import MedldmError, StorageError
from medldm.files import (
    atomic_file,
    atomic_folder,
    hash_array,
    hash_file,
    remove_leftovers,
    replaced_folder,
    write_atomically,
)

OLD, NEW = b"the old content", b"the new content, which is longer"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    path = tmp_path / "folder" / "case.nii.gz"
    write_atomically(path, OLD)
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_written_and_replaced_in_a_folder_that_is_made(old: Path) -> None:
    assert old.read_bytes() == OLD
    write_atomically(old, NEW)
    assert old.read_bytes() == NEW
    assert names(old.parent) == ["case.nii.gz"]


def test_the_temporary_file_lies_beside_with_the_same_suffixes_and_the_old_one_stays_until_the_end(
    old: Path,
) -> None:
    with atomic_file(old) as temporary:
        assert temporary.parent == old.parent
        assert temporary.name.startswith(".writing-") and temporary.name.endswith(".nii.gz")
        temporary.write_bytes(NEW)
        assert old.read_bytes() == OLD
    assert old.read_bytes() == NEW


def test_a_name_as_long_as_file_systems_allow_is_written(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 251 + ".bin")
    write_atomically(path, NEW)
    assert path.read_bytes() == NEW


def test_the_content_is_on_disk_before_its_name(old: Path, monkeypatch) -> None:
    steps: list[str] = []
    flush, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda handle: steps.append("flush") or flush(handle))
    monkeypatch.setattr(Path, "replace", lambda own, to: steps.append("rename") or replace(own, to))
    write_atomically(old, NEW)
    assert steps == ["flush", "rename", "flush"]


@pytest.mark.parametrize("error", [ValueError("in the middle"), KeyboardInterrupt()])
def test_an_error_in_the_middle_leaves_the_old_file_alone_and_is_not_renamed(
    old: Path, error: BaseException
) -> None:
    with pytest.raises(type(error)) as caught, atomic_file(old) as temporary:
        temporary.write_bytes(NEW[:5])
        raise error
    assert caught.value is error
    assert old.read_bytes() == OLD
    assert names(old.parent) == ["case.nii.gz"]


def test_a_kill_in_the_middle_leaves_the_old_file_and_a_leftover_that_can_be_removed(old: Path) -> None:
    program = (
        "import os, signal, sys\nfrom medldm.files import atomic_file\n"
        "with atomic_file(sys.argv[1]) as temporary:\n"
        "    temporary.write_bytes(b'half')\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ended = subprocess.run([sys.executable, "-c", program, str(old)], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert old.read_bytes() == OLD
    assert len(names(old.parent)) == 2
    remove_leftovers(old.parent)
    assert names(old.parent) == ["case.nii.gz"]


def test_a_full_disk_is_refused_before_writing(old: Path, monkeypatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=100))
    with pytest.raises(StorageError, match=r"0\.0 MB free; 1\.0 MB are needed: free some space"):
        write_atomically(old, NEW)
    assert old.read_bytes() == OLD
    assert names(old.parent) == ["case.nii.gz"]


def test_a_disk_that_fills_up_in_the_middle_is_an_error_that_a_user_can_mend(old: Path) -> None:
    message = r"case\.nii\.gz cannot be written \(No space left"
    with pytest.raises(StorageError, match=message) as caught, atomic_file(old) as temporary:
        temporary.write_bytes(NEW[:5])
        raise OSError(28, "No space left on device")
    assert isinstance(caught.value, MedldmError)
    assert isinstance(caught.value.__cause__, OSError)
    assert old.read_bytes() == OLD
    assert names(old.parent) == ["case.nii.gz"]


def test_a_folder_that_is_a_file_or_may_not_be_written_is_named(old: Path, monkeypatch) -> None:
    with pytest.raises(StorageError, match="File exists"):
        write_atomically(old / "below.json", NEW)

    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(files.os, "open", refuse)
    with pytest.raises(StorageError, match=r"Permission denied\): check the folder's permissions"):
        write_atomically(old, NEW)
    assert old.read_bytes() == OLD


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_a_file_has_the_permissions_of_the_umask(tmp_path: Path, mask: int, mode: int) -> None:
    before = os.umask(mask)
    try:
        write_atomically(tmp_path / "new.json", NEW)
    finally:
        os.umask(before)
    assert (tmp_path / "new.json").stat().st_mode & 0o777 == mode


def test_the_hash_is_that_of_the_bytes_over_block_borders(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert hash_file(path) == known  # FIPS 180-4, example of one block
    monkeypatch.setattr(files, "_BLOCK_BYTES", 2)
    assert hash_file(path) == known


def test_the_hash_of_an_array_tells_type_shape_and_values_and_not_the_layout() -> None:
    array = np.arange(6, dtype=np.int16).reshape(2, 3)
    same = (array.copy(), np.asfortranarray(array), np.repeat(array, 2, axis=1)[:, ::2])
    others = (array.astype(np.int32), array.reshape(3, 2), array + np.int16(1))
    assert {hash_array(each) for each in same} == {hash_array(array)}
    assert len({hash_array(each) for each in (array, *others)}) == 4
    assert hash_array(np.array(True)) != hash_array(np.array(False))
    assert hash_array(np.zeros((0, 3))) != hash_array(np.zeros((3, 0)))


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "made" / "state") as temporary:
        (temporary / "part").write_text("all of it")
        assert not (tmp_path / "made" / "state").exists()
    assert (tmp_path / "made" / "state" / "part").read_text() == "all of it"
    with (
        pytest.raises(ValueError, match="in the middle"),
        atomic_folder(tmp_path / "made" / "other") as temporary,
    ):
        (temporary / "part").write_text("half")
        raise ValueError("in the middle")
    assert names(tmp_path / "made") == ["state"]
    with pytest.raises(StorageError, match="cannot be written"), atomic_folder(tmp_path / "made" / "state"):
        pass


def test_a_folder_that_a_kill_left_behind_is_removed(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), atomic_folder(tmp_path / "state") as temporary:
        shutil.copytree(temporary, tmp_path / "kept")
        raise KeyboardInterrupt
    (tmp_path / "kept").rename(temporary)
    remove_leftovers(tmp_path)
    assert names(tmp_path) == []


@pytest.mark.parametrize("dies_at", [1, 2])
def test_a_folder_that_is_replaced_survives_a_kill_between_the_renames(tmp_path: Path, dies_at: int) -> None:
    """After the kill the old content, or the new one, comes back with the next replacement."""
    path, rename, calls = tmp_path / "export", Path.rename, []
    path.mkdir()
    (path / "old").touch()

    def die(own: Path, to: Path) -> Path:
        calls.append(own)
        if len(calls) >= dies_at:
            os._exit(9)
        return rename(own, to)

    child = os.fork()
    if child == 0:
        Path.rename = die  # type: ignore[method-assign,assignment]
        with replaced_folder(path) as temporary:
            (temporary / "new").touch()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    remove_leftovers(tmp_path)
    assert names(tmp_path) == [["export"], [".replaced-export"]][dies_at - 1]
    with pytest.raises(KeyError), replaced_folder(path):
        assert names(path) == ["old"]
        raise KeyError
    assert names(path) == ["old"]
    with replaced_folder(path) as temporary:
        (temporary / "new").touch()
    assert names(path) == ["new"] and names(tmp_path) == ["export"]
