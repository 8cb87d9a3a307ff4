"""Editing files: outside of the region all bits stay, and what is wrong is said before sampling."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import yaml

import medldm
from medldm import LatentDiffusionConfig, LatentDiffusionSampler
from medldm.editing.editor import EditConfig
from medldm.editing.files import Editor, make_editor
from medldm.editing.regions import dilate_region
from medldm.editing.request import EditRequest
from medldm.errors import CheckpointError, ConfigError
from medldm.generation.requests import RequestPreparer
from medldm.latent_diffusion.checkpoints import save_checkpoint
from medldm.latent_diffusion.model_files import describe_latent_diffusion
from medldm.sampling.config import SamplingConfig
from tests.programs import run_python

BUNDLE = Path(medldm.__file__).parent / "bundles" / "mri_label_ldm"
PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "edit.md"
FEW = SamplingConfig(num_steps=2, solver="ddim", seed=3)
GROW = {"operation": "grow", "structure": "core", "amount_mm": 1.5, "overwrite_structures": ["shell"]}


@pytest.fixture
def case(make_cohort) -> dict[str, str]:
    cohort = make_cohort(1)
    return {
        "image": str(cohort / "images" / "case_0.nii.gz"),
        "label": str(cohort / "labels" / "case_0.nii.gz"),
    }


@pytest.fixture
def edit(make_model, case, tmp_path) -> Any:
    """Make an editor of the case with a tiny random model."""

    def make(
        request: dict[str, Any], *, conditioning_type: tuple[str, ...] = ("label_map",), **options: Any
    ) -> Editor:
        model = make_model(conditioning_type)
        return Editor(
            EditRequest.from_dict(case | request),
            LatentDiffusionSampler(model, LatentDiffusionConfig()),
            preparer=RequestPreparer(model),
            output_dir=tmp_path / "out",
            **({"sampling": FEW} | options),
        )

    return make


def stored(path: str | Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


def region_of(case: dict[str, str], after: np.ndarray, *, margin_mm: float) -> np.ndarray:
    label = nib.load(case["label"])
    changed = np.asarray(label.dataobj) != after
    return dilate_region(changed, margin_mm=margin_mm, spacing_mm=label.header.get_zooms())


@pytest.mark.parametrize("method", ["fresh", "noise", "inversion"])
def test_voxels_outside_of_the_region_are_those_of_the_file(edit, case, tmp_path, method) -> None:
    image = edit(GROW, config=EditConfig(method=method, margin_mm=2.0)).run()
    label = tmp_path / "out" / "labels" / image.name
    region = region_of(case, stored(label), margin_mm=2.0)
    assert np.array_equal(stored(image)[~region], stored(case["image"])[~region])
    assert (stored(image)[region] != stored(case["image"])[region]).mean() > 0.99
    assert 0 < region.sum() < region.size / 2
    assert stored(image).dtype == stored(case["image"]).dtype
    for file in (image, label):
        assert np.array_equal(nib.load(file).affine, nib.load(case["image"]).affine)


def test_the_new_label_map_is_the_grown_one(edit, case, tmp_path) -> None:
    before = stored(case["label"])
    after = stored(tmp_path / "out" / "labels" / edit(GROW).run().name)
    assert (after[before == 5] == 5).all()
    assert (after == 5).sum() > (before == 5).sum()
    assert np.isin(after, [0, 1, 5]).all()
    far = dilate_region(before == 5, margin_mm=1.5, spacing_mm=nib.load(case["label"]).header.get_zooms())
    assert np.array_equal(after[~far], before[~far])


def test_a_new_label_map_gives_what_the_operation_gives(edit, case, tmp_path) -> None:
    """Also through the sampling: the same seed and the same map make the same image."""
    first = edit(GROW | {"name": "a"}).run()
    new_label = tmp_path / "out" / "labels" / "a.nii.gz"
    second = edit({"new_label": str(new_label), "name": "b"}).run()
    assert np.array_equal(stored(first), stored(second))


@pytest.mark.parametrize(
    "request_",
    [
        {"operation": "remove", "structure": 5},
        {"operation": "shrink", "structure": "shell", "amount_mm": 1.0, "fill": "background"},
        {"operation": "add", "structure": "core", "amount_mm": 2, "centre": [3, 4, 5]},
    ],
)
def test_every_operation_runs(edit, case, tmp_path, request_) -> None:
    image = edit(request_).run()
    after = stored(tmp_path / "out" / "labels" / image.name)
    if request_["operation"] == "remove":
        assert 5 not in after
    if request_["operation"] == "add":
        assert after[3, 4, 5] == 5
    assert not np.array_equal(stored(image), stored(case["image"]))


def test_types_and_scalings_of_the_file_are_kept(edit, case) -> None:
    image = nib.load(case["image"])
    integers = nib.Nifti1Image(np.rint(image.get_fdata() * 4).astype(np.int16), image.affine)
    integers.header.set_slope_inter(0.25, 1.0)
    nib.save(integers, case["image"])
    before, after = nib.load(case["image"]), nib.load(edit(GROW).run())
    assert after.get_data_dtype() == np.int16
    assert (after.dataobj.slope, after.dataobj.inter) == (0.25, 1.0)
    same = before.dataobj.get_unscaled() == after.dataobj.get_unscaled()
    assert 0.5 < same.mean() < 1


def test_grids_of_another_spacing_are_resampled_for_the_model_alone(edit, case, tmp_path, make_model) -> None:
    for key in ("image", "label"):
        file = nib.load(case[key])
        affine = file.affine.copy()
        affine[:3, :3] *= 0.7
        nib.save(nib.Nifti1Image(np.asarray(file.dataobj), affine), case[key])
    image = edit(GROW, config=EditConfig(margin_mm=1.0)).run()
    region = region_of(case, stored(tmp_path / "out" / "labels" / image.name), margin_mm=1.0)
    assert np.array_equal(stored(image)[~region], stored(case["image"])[~region])
    assert (stored(image)[region] != stored(case["image"])[region]).mean() > 0.99


def test_the_sidecar_says_how_and_names_no_files(edit, tmp_path) -> None:
    edit(GROW | {"name": "case-x"}).run()
    text = (tmp_path / "out" / "sidecars" / "case-x.json").read_text()
    sidecar = json.loads(text)
    assert sidecar["sampling"] == FEW.to_dict()
    assert sidecar["edit"] == EditConfig().to_dict()
    assert sidecar["label_change"]["structure"] == 5
    assert sidecar["voxels_won"]["core"] == -sidecar["voxels_won"]["shell"] - sidecar["voxels_won"].get(
        "background", 0
    )
    assert set(sidecar) >= {"weights_sha256", "versions", "conditions", "clipped_voxels", "region_voxels"}
    assert "case_0" not in text
    assert str(tmp_path) not in text


def test_the_output_is_itself_a_cohort(edit, tmp_path) -> None:
    from medldm.data import read_cohort, require_sound

    edit(GROW | {"name": "a"}).run()
    edit({"operation": "remove", "structure": 5, "name": "b"}).run()
    cohort = read_cohort(str(tmp_path / "out"), validation_fraction=0.5, seed=0)
    require_sound(cohort)
    assert len(cohort.cases) == 2
    assert cohort.schema.structures == {1: "shell", 5: "core"}


def test_existing_files_are_not_replaced_unless_asked(edit) -> None:
    edit(GROW).run()
    with pytest.raises(FileExistsError, match="overwrite to true"):
        edit(GROW)
    edit(GROW, overwrite=True).run()


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({}, "give one of them"),
        (GROW | {"new_label": "x.nii"}, "give one of them"),
        ({"operation": "grow", "amount_mm": 2}, "no structure is named"),
        (GROW | {"image": None}, "image is not set"),
        (GROW | {"name": "../up"}, "name is '../up'"),
        (GROW | {"structure": "croe"}, r"Unknown structure 'croe'. Did you mean 'core \(5\)'"),
        (GROW | {"structure": 7}, "Unknown structure '7'"),
        (GROW | {"overwrite_structures": ["skull"]}, "Unknown structure 'skull'"),
        (GROW | {"amount_mm": 0.01}, "nothing to edit"),
    ],
)
def test_wrong_requests_are_named_and_nothing_is_written(edit, tmp_path, request_, message) -> None:
    with pytest.raises(ValueError, match=message):
        edit(request_)
    assert not (tmp_path / "out").exists()


def test_wrong_files_are_refused_before_sampling(edit, case, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(LatentDiffusionSampler, "sample_latents", None)
    label = nib.load(case["label"])
    array, new = np.asarray(label.dataobj), tmp_path / "new.nii.gz"
    nib.save(nib.Nifti1Image(array[:-1], label.affine), new)
    with pytest.raises(ValueError, match="the new label map"):
        edit({"new_label": str(new)})
    nib.save(nib.Nifti1Image(np.where(array == 5, 9, array).astype(np.uint8), label.affine), new)
    with pytest.raises(ValueError, match="label values 9 are not declared"):
        edit({"new_label": str(new)})
    shifted = label.affine.copy()
    shifted[0, 3] += 1
    nib.save(nib.Nifti1Image(array, shifted), case["label"])
    with pytest.raises(ValueError, match="a corner 1 mm apart"):
        edit(GROW)
    nib.save(nib.Nifti1Image(np.where(array == 5, 9, array).astype(np.uint8), label.affine), case["label"])
    with pytest.raises(ValueError, match="label values 9 are not declared"):
        edit(GROW)
    assert not (tmp_path / "out").exists()


def test_models_that_cannot_edit_and_settings_that_contradict_are_refused(edit) -> None:
    with pytest.raises(ValueError, match="trained without label maps"):
        edit(GROW, conditioning_type=())
    with pytest.raises(ValueError, match="take 'ddim'"):
        edit(GROW, config=EditConfig(method="inversion"), sampling=SamplingConfig(solver="ddpm"))
    with pytest.raises(ValueError, match="this model knows"):
        edit(GROW, conditions={"age": 61})


def test_other_conditions_reach_the_region(edit) -> None:
    images = [
        edit(
            GROW | {"name": f"class_{value}"},
            conditioning_type=("class", "label_map"),
            conditions={"class": value},
        ).run()
        for value in (0, 1)
    ]
    assert not np.array_equal(stored(images[0]), stored(images[1]))


def test_a_condition_left_at_its_null_is_said(edit, tmp_path, caplog) -> None:
    edit(GROW, conditioning_type=("class", "label_map")).run()
    assert "left at what the model learned for an unknown value: class" in caplog.text
    (sidecar,) = (tmp_path / "out" / "sidecars").iterdir()
    assert "unknown value: class" in json.loads(sidecar.read_text())["notes"][0]


def test_unknown_keys_of_the_bundle_are_named(make_model, case, tmp_path) -> None:
    model = make_model(("label_map",))
    with pytest.raises(ValueError, match="Did you mean 'strength'"):
        make_editor(
            LatentDiffusionSampler(model, LatentDiffusionConfig()),
            request=case | GROW,
            config={"strenght": 0.5},
            sampling={},
            preparer=RequestPreparer(model),
            output_dir=tmp_path / "out",
        )


def documented(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.M | re.S)


@pytest.mark.slow
def test_the_documented_command_edits_a_file(make_model, case, tmp_path) -> None:
    (tmp_path / "bundles").symlink_to(BUNDLE.parent)
    (tmp_path / "my_cohort").symlink_to(Path(case["image"]).parents[1])
    content = describe_latent_diffusion(make_model(("label_map",)), LatentDiffusionConfig())()
    save_checkpoint(tmp_path / "outputs" / "latent_diffusion.safetensors", *content)
    (command,) = documented("bash")
    done = run_python([*shlex.split(command)[1:], "--num_steps", "2"], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    image = tmp_path / "outputs" / "edited" / "images" / "edited.nii.gz"
    after = stored(tmp_path / "outputs" / "edited" / "labels" / image.name)
    region = region_of(case, after, margin_mm=3.0)
    assert np.array_equal(stored(image)[~region], stored(case["image"])[~region])
    assert np.array_equal(nib.load(image).affine, nib.load(case["image"]).affine)


def test_the_bundle_refuses_by_name_where_a_request_is_wrong(make_model, case, tmp_path) -> None:
    model = make_model(("label_map",))
    with pytest.raises(ConfigError, match="Unknown structure 'skull'"):
        make_editor(
            LatentDiffusionSampler(model, LatentDiffusionConfig()),
            request=case | GROW | {"structure": "skull"},
            config={},
            sampling={},
            preparer=RequestPreparer(model),
            output_dir=tmp_path / "out",
        )


def test_documented_examples_run(make_model, tmp_path, monkeypatch, capsys) -> None:
    content = describe_latent_diffusion(make_model(("label_map",)), LatentDiffusionConfig())()
    save_checkpoint(tmp_path / "outputs" / "latent_diffusion.safetensors", *content)
    monkeypatch.chdir(tmp_path)
    for code in documented("python"):
        exec(compile(code, PAGE.name, "exec"), {})
    assert capsys.readouterr().out.splitlines() == ["{1: -455, 2: 455}", "True"]


def test_a_model_of_several_channels_is_refused(make_model, case, tmp_path) -> None:
    model = make_model(("label_map",), channels=("t2w", "ct"))
    with pytest.raises(CheckpointError, match=r"2 channels \(t2w, ct\), editing knows images of one channel"):
        Editor(
            EditRequest.from_dict(case | GROW),
            LatentDiffusionSampler(model, LatentDiffusionConfig()),
            preparer=RequestPreparer(model),
            output_dir=tmp_path / "out",
            sampling=FEW,
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("bundle", ["mri_label_ldm", "ct_label_ldm"])
def test_the_workflow_takes_maps_of_some_structures(bundle) -> None:
    content = yaml.safe_load((BUNDLE.parent / bundle / "configs" / "edit.yaml").read_text())
    assert content["structures_in_map"] is None
    assert content["editor"]["preparer"]["structures_in_map"] == "@structures_in_map"


def test_what_the_maps_do_not_cover_is_unknown_and_no_change(make_model, case, tmp_path) -> None:
    """The present map and the new one both hold a core; neither is said to cover it."""
    before = stored(case["label"])
    after = before.copy()
    corner = (slice(0, 3),) * 3
    after[corner] = 1
    new_label = tmp_path / "new.nii.gz"
    nib.save(nib.Nifti1Image(after, nib.load(case["label"]).affine), new_label)
    model = make_model(("label_map",), structure_dropout=0.2)
    editor = Editor(
        EditRequest.from_dict(case | {"new_label": str(new_label)}),
        LatentDiffusionSampler(model, LatentDiffusionConfig()),
        preparer=RequestPreparer(model, structures_in_map=["shell"]),
        output_dir=tmp_path / "out",
        sampling=FEW,
    )
    changed = editor.before != editor.after
    assert changed[corner].all() and changed.sum() == 27
    assert editor.conditions.unknown["label_map"].tolist() == [[False, True]]
    assert not (editor.after == 5).any()
