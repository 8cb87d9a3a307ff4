"""Label maps that cover some structures only: what the model is told, what is written, what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from medldm import LatentDiffusionConfig
from medldm.data.cohort import read_cohort
from medldm.data.preparation.labels import LabelTable
from medldm.errors import ConfigError
from medldm.generation.engine import SamplingConfig, generate
from medldm.generation.listed_maps import ListedMap
from medldm.generation.requests import GenerationDataset, RequestPreparer
from medldm.label_maps.choice import choose_label_maps
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


def cohort_of(maps, folder, **lists):
    """A cohort of the whole map and of the part, as cases that say what their maps cover."""
    names = ("whole", "part")
    for name, file in zip(names, maps, strict=True):
        for kind in ("images", "labels"):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            shutil.copy(file, folder / kind / f"{name}.nii.gz")
    entries = [
        {"image": f"images/{name}.nii.gz", "label": f"labels/{name}.nii.gz"}
        | ({"structures_in_map": lists[name]} if name in lists else {})
        for name in names
    ]
    for kind in ("images", "labels"):
        shutil.copy(maps[0], folder / kind / "other.nii.gz")
    training = [{"image": "images/other.nii.gz", "label": "labels/other.nii.gz"}]
    (folder / "labels.json").write_text('{"1": "shell", "5": "core"}')
    (folder / "list.json").write_text(json.dumps({"training": training, "validation": entries}))
    return folder / "list.json"


def prepare_chosen(model, cohort, *, table=None, structures_in_map=None):
    """Take the maps of a cohort as inference.yaml does, and prepare each."""
    options = {"label_dir": None, "dataset_dir": str(cohort), "validation_fraction": 0.5, "split_seed": 0}
    labels = choose_label_maps(model, **options)
    dataset = GenerationDataset(num_samples=None, labels=labels)
    preparer = RequestPreparer(model, label_table=table, structures_in_map=structures_in_map)
    requests = [dataset[position] for position in range(len(dataset))]
    for request in requests:
        preparer.check(request)
    prepared = {Path(request["label"]).name[:4]: preparer.prepare(request) for request in requests}
    return prepared, preparer


def unknown_of(prepared):
    return prepared.conditions.unknown["label_map"].tolist()


def test_what_a_case_of_the_cohort_says_reaches_inference(make_model, maps, tmp_path) -> None:
    """The part says that the core was looked for; the whole leaves the shell out."""
    model = make_model(("label_map",), partly_labelled=["shell", "core"])
    cohort = cohort_of(maps, tmp_path / "listed", part=["shell", "core"], whole=["core"])
    prepared, preparer = prepare_chosen(model, cohort)
    assert unknown_of(prepared["part"]) == [[False, False]]
    assert unknown_of(prepared["whol"]) == [[True, False]]
    assert not (prepared["whol"].labels == 1).any() and (prepared["whol"].labels == 5).any()
    assert set(preparer.schema.partly_labelled) == {"shell", "core"}
    # What the user says for all maps comes first.
    prepared, _ = prepare_chosen(model, cohort, structures_in_map="core")
    assert unknown_of(prepared["part"]) == [[True, False]]


def test_a_case_that_says_nothing_goes_by_its_voxels(make_model, maps, tmp_path) -> None:
    model = make_model(("label_map",), partly_labelled=["core"])
    prepared, _ = prepare_chosen(model, cohort_of(maps, tmp_path / "unlisted"))
    assert (unknown_of(prepared["whol"]), unknown_of(prepared["part"])) == ([[False, False]], [[False, True]])


def test_a_structure_that_dropout_taught_as_unknown_is_so_in_what_is_written(
    make_model, maps, tmp_path
) -> None:
    """The training's maps were whole: without the case's list the core would be taken as not there."""
    model = make_model(("label_map",), structure_dropout=0.2)
    prepared, preparer = prepare_chosen(model, cohort_of(maps, tmp_path / "listed", part=["shell"]))
    assert unknown_of(prepared["part"]) == [[False, True]]
    assert preparer.schema.partly_labelled == ("core",)


def test_what_the_model_never_knew_as_unknown_is_said_and_taken_as_before(
    make_model, maps, tmp_path, caplog
) -> None:
    prepared, _ = prepare_chosen(
        make_model(("label_map",)), cohort_of(maps, tmp_path / "listed", part=["shell"])
    )
    assert prepared["part"].conditions.unknown == {}
    assert "part.nii.gz does not cover core, of which this model's training never said so" in caplog.text


def test_lists_of_a_cohort_with_other_values_go_through_the_table(make_model) -> None:
    """Values 2 and 3 of the files are the model's core: it is known only if both were looked for."""
    config = make_model(("label_map",), partly_labelled=["shell", "core"]).conditioning_config
    table = LabelTable(mapping={1: 1, 2: 5, 3: 5})
    structures = {1: "surround", 2: "left core", 3: "right core"}
    for names, wanted in (
        (["surround", "left core"], ("shell",)),
        (["left core", "right core"], ("core",)),
        (list(structures.values()), ("shell", "core")),
    ):
        listed = ListedMap.of_case({"label": "a", "structures_in_map": names}, structures)
        assert listed.covered(("shell",), config, table=table) == wanted, names
