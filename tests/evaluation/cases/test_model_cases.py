"""The model is asked about cases prepared as its training prepared them, and only about those it can know."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from medldm import LatentDiffusionConfig
from medldm.errors import CheckpointError
from medldm.evaluation.cases.model_cases import EvaluatedModel, choose_model_cases, open_model
from medldm.evaluation.cases.reading import open_cohort
from medldm.evaluation.resources import EvaluationResources
from medldm.latent_diffusion.checkpoints import save_checkpoint
from medldm.latent_diffusion.model_files import describe_latent_diffusion
from medldm.training import case_transforms


def save_model(model: Any, path: Path, **card: Any) -> EvaluationResources:
    weights, own = describe_latent_diffusion(model, LatentDiffusionConfig())()
    save_checkpoint(path, weights, {**own, **card})
    return EvaluationResources(model=str(path), device="cpu")


def load(model: Any, path: Path) -> EvaluatedModel:
    evaluated = open_model(save_model(model, path))
    assert evaluated is not None
    return evaluated


def test_cases_are_those_of_the_training(
    make_cohort: Callable[..., Path], make_model: Callable[..., Any], tmp_path: Path
) -> None:
    model = make_model(("label_map",))
    cohort = open_cohort(make_cohort(4))
    cases = choose_model_cases(cohort, load(model, tmp_path / "m.safetensors"), n_max=10, seed=0)
    assert (len(cases), cases.subjects, cases.n_unknown) == (4, (0, 1, 2, 3), 0)
    transform = case_transforms(model.space, model.conditioning_config)
    for case, raw in zip(cases, cohort.cases, strict=True):
        expected = transform(raw)
        assert torch.equal(case.volume[0], expected["image"])
        assert case.volume.shape == (1, 1, *model.space.size) and case.volume.abs().max() <= 1
        assert case.conditions is not None
        assert torch.equal(case.conditions.values["label_map"][0], expected["label"])
        assert set(expected["label"].unique().tolist()) == {0, 1, 2}


def test_more_cases_than_wanted_are_drawn_from_by_the_seed(
    make_cohort: Callable[..., Path], make_model: Callable[..., Any], tmp_path: Path
) -> None:
    evaluated, cohort = load(make_model(()), tmp_path / "m.safetensors"), open_cohort(make_cohort(6))
    drawn = [
        [case["id"] for case in choose_model_cases(cohort, evaluated, n_max=3, seed=seed).cases]
        for seed in (0, 0, 1)
    ]
    assert len(drawn[0]) == 3 and drawn[0] == drawn[1] != drawn[2]
    assert all(case.conditions is None for case in choose_model_cases(cohort, evaluated, n_max=1, seed=0))


def test_values_that_the_training_never_saw_are_left_out_and_counted(
    make_cohort: Callable[..., Path], make_model: Callable[..., Any], tmp_path: Path
) -> None:
    folder = make_cohort(4)
    names = [f"case_{n}.nii.gz" for n in range(4)]
    entries = [
        {"image": f"images/{name}", "label": f"labels/{name}", "class": number, "scalars": {"age": age}}
        for name, number, age in zip(names, (0, 2, 3, 1), (30, 71, 30, 70), strict=True)
    ]
    (folder / "cohort.json").write_text(json.dumps({"training": entries}))
    model = make_model(("class", "scalars"), scalars={"age": (20.0, 70.0)})
    cases = choose_model_cases(open_cohort(folder), load(model, tmp_path / "m.safetensors"), n_max=9, seed=0)
    assert [case["id"] for case in cases.cases] == ["case_0", "case_3"]
    assert cases.n_unknown == 2


def test_a_volume_as_a_condition_is_measured(
    make_cohort: Callable[..., Path], make_model: Callable[..., Any], tmp_path: Path
) -> None:
    model = make_model(("scalars",), scalars={"volume_ml:core": (0.0, 50.0)})
    cases = choose_model_cases(
        open_cohort(make_cohort(2)), load(model, tmp_path / "m.safetensors"), n_max=9, seed=0
    )
    for case in cases:
        assert case.conditions is not None
        assert not case.conditions.absent["volume_ml:core"].any()
        assert case.conditions.values["volume_ml:core"] > 0


def test_a_map_is_needed_where_the_model_takes_one(
    make_cohort: Callable[..., Path], make_model: Callable[..., Any], tmp_path: Path
) -> None:
    folder = make_cohort(3)
    shutil.rmtree(folder / "labels")
    cohort = open_cohort(folder)
    for conditions, n in ((("label_map",), 0), ((), 3)):
        evaluated = load(make_model(conditions), tmp_path / f"{n}.safetensors")
        cases = choose_model_cases(cohort, evaluated, n_max=9, seed=0)
        assert (len(cases), cases.n_unknown) == (n, 3 - n)


def test_a_model_of_label_maps_takes_one_hot_maps_of_folders_without_images(
    make_cohort: Callable[..., Path], make_model: Callable[..., Any], tmp_path: Path
) -> None:
    folder = make_cohort(2)
    shutil.rmtree(folder / "images")
    schema = {"1": {"name": "shell"}, "5": {"name": "core"}}
    maps = save_model(make_model(()), tmp_path / "maps.safetensors", label_schema=schema)
    evaluated = open_model(maps, of_label_maps=True)
    assert evaluated is not None
    cases = list(choose_model_cases(open_cohort(folder), evaluated, n_max=9, seed=0))
    assert len(cases) == 2
    for case in cases:
        assert case.volume.shape == (1, 3, *make_model(()).space.size)
        assert torch.equal(case.volume.sum(dim=1), torch.ones(1, *case.volume.shape[2:]))
        assert all(case.volume[:, k].any() for k in range(3))


def test_without_a_model_there_is_none_and_wrong_ones_are_refused(
    make_model: Callable[..., Any], tmp_path: Path
) -> None:
    assert open_model(EvaluationResources()) is None
    model = make_model(())
    maps = save_model(model, tmp_path / "maps.safetensors", label_schema={"1": {"name": "shell"}})
    with pytest.raises(ValueError, match="makes label maps, the evaluation is of images"):
        open_model(maps)
    with pytest.raises(ValueError, match="makes images, the evaluation is of label maps"):
        open_model(save_model(model, tmp_path / "images.safetensors"), of_label_maps=True)
    model.space = None
    with pytest.raises(ValueError, match="no space"):
        open_model(save_model(model, tmp_path / "spaceless.safetensors"))
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        open_model(EvaluationResources(model=str(tmp_path / "missing.safetensors")))
