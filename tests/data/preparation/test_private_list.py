"""The user's own way from an identifier back to its file: asked for, private, whole, outside all outputs."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import numpy as np
import pytest

from medldm.cli.main import main
from medldm.data.preparation.prepare import PrepareOptions, prepare
from medldm.transforms import write_nifti


def make_scans(root: Path, *, broken: bool = True) -> Path:
    for number, name in enumerate(("smith", "jönes")):
        image = np.random.default_rng(number).normal(size=(6, 5, 4))
        write_nifti(root / "ward 3" / f"{name}.nii.gz", image, np.eye(4))
    if broken:
        (root / "ward 3" / "brown.nii.gz").write_bytes(b"damaged")
        write_nifti(root / "labels" / "nobody.nii.gz", np.ones((6, 5, 4)), np.eye(4))
    return root


def run(source: Path, output: Path, **options):
    settings = {"key_file": source.parent / "secret" / "key", "workers": 1, "progress": False}
    return prepare(source, output, options=PrepareOptions(**(settings | options)))


def entries(path: Path, output: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))["outputs"][str(output)]


def test_it_leads_from_every_case_and_every_refusal_to_its_files(tmp_path: Path) -> None:
    source, output = make_scans(tmp_path / "in"), tmp_path / "out"
    result = run(source, output, private_list=True)
    found = entries(tmp_path / "secret" / "private_list.json", output)
    assert result.refused and len(result.cases) == 2
    for one in (*result.refused, *result.cases):
        assert found[one.id]["files"], one.id
    by_file = {Path(file).name: name for name, entry in found.items() for file in entry["files"]}
    assert set(by_file) == {"smith.nii.gz", "jönes.nii.gz", "brown.nii.gz", "nobody.nii.gz"}
    reasons = {one.id: one.reason for one in result.refused}
    assert {name: entry["refused"] for name, entry in found.items() if entry["refused"]} == reasons
    assert found[by_file["smith.nii.gz"]]["files"] == [str(source / "ward 3" / "smith.nii.gz")]
    assert found[by_file["smith.nii.gz"]]["subject"] == by_file["smith.nii.gz"]


def test_only_its_owner_can_read_it_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        run(make_scans(tmp_path / "in"), tmp_path / "out", private_list=tmp_path / "lists" / "mine.json")
    finally:
        os.umask(before)
    path = tmp_path / "lists" / "mine.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)
    run(make_scans(tmp_path / "in"), tmp_path / "out", private_list=path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in path.parent.iterdir()] == ["mine.json"]


def test_it_is_not_made_unless_asked_for_and_the_refusal_says_how(tmp_path: Path, capsys, caplog) -> None:
    source = make_scans(tmp_path / "in")
    arguments = ["prepare", str(source), str(tmp_path / "out"), "--workers", "1"]
    arguments += ["--key-file", str(tmp_path / "secret" / "key")]
    assert main(arguments) == 1
    assert "run the same command with --private-list" in capsys.readouterr().out
    assert "--private-list" in caplog.text
    assert [file.name for file in (tmp_path / "secret").iterdir()] == ["key"]
    assert main([*arguments, "--private-list"]) == 1
    assert "in your private list" in capsys.readouterr().out
    assert (tmp_path / "secret" / "private_list.json").is_file()
    assert main([*arguments, "--private-list", str(tmp_path / "other.json")]) == 1
    assert (tmp_path / "other.json").is_file()


def test_nothing_of_it_is_in_the_output_or_the_log(tmp_path: Path, caplog) -> None:
    caplog.set_level(0)
    result = run(make_scans(tmp_path / "in"), tmp_path / "out", private_list=True)
    texts = [file.read_text() for file in (tmp_path / "out").rglob("*.json")]
    for name in ("smith", "jönes", "brown", "ward", "private_list.json"):
        assert not any(name in text for text in (*texts, caplog.text, result.table()))


def test_it_grows_with_each_cohort_and_a_second_run_replaces_its_own(tmp_path: Path) -> None:
    path = tmp_path / "list.json"
    first, second = make_scans(tmp_path / "in"), make_scans(tmp_path / "other", broken=False)
    run(first, tmp_path / "out", private_list=path)
    run(second, tmp_path / "out2", private_list=path)
    assert len(entries(path, tmp_path / "out")) == 4 and len(entries(path, tmp_path / "out2")) == 2
    (first / "ward 3" / "brown.nii.gz").unlink()
    run(first, tmp_path / "out", private_list=path)
    assert len(entries(path, tmp_path / "out")) == 3 and len(entries(path, tmp_path / "out2")) == 2


@pytest.mark.parametrize(
    "place", ["in/list.json", "in/ward 3/list.json", "out/list.json", "out/images/l.json"]
)
def test_it_never_lies_in_input_or_output(tmp_path: Path, place: str) -> None:
    source = make_scans(tmp_path / "in")
    with pytest.raises(ValueError, match="the private list lies in the input or output folder"):
        run(source, tmp_path / "out", private_list=tmp_path / place)
    assert not (tmp_path / place).exists() and not (tmp_path / "out").exists()


def test_a_link_into_the_output_is_seen_through(tmp_path: Path) -> None:
    source = make_scans(tmp_path / "in")
    (tmp_path / "link.json").symlink_to(tmp_path / "out" / "list.json")
    with pytest.raises(ValueError, match="lies in the input or output"):
        run(source, tmp_path / "out", private_list=tmp_path / "link.json")
    (tmp_path / "folder").symlink_to(source)
    with pytest.raises(ValueError, match="lies in the input or output"):
        run(source, tmp_path / "out", private_list=tmp_path / "folder" / "list.json")


@pytest.mark.parametrize("content", ["notes of mine", "{}", '{"what": 1, "outputs": {}}', "[]", ""])
def test_a_file_that_is_no_such_list_is_left_as_it_is(tmp_path: Path, content: str) -> None:
    (tmp_path / "mine.txt").write_text(content)
    with pytest.raises(ValueError, match="exists and is none"):
        run(make_scans(tmp_path / "in"), tmp_path / "out", private_list=tmp_path / "mine.txt")
    assert (tmp_path / "mine.txt").read_text() == content
    with pytest.raises(ValueError, match="is a folder"):
        run(tmp_path / "in", tmp_path / "out", private_list=tmp_path)


def test_the_key_is_no_private_list(tmp_path: Path) -> None:
    source = make_scans(tmp_path / "in")
    run(source, tmp_path / "out")
    key = (tmp_path / "secret" / "key").read_bytes()
    with pytest.raises(ValueError, match="exists and is none"):
        run(source, tmp_path / "out", private_list=tmp_path / "secret" / "key")
    assert (tmp_path / "secret" / "key").read_bytes() == key


def test_a_run_that_cannot_write_it_says_so_before_it_converts(tmp_path: Path) -> None:
    source = make_scans(tmp_path / "in")
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="the private list cannot be written"):
        run(source, tmp_path / "out", private_list=tmp_path / "file" / "list.json")
    assert not list((tmp_path / "out" / "images").iterdir())
