"""Label maps that cover some structures only: what the model is told, what is written, what is refused."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
import torch

from medldm import LatentDiffusionConfig
from medldm.data.cohort import read_cohort
from medldm.errors import ConfigError
from medldm.generation.engine import SamplingConfig, generate
from medldm.generation.requests import RequestPreparer
from medldm.latent_diffusion.checkpoints import save_checkpoint
from medldm.latent_diffusion.model_files import describe_latent_diffusion

FEW = SamplingConfig(num_steps=2, seed=3)


@pytest.fixture
def maps(make_cohort):
    """A map with both structures, and the same without the core."""
    folder = make_cohort(1) / "labels"
    whole = folder / "case_0.nii.gz"
    image = nib.load(whole)
    labels = np.asarray(image.dataobj)
    part = folder.parent / "part.nii.gz"
    nib.save(nib.Nifti1Image(np.where(labels == 5, 0, labels).astype(np.uint8), image.affine), part)
    return str(whole), str(part)


def prepare(model, file, structures_in_map=None):
    preparer = RequestPreparer(model, structures_in_map=structures_in_map)
    request = {"index": 0, "label": file, "conditions": {}}
    preparer.check(request)
    return preparer.prepare(request)


def test_a_model_of_whole_maps_is_asked_as_before(make_model, maps) -> None:
    model = make_model(("label_map",))
    for file in maps:
        prepared = prepare(model, file)
        assert prepared.conditions.unknown == {}
        assert set(prepared.description["label_map"]) == {"voxels_sha256", "structures"}
    with pytest.raises(ConfigError, match=r"does not cover \['core'\].*train with structure_dropout"):
        prepare(model, maps[0], ["shell"])
    assert prepare(model, maps[0], ["shell", "core"]).conditions.unknown == {}


def test_an_absent_structure_is_unknown_if_training_maps_lacked_it(make_model, maps) -> None:
    model = make_model(("label_map",), partly_labelled=["core"])
    whole, part = (prepare(model, file) for file in maps)
    assert whole.conditions.unknown["label_map"].tolist() == [[False, False]]
    assert part.conditions.unknown["label_map"].tolist() == [[False, True]]
    assert part.description["label_map"]["structures_in_map"] == ["shell"]
    # Said, it is known not to be there.
    said = prepare(model, maps[1], ["shell", "core"])
    assert said.conditions.unknown["label_map"].tolist() == [[False, False]]


def test_what_the_user_does_not_name_is_taken_out(make_model, maps, caplog) -> None:
    model = make_model(("label_map",), structure_dropout=0.2)
    found, expected = (prepare(model, file, "shell") for file in maps)
    assert "holds core, which structures_in_map does not name" in caplog.text
    assert torch.equal(found.conditions.values["label_map"], expected.conditions.values["label_map"])
    assert np.array_equal(found.labels, expected.labels)
    assert found.conditions.unknown["label_map"].tolist() == [[False, True]]
    # Not said, and all training maps were whole: it is not there.
    assert prepare(model, maps[1]).conditions.unknown["label_map"].tolist() == [[False, False]]
    with pytest.raises(ConfigError, match="Unknown structure in structures_in_map 'cor'"):
        RequestPreparer(model, structures_in_map=["cor"])


def test_the_volumes_are_a_partly_labelled_cohort_themselves(make_model, maps, tmp_path) -> None:
    model = make_model(("label_map",), partly_labelled=["core"])
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, *describe_latent_diffusion(model, LatentDiffusionConfig())())
    generate(path, tmp_path / "out", labels=list(maps), sampling=FEW)
    cohort = read_cohort(tmp_path / "out", validation_fraction=0)
    assert [case["structures_in_map"] for case in cohort.training] == [["shell", "core"], ["shell"]]
    sidecar = json.loads((tmp_path / "out" / "sidecars" / "synthetic_0001.json").read_text())
    assert sidecar["conditions"]["label_map"]["structures_in_map"] == ["shell"]
    voxels = [np.asarray(nib.load(case["image"]).dataobj) for case in cohort.training]
    assert not np.array_equal(*voxels)
