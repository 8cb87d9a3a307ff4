"""Whoever splits a cohort again takes the split of the model's training, or is told."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from medldm.data.identity import default_key_file
from medldm.errors import CheckpointError, ConfigError
from medldm.evaluation.cases.reading import split_cohort
from medldm.label_maps.choice import choose_label_maps
from medldm.latent_diffusion.checkpoints import save_checkpoint
from medldm.latent_diffusion.recorded_split import (
    NOT_RECOGNISED,
    NOT_RECORDED,
    describe_with_split,
    read_as_trained,
    split_of,
)
from medldm.training import open_cohort

TRAINED = {"validation_fraction": 0.2, "test_fraction": 0.2, "seed": 1}
OTHERS = {"validation_fraction": 0.1, "test_fraction": 0.4, "seed": 5}


@pytest.fixture
def folder(make_cohort: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return make_cohort(10, shape=(5, 6, 7))


def write_model(folder: Path, to: Path, **card: Any) -> Path:
    record = open_cohort(str(folder), **TRAINED).split_record
    describe = describe_with_split(lambda: ({"w": torch.zeros(1)}, {"kind": "latent_diffusion"}), record)
    weights, own = describe()
    save_checkpoint(to / "model.safetensors", weights, own | card)
    return to / "model.safetensors"


def subjects(cohort: Any) -> dict[str, set[str]]:
    return {part: {case["subject"] for case in cases} for part, cases in cohort.splits.items()}


@pytest.mark.parametrize("has_key", [True, False])
def test_other_settings_give_the_split_of_the_training(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, has_key: bool
) -> None:
    model = write_model(folder, tmp_path)
    if not has_key:
        default_key_file().unlink()
    trained = open_cohort(str(folder), **TRAINED)
    assert subjects(open_cohort(str(folder), **OTHERS)) != subjects(trained)
    found = read_as_trained(folder, checkpoint=model, **OTHERS)
    assert subjects(found) == subjects(trained) and found.issues == ()
    assert "the split is the one that model.safetensors was trained with" in caplog.text
    train, test = split_cohort(folder, checkpoint=model, **OTHERS)
    assert subjects(train)["training"] == subjects(trained)["training"]
    assert subjects(test)["training"] == subjects(trained)["test"]


def test_a_cohort_that_has_grown_keeps_its_parts_and_new_cases_are_test_cases(
    folder: Path, tmp_path: Path, make_cohort: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    model = write_model(folder, tmp_path)
    trained = subjects(open_cohort(str(folder), **TRAINED))
    more = make_cohort(6, shape=(6, 5, 7), name="more")
    for part in ("images", "labels"):
        for n in range(6):
            shutil.copy(more / part / f"case_{n}.nii.gz", folder / part / f"case_{n + 10}.nii.gz")
    new = {f"case_{n}" for n in range(10, 16)}
    grown = subjects(open_cohort(str(folder), **TRAINED))
    assert trained["training"] & (grown["test"] | grown["validation"]), "the settings alone would leak"
    found = read_as_trained(folder, checkpoint=model, **TRAINED)
    assert subjects(found) == {**trained, "test": trained["test"] | new}
    default_key_file().unlink()
    found = read_as_trained(folder, checkpoint=model, **TRAINED)
    assert [issue.message for issue in found.issues] == [NOT_RECOGNISED]
    assert NOT_RECOGNISED in caplog.text


def test_a_model_that_recorded_nothing_is_remarked_and_none_is_not(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_checkpoint(tmp_path / "old.safetensors", {"w": torch.zeros(1)}, {"kind": "latent_diffusion"})
    found = read_as_trained(folder, checkpoint=tmp_path / "old.safetensors", **OTHERS)
    assert subjects(found) == subjects(open_cohort(str(folder), **OTHERS))
    assert [issue.message for issue in found.issues] == [NOT_RECORDED] and NOT_RECORDED in caplog.text
    for checkpoint in (None, tmp_path / "none.safetensors"):
        assert read_as_trained(folder, checkpoint=checkpoint, **OTHERS).issues == ()


def test_label_maps_to_synthesise_from_are_those_of_the_split_of_the_training(
    folder: Path, tmp_path: Path, make_model: Callable[..., Any]
) -> None:
    checkpoint = write_model(folder, tmp_path)
    options = {"validation_fraction": 0.1, "test_fraction": 0.4, "split_seed": 5}
    maps = choose_label_maps(
        make_model(("label_map",)),
        label_dir=None,
        dataset_dir=str(folder),
        checkpoint=str(checkpoint),
        **options,
    )
    names = {Path(file).name.split(".")[0] for file in maps or ()}
    assert names == subjects(open_cohort(str(folder), **TRAINED))["test"]


def test_a_second_stage_must_not_hold_out_what_the_first_was_trained_on(folder: Path, tmp_path: Path) -> None:
    space = {"spacing_mm": [1, 1, 1], "size": [4, 4, 4], "intensity": {"kind": "ct_window"}}
    first = write_model(folder, tmp_path, kind="autoencoder", space=space)
    with pytest.raises(ConfigError, match=r"the first stage was trained on . of the 5 cases.*split_seed 1"):
        open_cohort(str(folder), **OTHERS, autoencoder_path=str(first))
    assert open_cohort(str(folder), **TRAINED, autoencoder_path=str(first)).split_record == split_of(first)


def test_a_record_that_is_none_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not describe a split"):
        split_of(write_model(folder, tmp_path, split={"seed": 0}))
