"""No state of a training is lost by a mistake, and nothing that is no state is touched."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from medldm.training.resume import state_files
from medldm.training.resume.state_files import FORMAT, FormatError, StateError
from medldm.training.resume.state_folders import RECORD, StateFolders
from medldm.training.resume.state_handler import TrainingStateHandler
from tests.faults import Fault, faults


def save(folder: Path, *steps: int) -> None:
    for step in steps:
        StateFolders(folder).save({"network": {"w": torch.full((50,), float(step))}}, step=step)


def content(folder: Path) -> dict[str, Any]:
    """All that lies in a folder: names, and the bytes of files."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


SPOILT: dict[str, Callable[[Path], object]] = {
    "a byte less of each file": lambda state: [cut(file) for file in state.iterdir()],
    "a byte less of the weights": lambda state: cut(state / "network.safetensors"),
    "no manifest": lambda state: (state / "manifest.json").unlink(),
    "weights alone": lambda state: [(state / name).unlink() for name in ("manifest.json", "state.json")],
    "empty": lambda state: [file.unlink() for file in state.iterdir()],
}


@pytest.mark.parametrize("kind", SPOILT)
def test_while_all_states_are_damaged_no_run_begins_anew_and_all_stay(tmp_path, kind) -> None:
    save(tmp_path, 1, 2)
    for state in tmp_path.iterdir():
        SPOILT[kind](state)
    before = content(tmp_path)
    for _ in range(3):
        with pytest.raises(StateError, match=r"every training state .* is damaged .*resume: never"):
            StateFolders(tmp_path).load_newest()
        assert content(tmp_path) == before


def test_states_that_were_set_aside_earlier_are_not_taken_for_none(tmp_path) -> None:
    save(tmp_path, 1, 2)
    for state in list(tmp_path.iterdir()):
        cut(state / "state.json")
        state.rename(tmp_path / f"damaged_{state.name}")
    with pytest.raises(StateError, match=r"damaged_step_00000001: set aside earlier"):
        StateFolders(tmp_path).load_newest()
    place = StateFolders(tmp_path).retire()
    assert place is not None and len(list(place.iterdir())) == 2
    assert StateFolders(tmp_path).load_newest() is None


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.ESTALE, errno.EMFILE, errno.ENOMEM])
@pytest.mark.parametrize(
    ("call", "file"),
    [
        ("read", "*/manifest.json"),
        ("read", "*/state.json"),
        ("read", "*.safetensors"),
        ("open", "*.safetensors"),
        ("list", "*/step_00000002"),
        ("list", "*/states"),
    ],
)
def test_a_state_that_cannot_be_read_now_is_named_and_nothing_is_touched(
    tmp_path, call, file, number
) -> None:
    save(tmp_path / "states", 1, 2)
    before = content(tmp_path)
    with (
        faults(Fault(call, file, error=number)),
        pytest.raises(StateError, match=r"cannot be read now .* nothing was changed"),
    ):
        StateFolders(tmp_path / "states").load_newest()
    assert content(tmp_path) == before
    assert StateFolders(tmp_path / "states").load_newest().step == 2


def test_an_unreadable_state_after_a_damaged_one_leaves_both(tmp_path) -> None:
    save(tmp_path, 1, 2)
    cut(tmp_path / "step_00000002" / "state.json")
    before = content(tmp_path)
    with (
        faults(Fault("read", "*/step_00000001/state.json")),
        pytest.raises(StateError, match=r"step_00000001.* cannot be read now"),
    ):
        StateFolders(tmp_path).load_newest()
    assert content(tmp_path) == before


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES])
def test_an_error_while_a_state_is_read_again_costs_no_state(tmp_path, number) -> None:
    save(tmp_path, 1, 2)
    with (
        faults(Fault("read", "*/step_00000003/*", error=number)),
        pytest.raises(StateError, match=r"step 3 could not be saved .* older states are untouched"),
    ):
        save(tmp_path, 3)
    assert list(StateFolders(tmp_path).steps()) == [3, 2, 1]
    assert StateFolders(tmp_path).load_newest().step == 3
    with faults(Fault("read", "*/step_00000003/*", error=number)), pytest.raises(StateError):
        save(tmp_path, 3)
    assert not list(tmp_path.glob("damaged*"))


