"""Requests: conditions in turn, refusals before anything is drawn, images and remapped label maps."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
import torch

from medldm import LatentDiffusionConfig
from medldm.data.preparation.labels import LabelTable
from medldm.generation.engine import SamplingConfig, generate
from medldm.generation.requests import GenerationDataset, RequestPreparer, read_conditions
from medldm.latent_diffusion.checkpoints import save_checkpoint
from medldm.latent_diffusion.model_files import describe_latent_diffusion
from medldm.transforms import IntensityMapping

FEW = SamplingConfig(num_steps=2, seed=3)
INTENSITY = IntensityMapping(kind="mr_percentile", lower=0.0, upper=200.0).to_dict()


def test_conditions_come_from_a_mapping_a_list_or_a_file(tmp_path) -> None:
    file = tmp_path / "conditions.json"
    file.write_text(json.dumps([{"age": 1, "sex": None}, {"age": 2}]))
    assert read_conditions(None) == []
    assert read_conditions({"age": 1}) == [{"age": 1}]
    assert read_conditions(file) == read_conditions(str(file)) == [{"age": 1}, {"age": 2}]
    with pytest.raises(ValueError, match="is no JSON file"):
        read_conditions(str(tmp_path / "none.json"))
    with pytest.raises(ValueError, match="a list of such mappings"):
        read_conditions([1, 2])


def test_maps_and_conditions_are_used_in_turn() -> None:
    dataset = GenerationDataset(
        num_samples=None, first_index=1, labels=["a", "b"], conditions=[{"age": 1}, {"age": 2}, {"age": 3}]
    )
    assert len(dataset) == 3
    assert [dataset[i]["label"] for i in range(3)] == ["b", "a", "b"]
    assert [dataset[i]["conditions"]["age"] for i in range(3)] == [2, 3, 1]


def test_nothing_to_do_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing to generate"):
        GenerationDataset(num_samples=None)


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        ({"weight": 70}, r"\['weight'\]: this model knows \['age', 'sex'\]"),
        ({"sex": "X"}, "unknown category"),
        ({"age": 95}, "age has values from 95 to 95: this model knows 20 to 80"),
        ({"label_map": "x"}, "label maps are given by label_dir"),
    ],
)
def test_wrong_conditions_are_refused_before_anything_is_drawn(
    make_model, tmp_path, conditions, message
) -> None:
    path = save_model(make_model, tmp_path, ("scalars", "class"), num_classes=None)
    with pytest.raises(ValueError, match=message):
        generate(path, tmp_path / "out", conditions=[{"age": 50}, conditions], sampling=FEW)
    assert not (tmp_path / "out").exists()


def test_scalars_and_classes_reach_the_output_and_the_sidecar(make_model, tmp_path) -> None:
    path = save_model(make_model, tmp_path, ("scalars", "class"), num_classes=None)
    volumes = {}
    for name, conditions in {"young": {"age": 20, "sex": "F"}, "old": {"age": 80, "sex": "F"}}.items():
        (file,) = generate(path, tmp_path / name, conditions=conditions, sampling=FEW)
        volumes[name] = nib.load(file).get_fdata()
        sidecar = json.loads((tmp_path / name / "sidecars" / "synthetic_0000.json").read_text())
        assert sidecar["conditions"] == conditions
    assert np.abs(volumes["young"] - volumes["old"]).max() > 1e-3


def test_an_image_gives_grid_and_condition(make_model, make_cohort, tmp_path) -> None:
    path = save_model(make_model, tmp_path, ("image",), image_intensity=INTENSITY)
    sources = sorted((make_cohort(2) / "images").iterdir())
    files = generate(path, tmp_path / "out", conditions=[{"image": str(s)} for s in sources], sampling=FEW)
    for file, source in zip(files, sources, strict=True):
        assert np.array_equal(nib.load(file).affine, nib.load(source).affine)
        assert nib.load(file).shape == nib.load(source).shape
    sidecar = (tmp_path / "out" / "sidecars" / "synthetic_0000.json").read_text()
    assert "case_0" not in sidecar
    assert not (tmp_path / "out" / "labels").exists()


def test_an_image_off_the_grid_of_its_map_is_refused(make_model, make_cohort) -> None:
    model = make_model(("label_map", "image"), image_intensity=INTENSITY)
    here, there = make_cohort(1, name="a"), make_cohort(1, name="b", shape=(15, 20, 15))
    request = {
        "index": 0,
        "label": str(here / "labels" / "case_0.nii.gz"),
        "conditions": {"image": str(there / "images" / "case_0.nii.gz")},
    }
    with pytest.raises(ValueError, match="not lie on the grid of its label map"):
        RequestPreparer(model).prepare(request)


def test_label_maps_of_other_values_are_remapped(make_model, make_cohort) -> None:
    model = make_model(("label_map",))
    file = make_cohort(1) / "labels" / "case_0.nii.gz"
    request = {"index": 0, "label": str(file), "conditions": {}}
    plain = RequestPreparer(model).prepare(request)
    image = nib.load(file)
    other = np.asarray(image.dataobj) * np.uint8(4)  # 1 and 5 become 4 and 20
    nib.save(nib.Nifti1Image(other, image.affine), file)
    preparer = RequestPreparer(model, label_table=LabelTable(mapping={4: 1, 20: 5}))
    remapped = preparer.prepare(request)
    assert torch.equal(remapped.conditions.values["label_map"], plain.conditions.values["label_map"])
    assert np.array_equal(remapped.labels, plain.labels)
    with pytest.raises(ValueError, match="not declared"):
        RequestPreparer(model).check(request)


def save_model(make_model, tmp_path, conditioning_type, **options):
    options = {"scalars": {"age": [20, 80]}, "classes": {"sex": ["F", "M"]}} | options
    path = tmp_path / "model.safetensors"
    model = make_model(conditioning_type, **options)
    save_checkpoint(path, *describe_latent_diffusion(model, LatentDiffusionConfig())())
    return path
