"""One run for an output folder: the second is refused by name, and a dead one is in nobody's way."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import threading
import time
from pathlib import Path

import pytest

from medldm.errors import StorageError
from medldm.files import atomic_file
from medldm.runtime import lock_file
from medldm.runtime.lock_file import LOCK, FolderInUseError
from medldm.runtime.output_lock import hold_output, locked_output, release_holds
from tests.runtime.holders import FORK, another


@pytest.fixture(autouse=True)
def impatient(monkeypatch) -> None:
    monkeypatch.setattr(lock_file, "_PATIENCE_S", 0.2)
    monkeypatch.setattr(lock_file, "_warned", set())


def test_the_second_is_told_who_is_the_first_and_since_when(tmp_path) -> None:
    with another(tmp_path) as number:
        expected = rf"in use: a run \(training, process {number} on \S+, since \d{{4}}-\d\d-\d\d [\d:]+ UTC\)"
        with pytest.raises(FolderInUseError, match=expected), locked_output(tmp_path, work="prepare"):
            pass
        with pytest.raises(FolderInUseError, match="another output folder"):
            hold_output(tmp_path, work="training")


def test_a_link_to_the_folder_and_another_spelling_lead_to_the_same_lock(tmp_path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "out", target_is_directory=True)
    with another(tmp_path / "out"):
        for folder in (tmp_path / "link", tmp_path / "out" / ".." / "out"):
            with pytest.raises(FolderInUseError), locked_output(folder, work="training"):
                pass
        with locked_output(tmp_path / "out" / "synthetic", work="generation"):
            pass


def test_a_killed_holder_is_in_nobodys_way_and_what_it_left_is_removed(tmp_path, caplog) -> None:
    begun = []

    def begin_to_write() -> None:
        for name in ("weights.safetensors", "state/diffusion/part.bin", "latents/training/case.safetensors"):
            begun.append(atomic_file(tmp_path / name))
            begun[-1].__enter__()

    with another(tmp_path, begin_to_write):
        pass
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / ".writing-0123456789abcdef").touch()
    (tmp_path / ".writing-notes").mkdir()
    (tmp_path / "state" / ".writing-my-notes.txt").touch()
    assert len(list(tmp_path.rglob(".writing-*"))) == 6 and (tmp_path / LOCK).exists()
    with caplog.at_level("INFO"), locked_output(tmp_path, work="training"):
        left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob(".writing-*")}
    assert left == {".writing-notes", "notes/.writing-0123456789abcdef", "state/.writing-my-notes.txt"}
    assert "did not end in order" in caplog.text
    assert not (tmp_path / LOCK).exists()


def test_a_worker_that_outlives_its_killed_parent_does_not_hold_the_lock(tmp_path) -> None:
    """Such as those of a data loader: a lock that they inherit would block the training that goes on."""

    def leave_a_child() -> None:
        if (child := os.fork()) == 0:
            time.sleep(20)
            os._exit(0)
        (tmp_path / "child").write_text(str(child))

    with another(tmp_path, leave_a_child):
        pass
    child = int((tmp_path / "child").read_text())
    try:
        with locked_output(tmp_path, work="training"):
            pass
    finally:
        os.kill(child, signal.SIGKILL)


def test_who_waits_for_a_holder_that_is_about_to_end_gets_the_folder(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(lock_file, "_PATIENCE_S", 20.0)
    with another(tmp_path) as number:
        threading.Timer(0.3, os.kill, (number, signal.SIGKILL)).start()
        with locked_output(tmp_path, work="training"):
            assert json.loads((tmp_path / LOCK).read_text())["process"] == os.getpid()


def test_one_thread_may_nest_and_another_may_not(tmp_path) -> None:
    refused: list[str] = []

    def try_it() -> None:
        try:
            with locked_output(tmp_path, work="training"):
                pass
        except FolderInUseError as error:
            refused.append(str(error))

    with locked_output(tmp_path, work="training"):
        with locked_output(tmp_path, work="training"):
            pass
        assert (tmp_path / LOCK).exists()
        thread = threading.Thread(target=try_it)
        thread.start()
        thread.join()
        assert (tmp_path / LOCK).exists()
    assert re.search("this process", refused[0])
    assert not (tmp_path / LOCK).exists()


def test_a_hold_lasts_until_its_first_use_ends_or_it_is_let_go_of(tmp_path) -> None:
    hold_output(tmp_path / "used", work="training")
    hold_output(tmp_path / "unused", work="training")
    with locked_output(tmp_path / "used", work="training"):
        release_holds()
        assert (tmp_path / "used" / LOCK).exists()
    assert not list(tmp_path.rglob(LOCK))


def test_an_error_inside_frees_the_folder(tmp_path) -> None:
    with pytest.raises(KeyError), locked_output(tmp_path, work="training"):
        raise KeyError
    assert not (tmp_path / LOCK).exists()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL])
def test_a_file_system_without_locks_is_named_once_and_used(tmp_path, monkeypatch, caplog, number) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(lock_file.fcntl, "flock", refuse)
    (tmp_path / ".writing-0123456789abcdef").touch()
    for _ in range(3):
        with locked_output(tmp_path, work="training"), locked_output(tmp_path, work="training"):
            pass
    assert caplog.text.count("has no locks") == 1
    assert (tmp_path / ".writing-0123456789abcdef").exists(), "another run may be writing it"


def plant(folder: Path, kind: str) -> Path:
    victim = folder / "victim"
    victim.write_text("mine")
    lock = folder / "out" / LOCK
    lock.parent.mkdir()
    if kind == "link":
        lock.symlink_to(victim)
    elif kind == "hard link":
        os.link(victim, lock)
    elif kind == "dangling link":
        lock.symlink_to(folder / "made")
    elif kind == "folder":
        lock.mkdir()
    elif kind == "pipe":
        os.mkfifo(lock)
    else:
        lock.write_text("a text of mine")
    return victim


@pytest.mark.parametrize("kind", ["link", "hard link", "dangling link", "folder", "pipe", "text"])
def test_what_is_planted_in_the_locks_place_is_refused_and_not_written_to(tmp_path, kind) -> None:
    victim = plant(tmp_path, kind)
    with (
        pytest.raises(StorageError, match="not a lock that medldm made"),
        locked_output(tmp_path / "out", work="training"),
    ):
        pass
    assert victim.read_text() == "mine"
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("content", [b"", b"\0" * 90, b'{"is": "medldm lock", "process": "\\u001b[2J\\n1"'])
def test_what_a_power_cut_leaves_of_a_lock_is_taken_over(tmp_path, content) -> None:
    (tmp_path / LOCK).write_bytes(content)
    with locked_output(tmp_path, work="training"):
        assert json.loads((tmp_path / LOCK).read_text())["work"] == "training"


def test_a_holder_that_another_wrote_does_not_speak_to_the_terminal(tmp_path) -> None:
    def forge() -> None:
        holder = {"is": "medldm lock", "work": "\x1b[2J\nok", "process": 1, "host": "h" * 999, "since": {}}
        (tmp_path / LOCK).write_text(json.dumps(holder))

    with (
        another(tmp_path, forge),
        pytest.raises(FolderInUseError) as caught,
        locked_output(tmp_path, work="training"),
    ):
        pass
    assert str(caught.value).isprintable() and len(str(caught.value)) < 700


def test_a_folder_that_may_not_be_written_is_named(tmp_path, monkeypatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(lock_file.os, "open", refuse)
    with (
        pytest.raises(StorageError, match=r"cannot be written \(Read-only file system\)"),
        locked_output(tmp_path, work="training"),
    ):
        pass


def test_many_that_want_one_folder_never_hold_it_together(tmp_path) -> None:
    """Each takes the lock file away when it ends, while others open it."""
    record = tmp_path / "record"

    def work() -> None:
        lock_file._PATIENCE_S = 60.0
        for _ in range(5):
            with locked_output(tmp_path / "out", work="generation"):
                for word in ("in", "out"):
                    with record.open("a") as file:
                        file.write(f"{os.getpid()} {word}\n")
                    time.sleep(0.002)

    others = [FORK.Process(target=work) for _ in range(4)]
    for other in others:
        other.start()
    for other in others:
        other.join()
    assert [other.exitcode for other in others] == [0] * 4
    lines = record.read_text().splitlines()
    assert len(lines) == 40
    for one, next_one in zip(lines[::2], lines[1::2], strict=True):
        assert one.split() == [next_one.split()[0], "in"]
