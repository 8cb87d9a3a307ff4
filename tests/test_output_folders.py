"""Outputs that lead elsewhere, or cannot be written, are refused before anything is made."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from medldm.errors import StorageError
from medldm.files import require_writable
from medldm.generation.files import SyntheticWriter
from medldm.label_maps.generation import LabelMapWriter
from medldm.training import open_start

PARTS = ("images", "labels", "sidecars")


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("aim", ["elsewhere", "missing", "images/.."])
@pytest.mark.parametrize("writer", [SyntheticWriter, LabelMapWriter])
def test_a_link_in_the_place_of_a_part_is_refused(tmp_path: Path, part: str, aim: str, writer: type) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / part).symlink_to(tmp_path / aim)
    with pytest.raises(StorageError, match=f"{part} is a link: what is written would land in"):
        writer(tmp_path / "out").refuse_existing([0])
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_the_output_itself_may_be_a_link_for_the_user_named_it(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    require_writable(tmp_path / "out", parts=PARTS)
    require_writable(tmp_path / "new" / "deep", parts=PARTS)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("place", ["file", "file/out", "file/a/b"])
def test_a_file_in_the_way_is_named(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    for work in (
        require_writable,
        lambda folder: SyntheticWriter(folder).refuse_existing([0]),
        lambda folder: open_start(None, stage="diffusion", output_dir=folder),
    ):
        with pytest.raises(StorageError, match=r"file is no folder, .*choose another output"):
            work(tmp_path / place)


def test_a_folder_that_is_read_only_is_named(tmp_path: Path, monkeypatch) -> None:
    asked = []

    def access(path: object, mode: int) -> bool:
        asked.append(path)
        return False

    monkeypatch.setattr(os, "access", access)
    with pytest.raises(StorageError, match=r"cannot be written into .*read-only.*choose another output"):
        require_writable(tmp_path / "out")
    assert asked == [tmp_path]
