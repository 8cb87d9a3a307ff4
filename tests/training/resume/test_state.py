"""State folders: exact, verified, never without a state that can be read, whatever happens while saving."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import resource
import shutil
import time
from collections import namedtuple
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from medldm.errors import CheckpointError
from medldm.training.resume import state_files, state_folders
from medldm.training.resume.state_files import FORMAT, FormatError, StateError, read_folder
from medldm.training.resume.state_folders import StateFolders
from medldm.training.resume.state_tree import flatten_state, unflatten_state

NESTED = {
    "none": None,
    "numbers": [True, 3, -0.1, 1e-320, float("inf"), 2**80],
    "pair": (1, ("a", [])),
    "by_number": {0: {"step": torch.tensor(3.0)}, 1: {"step": torch.zeros(())}},
    "tensors": [torch.randn(2, 3).half(), torch.arange(4)[::2], torch.zeros(0), torch.tensor([True])],
}


def parts(step: int) -> dict:
    values = torch.full((100,), float(step))
    return {"network": {"weight": values}, "optimiser": {0: {"avg": values.clone()}, "step": step}}


def same(one, other) -> bool:
    tensors, plain = flatten_state(one)
    others, plain_other = flatten_state(other)
    return plain == plain_other and all(torch.equal(tensors[name], others[name]) for name in tensors)


def test_nested_state_comes_back_to_the_bit_through_json() -> None:
    tensors, plain = flatten_state(NESTED)
    back = unflatten_state(tensors, json.loads(json.dumps(plain, allow_nan=False)))
    assert same(back, NESTED)
    assert isinstance(back["pair"], tuple)
    assert list(back["by_number"]) == [0, 1]
    assert [value.dtype for value in back["tensors"]] == [value.dtype for value in NESTED["tensors"]]


def test_what_cannot_be_kept_is_refused_by_its_place() -> None:
    with pytest.raises(TypeError, match=r"'\.a\.1' is a set"):
        flatten_state({"a": [1, {2}]})


def test_saved_tensors_do_not_follow_the_training() -> None:
    weight = torch.zeros(2)
    tensors, _ = flatten_state({"w": weight})
    weight.fill_(1)
    assert tensors[".w"].sum() == 0


def test_the_newest_state_comes_back_and_older_ones_go(tmp_path) -> None:
    folders = StateFolders(tmp_path)
    assert folders.load_newest() is None
    for step in (0, 7, 123456789):
        folders.save(parts(step), step=step)
    assert list(folders.steps()) == [123456789, 7]
    saved = folders.load_newest()
    assert saved.step == 123456789
    assert same(saved.parts, parts(123456789))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_00000007", "step_123456789"]
    assert sorted(path.name for path in saved.path.iterdir()) == [
        "manifest.json",
        "network.safetensors",
        "optimiser.safetensors",
        "state.json",
    ]


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "truncated": lambda path: os.truncate(path, path.stat().st_size // 2),
    "emptied": lambda path: os.truncate(path, 0),
    "flipped": flip,
    "gone": lambda path: path.unlink(),
}


@pytest.mark.parametrize("name", ["manifest.json", "state.json", "network.safetensors"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_state_is_set_aside_and_the_one_before_is_taken(tmp_path, caplog, damage, name) -> None:
    folders = StateFolders(tmp_path)
    for step in (1, 2):
        folders.save(parts(step), step=step)
    DAMAGE[damage](tmp_path / "step_00000002" / name)
    saved = folders.load_newest()
    assert saved.step == 1
    assert same(saved.parts, parts(1))
    assert "step_00000002 was set aside" in caplog.text
    assert (tmp_path / "damaged_step_00000002").is_dir()
    folders.save(parts(2), step=2)
    assert folders.load_newest().step == 2


def test_every_flipped_byte_of_a_manifest_is_noticed(tmp_path) -> None:
    path = StateFolders(tmp_path).save({"a": 1}, step=1) / "manifest.json"
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        content = bytearray(whole)
        content[place] ^= 4
        path.write_bytes(content)
        with pytest.raises(CheckpointError):
            read_folder(path.parent)


def test_surplus_and_linked_files_are_refused(tmp_path) -> None:
    path = StateFolders(tmp_path).save(parts(1), step=1)
    (path / "evil.pt").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"beyond its manifest, the files \['evil.pt'\]"):
        read_folder(path)
    (path / "evil.pt").unlink()
    shutil.move(path / "state.json", tmp_path / "elsewhere")
    (path / "state.json").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match=r"\['state.json'\]"):
        read_folder(path)


def test_a_name_that_leaves_the_folder_is_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match="use a to z"):
        StateFolders(tmp_path).save({"../x": {"w": torch.zeros(1)}}, step=1)


def test_states_that_are_all_damaged_are_not_taken_for_none(tmp_path) -> None:
    folders = StateFolders(tmp_path)
    flip(folders.save(parts(1), step=1) / "state.json")
    with pytest.raises(StateError, match=r"every training state .* is damaged"):
        folders.load_newest()


def test_a_state_of_another_version_is_refused_by_name_and_left_as_it_is(tmp_path, monkeypatch) -> None:
    folders = StateFolders(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(state_files, "FORMAT", FORMAT - 1)
        folders.save(parts(1), step=1)
    with pytest.raises(FormatError, match=r"saved by another version .*format 2, .* resume: never"):
        folders.load_newest()
    assert list(folders.steps()) == [1]


def test_one_state_alone_is_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match="at least 2"):
        StateFolders(tmp_path, keep=1)


def test_states_are_moved_out_of_the_way(tmp_path) -> None:
    folders = StateFolders(tmp_path / "diffusion")
    assert folders.retire() is None
    for _ in range(2):
        folders.save(parts(1), step=1)
        folders.retire()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["diffusion.before_1", "diffusion.before_2"]


class Killed(BaseException):
    """Stands for a kill at a call to the system."""


CALLS = [(os, "fsync"), (Path, "rename"), (Path, "replace"), (Path, "mkdir"), (shutil, "rmtree")]


def count_calls(monkeypatch, error: BaseException | None, dies_at: int) -> list[str]:
    """Let the n-th call to the system raise, before or after (odd n) it has done its work."""
    made: list[str] = []

    def watch(owner, name):
        real = (lambda _: None) if name == "fsync" else getattr(owner, name)

        def call(*args, **kwargs):
            made.append(name)
            here = 2 * len(made)
            if error is not None and here == dies_at:
                raise error
            result = real(*args, **kwargs)
            if error is not None and here + 1 == dies_at:
                raise error
            return result

        monkeypatch.setattr(owner, name, call)

    for owner, name in CALLS:
        watch(owner, name)
    return made


@pytest.mark.parametrize("error", [Killed(), OSError(28, "No space left on device")], ids=["kill", "error"])
def test_a_death_at_any_call_to_the_system_leaves_a_state(tmp_path, monkeypatch, error) -> None:
    with pytest.MonkeyPatch.context() as patch:
        calls = count_calls(patch, None, 0)
        folders = StateFolders(tmp_path / "count")
        for step in (1, 2, 3):
            del calls[:]
            folders.save(parts(step), step=step)
    n_calls = len(calls)
    assert n_calls >= 8
    for step in (1, 2):
        StateFolders(tmp_path / "before").save(parts(step), step=step)
    found = []
    for dies_at in range(2, 2 * n_calls + 2):
        folder = tmp_path / str(dies_at)
        shutil.copytree(tmp_path / "before", folder)
        with pytest.MonkeyPatch.context() as patch:
            count_calls(patch, error, dies_at)
            with suppress(Killed, StateError, OSError):
                StateFolders(folder).save(parts(3), step=3)
        saved = StateFolders(folder).load_newest()
        found.append(saved.step)
        assert same(saved.parts, parts(saved.step))
        monkeypatch.setattr(os, "fsync", lambda _: None)
        StateFolders(folder).save(parts(4), step=4)
        assert next(iter(StateFolders(folder).steps())) == 4
        assert not [path for path in folder.iterdir() if path.name.startswith((".writing", ".old"))]
    assert found == sorted(found)
    assert {2, 3} == set(found)


def test_a_full_disk_is_named_before_anything_is_written(tmp_path, monkeypatch) -> None:
    folders = StateFolders(tmp_path)
    folders.save(parts(1), step=1)
    usage = namedtuple("usage", "total used free")(10, 9, 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(
        StateError, match=r"step 2 could not be saved .* has 0.0 MB free; 1\.\d MB are needed"
    ):
        folders.save(parts(2), step=2)
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000001"]


def test_a_disk_that_fills_while_writing_is_named(tmp_path) -> None:
    """The system refuses to let a file grow."""
    StateFolders(tmp_path).save(parts(1), step=1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(StateError, match=r"step 2 could not be saved to .* \(File too large\)"):
            StateFolders(tmp_path).save({"network": {"w": torch.zeros(10000)}}, step=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert StateFolders(tmp_path).load_newest().step == 1
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000001"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match=r"Not a directory|File exists"):
        StateFolders(tmp_path / "file" / "state").save(parts(1), step=1)


def test_a_folder_that_has_become_read_only_is_named_and_its_states_stay(tmp_path, monkeypatch) -> None:
    """Stands for the mount option, since the superuser may write whatever the mode of a folder."""
    folders = StateFolders(tmp_path)
    folders.save(parts(1), step=1)

    def refuse(*args, **kwargs) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(StateError, match=r"step 2 could not be saved to .* Read-only file system.*untouched"):
        folders.save(parts(2), step=2)
    assert same(folders.load_newest().parts, parts(1))


def test_a_state_that_reads_back_otherwise_is_not_trusted(tmp_path, monkeypatch) -> None:
    """The disk keeps other bytes than were written: the older states must not be removed."""
    folders = StateFolders(tmp_path)
    for step in (1, 2):
        folders.save(parts(step), step=step)
    verify = state_folders.verify_folder

    def damage_and_verify(path: Path) -> None:
        flip(path / "network.safetensors")
        verify(path)

    monkeypatch.setattr(state_folders, "verify_folder", damage_and_verify)
    with pytest.raises(StateError, match="does not have the hash"):
        folders.save(parts(3), step=3)
    assert list(folders.steps()) == [2, 1]


def write_states(folder: Path) -> None:
    """Go on from the newest state, and write the next ones until killed."""
    folders = StateFolders(folder)
    saved = folders.load_newest()
    step = saved.step if saved else 0
    while True:
        step += 1
        values = torch.full((200_000,), float(step))
        parts = {"network": {"weight": values}, "optimiser": {0: {"avg": values.clone()}, "step": step}}
        folders.save(parts, step=step)


def test_a_process_killed_at_random_moments_always_leaves_a_state(tmp_path) -> None:
    draw, last = random.Random(0), 0
    for attempt in range(25):
        writer = multiprocessing.get_context("fork").Process(target=write_states, args=(tmp_path,))
        writer.start()
        # Until a first state fits in, on a busy machine, the moments come later and later.
        time.sleep(draw.uniform(0, 0.1) * (1 if last else 1 + attempt))
        writer.kill()
        writer.join()
        saved = StateFolders(tmp_path).load_newest()
        if saved is None:
            continue
        assert saved.step >= last
        assert (saved.parts["network"]["weight"] == saved.step).all()
        assert (saved.parts["optimiser"][0]["avg"] == saved.step).all()
        last = saved.step
    assert last > 0
    assert not list(tmp_path.glob("damaged*"))
    # What kills before the pruning left over goes with the next save that is whole.
    folders = StateFolders(tmp_path)
    folders.save(parts(last + 100), step=last + 100)
    assert len(folders.steps()) == 2
