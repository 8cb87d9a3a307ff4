"""`medldm models` tells a newcomer what there is, and the command that works."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from medldm.cli.main import main
from medldm.sharing import shipped
from medldm.sharing.package import PackageConfig, package_model


def make(checkpoint: Path, folder: Path, **options: Any) -> Path:
    settings: dict[str, Any] = {
        "licence": "Apache-2.0",
        "bundle": "mri_label_ldm",
        "torchscript": False,
        **options,
    }
    return package_model(checkpoint, folder, PackageConfig(**settings)).folder


def listed(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    assert main(["models"]) == 0
    return {part.split(":")[0]: part for part in capsys.readouterr().out.split("\n\n")}


def test_the_command_of_each_kind_of_model_is_the_one_that_works(
    save_model, save_label_map_model, tmp_path, monkeypatch, capsys
) -> None:
    made = tmp_path / "made"
    make(save_model(), made / "told", data="ten phantoms, CC0")
    make(save_model(()), made / "free")
    make(save_label_map_model(), made / "maps", bundle="labelmap_ldm")
    monkeypatch.setattr(shipped, "BUNDLES_DIR", made)
    found = listed(capsys)
    assert "\n  medldm generate told OUT --label-dir LABEL_MAPS" in found["told"]
    assert "\n  medldm generate free OUT --num-samples 4" in found["free"]
    assert "\n  medldm generate maps OUT --num-samples 4" in found["maps"]
    assert (
        "trained on: ten phantoms, CC0" in found["told"] and "field of view: 16 x 20 x 16 mm" in found["told"]
    )
    (made / "maps").rename(made / "labelmap_ldm")  # of the same structures: it draws the maps
    assert "\n  medldm generate told OUT --num-samples 4" in listed(capsys)["told"]


def test_a_card_says_how_to_use_the_model_and_what_its_figures_mean(
    save_model, save_label_map_model, tmp_path
) -> None:
    told = (make(save_model(), tmp_path / "told") / "docs" / "README.md").read_text()
    assert "medldm generate FOLDER outputs --label-dir LABEL_MAPS" in told
    assert "medldm train all COHORT OUT --bundle FOLDER" in told
    assert "MR, in the units of the training cohort" in told and "An AUC of 0.5 means" in told
    maps = make(save_label_map_model(), tmp_path / "maps", bundle="labelmap_ldm")
    assert "medldm generate FOLDER outputs --num-samples 4" in (maps / "docs" / "README.md").read_text()