def of_newer_format(state: Path, kind: str) -> None:
    """Write a state as a later version may."""
    manifest = json.loads((state / "manifest.json").read_text())
    manifest["format"] = FORMAT + 1
    if kind == "same hash":
        manifest.pop("sha256")
        manifest["sha256"] = state_files._hash_manifest(manifest)
    elif kind == "other hash":
        manifest["sha256"] = hashlib.sha256(b"another way").hexdigest()
    elif kind == "other keys":
        manifest = {"format": FORMAT + 1, "versions": {}, "entries": [], "blake3": "0"}
    else:
        (state / "state.json").unlink()
        for file in list(state.glob("*.safetensors")):
            file.rename(file.with_suffix(".zst"))
        manifest["sha256"] = "of other files"
    (state / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("kind", ["same hash", "other hash", "other keys", "other files"])
def test_a_state_of_a_newer_version_is_named_and_nothing_is_touched(tmp_path, kind) -> None:
    save(tmp_path, 1, 2)
    of_newer_format(tmp_path / "step_00000002", kind)
    before = content(tmp_path)
    with pytest.raises(FormatError, match=rf"another version of medldm \(format {FORMAT + 1}"):
        StateFolders(tmp_path).load_newest()
    with pytest.raises(StateError, match="another version"):
        save(tmp_path, 2)
    assert content(tmp_path) == before
    place = StateFolders(tmp_path).retire()
    assert place is not None and {path.name for path in place.iterdir()} == {"step_00000001", "step_00000002"}


def test_a_format_that_a_flipped_bit_made_is_damage(tmp_path) -> None:
    save(tmp_path, 1, 2)
    file = tmp_path / "step_00000002" / "manifest.json"
    file.write_text(file.read_text().replace(f'"format": {FORMAT}', f'"format": {FORMAT ^ 4}'))
    assert StateFolders(tmp_path).load_newest().step == 1


def test_what_the_system_puts_beside_files_is_no_damage(tmp_path) -> None:
    save(tmp_path, 1, 2)
    for name in (".DS_Store", "._state.json", ".nfs000000000123"):
        (tmp_path / "step_00000002" / name).touch()
    assert StateFolders(tmp_path).load_newest().step == 2


def test_a_file_that_a_user_put_into_a_state_is_named_and_never_removed(tmp_path, caplog) -> None:
    save(tmp_path, 1, 2)
    for step in (1, 2):
        (tmp_path / f"step_0000000{step}" / "notes.txt").write_text("mine")
    before = content(tmp_path)
    with pytest.raises(StateError, match=r"beyond its manifest, the files \['notes.txt'\].* move them"):
        StateFolders(tmp_path).load_newest()
    assert content(tmp_path) == before
    save(tmp_path, 3, 4, 5)
    assert len(list(tmp_path.glob("step_*/notes.txt"))) == 2
    assert "step_00000001 is not removed" in caplog.text


FOREIGN = (
    "step_00000001/scan.nii.gz",
    "step_00000001_ended/manifest.json/x",
    "step_12345678/manifest.json",
    "step_12345678/scan.png",
    "damaged_step_00000001/scan.png",
    ".old_step_00000001/scan.png",
    ".old_patients/scan.png",
    ".writing-notes/scan.png",
    "autoencoder.safetensors",
    "state/notes.txt",
    "states/plan.txt",
)
"""What a user may have in the folder that a keeper is given."""


def plant(folder: Path) -> dict[str, Any]:
    for name in FOREIGN:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text('{"name": "mine"}')
    return content(folder)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_keeper_that_is_given_an_output_folder_touches_nothing_of_the_users(tmp_path, when) -> None:
    output = tmp_path / "outputs"
    if when == "after":
        save(output, 1, 2)
        (output / RECORD).write_text("{}")
    planted = plant(output) if when == "before" else {}
    if when == "after":
        for name in FOREIGN[2:]:
            (output / name).parent.mkdir(parents=True, exist_ok=True)
            (output / name).write_text('{"name": "mine"}')
            planted[name] = b'{"name": "mine"}'
    for _ in range(2):
        handler = TrainingStateHandler(output, resume="never")
        handler.folders.retire()
        assert handler.folders.load_newest(is_strict=False) is None
        for step in (1, 2, 3, 4):
            handler.folders.save({"a": {"w": torch.zeros(3)}}, step=step)
        assert list(StateFolders(output).steps()) == [4, 3]
    now = content(output)
    assert {name: now.get(name, "gone") for name in planted} == planted
    assert [path.name for path in tmp_path.iterdir()] == ["outputs"], "nothing is written beside the output"
    with pytest.raises(StateError, match="is called like a training's state, but holds none"):
        TrainingStateHandler(output).folders.load_newest()


def test_a_kill_while_states_are_moved_away_leaves_the_newest(tmp_path, monkeypatch) -> None:
    save(tmp_path, 1, 2)
    (tmp_path / "notes.txt").touch()
    rename = Path.rename

    def die(path: Path, to: Path) -> Path:
        if path.name == "step_00000002":
            raise KeyboardInterrupt
        return rename(path, to)

    monkeypatch.setattr(Path, "rename", die)
    with pytest.raises(KeyboardInterrupt):
        StateFolders(tmp_path).retire()
    assert StateFolders(tmp_path).load_newest().step == 2


def test_states_of_before_in_a_folder_of_their_own_are_gone_on_with(tmp_path) -> None:
    """As versions without locks and rules about folders have left them."""
    save(tmp_path / "diffusion", 1, 2)
    (tmp_path / "diffusion" / RECORD).write_text("{}")
    shutil.copytree(tmp_path / "diffusion" / "step_00000001", tmp_path / "diffusion" / ".old_step_00000000")
    (tmp_path / "diffusion" / ".writing-0123456789abcdef").mkdir()
    assert StateFolders(tmp_path / "diffusion").load_newest().path.parent == tmp_path / "diffusion"
    save(tmp_path / "diffusion", 3)
    names = {path.name for path in (tmp_path / "diffusion").iterdir()}
    assert names == {RECORD, "step_00000002", "step_00000003"}
    assert StateFolders(tmp_path / "diffusion").retire() == tmp_path / "diffusion.before_1"
    assert (tmp_path / "diffusion.before_1" / RECORD).is_file()
    assert not (tmp_path / "diffusion").exists()
