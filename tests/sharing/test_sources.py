"""`medldm models` says what is there, and one name is enough to generate: labels drawn, a picture beside."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medldm.cli.main import main
from medldm.data.cohort import read_cohort
from medldm.label_maps.generation import generate_label_maps
from medldm.sampling.config import SamplingConfig
from medldm.seeds import label_map_seed
from medldm.sharing import shipped
from medldm.sharing.package import PackageConfig, package_model
from medldm.sharing.sources import find_source

SHORT = ["--num-steps", "2", "--seed", "7"]


@pytest.fixture
def installed(
    save_model: Callable[..., Path],
    save_label_map_model: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """Bundles with weights in the place of those that are installed, and one without."""
    images, maps = save_model(), save_label_map_model()
    common = {"licence": "Apache-2.0", "torchscript": False, "data": "phantoms, CC0"}
    folder = tmp_path / "installed"
    package_model(images, folder / "mri_label_ldm", PackageConfig(label_maps=str(maps), **common))
    package_model(maps, folder / "labelmap_ldm", PackageConfig(**common))
    bare = package_model(images, folder / "ct_label_ldm", PackageConfig(**common)).folder
    (bare / "models" / "latent_diffusion.safetensors").unlink()
    monkeypatch.setattr(shipped, "BUNDLES_DIR", folder)
    return folder


def test_models_lists_what_is_known_and_says_what_lacks(installed, capsys) -> None:
    assert main(["models"]) == 0
    text = capsys.readouterr().out
    first, second, third = text.split("\n\n")
    assert first.startswith("labelmap_ldm: ") and second.startswith("mri_label_ldm: ")
    for line in ("licence: Apache-2.0", "spacing: 1 x 1 x 1 mm", "field of view: 16 x 20 x 16 mm"):
        assert line in second
    assert "trained on: phantoms, CC0" in second and "figures: not measured" in second
    assert "structures: 1 shell, 5 core" in second
    assert third.startswith("ct_label_ldm: ") and "no weights yet" in third
    assert "medldm train all COHORT OUT --bundle ct_label_ldm" in third
    assert main(["models", "--json"]) == 0
    found = {each["name"]: each for each in json.loads(capsys.readouterr().out)}
    files = (installed / "mri_label_ldm" / "models").iterdir()
    assert found["mri_label_ldm"]["size_mb"] == round(sum(file.stat().st_size for file in files) / 1e6, 2)
    assert found["mri_label_ldm"]["has_label_maps"] and not found["ct_label_ldm"]["has_weights"]


def test_the_bundles_that_are_installed_can_be_listed(capsys) -> None:
    assert main(["models", "--json"]) == 0
    names = [each["name"] for each in json.loads(capsys.readouterr().out)]
    assert {"mri_label_ldm", "labelmap_ldm"} <= set(names)


@pytest.mark.parametrize("is_beside", [True, False])
def test_a_name_is_enough_for_labelled_volumes_and_a_picture(is_beside, installed, tmp_path, capsys) -> None:
    """The maps are drawn by the model beside the bundle's, or by the installed one of the same structures."""
    if not is_beside:
        (installed / "mri_label_ldm" / "models" / "labelmap_ldm.safetensors").unlink()
    out = tmp_path / "out"
    assert main(["generate", "mri_label_ldm", str(out), "--num-samples", "2", *SHORT]) == 0
    assert f"look at {out / 'overview.png'}" in capsys.readouterr().out
    assert (out / "overview.png").read_bytes().startswith(b"\x89PNG")
    names = ["synthetic_0000.nii.gz", "synthetic_0001.nii.gz"]
    assert sorted(file.name for file in (out / "images").iterdir()) == names
    own = generate_label_maps(
        installed / "labelmap_ldm" / "models" / "latent_diffusion.safetensors",
        tmp_path / "maps",
        num_samples=2,
        sampling=SamplingConfig(seed=label_map_seed(7)),
    )
    for name, file in zip(names, own, strict=True):
        drawn, wanted = nib.load(out / "labels" / name), nib.load(file)
        assert np.array_equal(drawn.get_fdata(), wanted.get_fdata())
        assert np.array_equal(drawn.affine, nib.load(out / "images" / name).affine)
    cohort = read_cohort(out, validation_fraction=0.0)
    assert len(cohort.training) == 2 and dict(cohort.schema.structures) == {1: "shell", 5: "core"}


def test_four_volumes_are_made_where_nobody_says_how_many(installed, tmp_path) -> None:
    assert main(["generate", "labelmap_ldm", str(tmp_path / "maps"), *SHORT]) == 0
    assert len(list((tmp_path / "maps" / "labels").iterdir())) == 4
    folder = str(installed / "mri_label_ldm")
    assert main(["generate", folder, str(tmp_path / "out"), "--no-overview", *SHORT]) == 0
    assert len(list((tmp_path / "out" / "images").iterdir())) == 4
    assert not (tmp_path / "out" / "overview.png").exists()


def test_given_label_maps_take_the_place_of_drawn_ones(installed, make_cohort, tmp_path) -> None:
    maps = make_cohort(1) / "labels"
    assert main(["generate", "mri_label_ldm", str(tmp_path / "out"), "--label-dir", str(maps), *SHORT]) == 0
    assert not (tmp_path / "out" / "drawn_labels").exists()
    assert (tmp_path / "out" / "overview.png").exists()
    assert nib.load(tmp_path / "out" / "labels" / "synthetic_0000.nii.gz").shape == (17, 20, 15)


def test_what_is_not_there_is_said_before_anything_is_loaded(installed, tmp_path, capsys) -> None:
    out = tmp_path / "out"
    for words, message in (
        (["ct_label_ldm"], "the bundle ct_label_ldm has no weights yet: train it"),
        (["mri_lable_ldm"], "Did you mean 'mri_label_ldm'?"),
        ([str(tmp_path / "none.safetensors")], "no checkpoint at"),
    ):
        assert main(["generate", *words, str(out)]) == 1
        assert message in capsys.readouterr().err
    assert not out.exists()


def test_maps_of_other_structures_are_not_taken(installed, save_label_map_model, tmp_path, capsys) -> None:
    """With no model of the same structures the way out is a folder of label maps."""
    (installed / "mri_label_ldm" / "models" / "labelmap_ldm.safetensors").unlink()
    other = save_label_map_model({1: "liver"})
    config = PackageConfig(licence="Apache-2.0", torchscript=False)
    package = package_model(other, tmp_path / "liver_maps", config).folder
    shutil.rmtree(installed / "labelmap_ldm")
    assert find_source("mri_label_ldm").label_maps is None
    package.rename(installed / "labelmap_ldm")
    assert find_source("mri_label_ldm").label_maps is None
    assert main(["generate", "mri_label_ldm", str(tmp_path / "out")]) == 1
    assert "--label-dir" in capsys.readouterr().err
