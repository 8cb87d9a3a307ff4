"""A bundle copied for one's own cohort is a bundle of its own, and nobody's weights are in it unasked."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from medldm.cli.main import main
from medldm.errors import ConfigError, MissingFileError, OutputExistsError
from medldm.sharing.copies import copy_bundle
from medldm.sharing.shipped import BUNDLES_DIR, Bundle, find_bundle, list_bundles


def files_of(folder: Path) -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.parametrize("name", [bundle.name for bundle in list_bundles()])
def test_a_copy_holds_every_config_page_and_the_licence_to_the_byte(name: str, tmp_path: Path) -> None:
    copy = copy_bundle(find_bundle(name), tmp_path / "mine")
    wanted = {
        file: content
        for file, content in files_of(BUNDLES_DIR / name).items()
        if not file.startswith("models/")
    }
    assert files_of(copy) == wanted and {"LICENSE", "configs/metadata.json"} <= set(wanted)
    assert list((copy / "models").iterdir()) == []


def test_weights_are_copied_where_they_are_asked_for(tmp_path: Path) -> None:
    source = copy_bundle(find_bundle("mri_label_ldm"), tmp_path / "source")
    with pytest.raises(MissingFileError, match="no weights"):
        copy_bundle(Bundle(source), tmp_path / "mine", with_weights=True)
    assert not (tmp_path / "mine").exists()
    Bundle(source).model.write_bytes(b"weights")
    assert (
        not copy_bundle(Bundle(source), tmp_path / "without")
        .joinpath("models", Bundle(source).model.name)
        .exists()
    )
    assert (
        Bundle(copy_bundle(Bundle(source), tmp_path / "mine", with_weights=True)).model.read_bytes()
        == b"weights"
    )


def test_files_of_an_installation_that_nobody_may_write_are_copied_writable(tmp_path: Path) -> None:
    source = copy_bundle(find_bundle("labelmap_ldm"), tmp_path / "source")
    for path in source.rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    copy = copy_bundle(Bundle(source), tmp_path / "mine")
    (copy / "configs" / "train_autoencoder.yaml").write_text("n_epochs: 1")
    shutil.rmtree(copy)


def test_a_folder_that_holds_something_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "own.txt").write_text("mine")
    with pytest.raises(OutputExistsError, match="not empty"):
        copy_bundle(find_bundle("mri_label_ldm"), tmp_path / "mine")
    assert files_of(tmp_path / "mine") == {"own.txt": b"mine"}


def test_a_bundle_is_found_by_name_or_folder_and_a_wrong_name_is_corrected(tmp_path: Path) -> None:
    assert find_bundle("labelmap_ldm").path == BUNDLES_DIR / "labelmap_ldm"
    assert find_bundle(BUNDLES_DIR / "labelmap_ldm").name == "labelmap_ldm"
    with pytest.raises(ConfigError, match=r"Did you mean 'mri_label_ldm'.*folder of one"):
        find_bundle("mri_lable_ldm")
    with pytest.raises(MissingFileError, match=r"no workflow 'edt'.*'edit'"):
        find_bundle("mri_label_ldm").config("edt")


def test_init_says_how_to_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "mri_label_ldm", str(tmp_path / "mine")]) == 0
    assert f"medldm train all COHORT OUT --bundle {tmp_path / 'mine'}" in capsys.readouterr().out
    assert main(["init", "mri_label_ldm", str(tmp_path / "mine")]) == 1
    assert capsys.readouterr().err.startswith("error: ")
