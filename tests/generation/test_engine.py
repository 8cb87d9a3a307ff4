"""Generation: geometry to the bit, intensities mapped back, sidecars, refusals."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from medldm import LatentDiffusionConfig
from medldm.generation.engine import SamplingConfig, generate
from medldm.generation.files import LabelGrid
from medldm.latent_diffusion.checkpoints import save_checkpoint
from medldm.latent_diffusion.model_files import describe_latent_diffusion

FEW = SamplingConfig(num_steps=2, seed=3)


@pytest.fixture
def checkpoint(make_model, tmp_path) -> Path:
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, *describe_latent_diffusion(make_model(("label_map",)), LatentDiffusionConfig())())
    return path


def test_image_and_label_have_the_affine_of_the_map_to_the_bit(checkpoint, make_cohort, tmp_path) -> None:
    labels = make_cohort(2) / "labels"
    images = generate(checkpoint, tmp_path / "out", label_dir=str(labels), sampling=FEW)
    for image, source in zip(images, sorted(labels.iterdir()), strict=True):
        original, written = nib.load(source), nib.load(tmp_path / "out" / "labels" / image.name)
        assert np.array_equal(original.affine, written.affine)
        assert np.array_equal(original.affine, nib.load(image).affine)
        assert np.array_equal(np.asarray(original.dataobj), np.asarray(written.dataobj))
        assert nib.load(image).shape == original.shape


def test_intensities_are_in_the_units_of_the_cohort(checkpoint, make_cohort, tmp_path) -> None:
    labels = make_cohort(1) / "labels"
    (image,) = generate(checkpoint, tmp_path / "out", label_dir=str(labels), sampling=FEW)
    values = nib.load(image).get_fdata()
    assert values.min() >= 10.0
    assert values.max() <= 200.0
    assert values.std() > 0


def test_a_volume_is_the_same_alone_and_among_others(checkpoint, make_cohort, tmp_path) -> None:
    labels = str(make_cohort(3) / "labels")
    many = generate(checkpoint, tmp_path / "many", label_dir=labels, num_samples=3, sampling=FEW)
    (one,) = generate(
        checkpoint, tmp_path / "one", label_dir=labels, num_samples=1, first_index=2, sampling=FEW
    )
    assert one.name == many[2].name == "synthetic_0002.nii.gz"
    assert np.array_equal(nib.load(one).get_fdata(), nib.load(many[2]).get_fdata())


def test_the_sidecar_says_how_to_make_it_again_and_names_nobody(checkpoint, make_cohort, tmp_path) -> None:
    cohort = make_cohort(1, name="Smith_John")
    generate(checkpoint, tmp_path / "out", label_dir=str(cohort / "labels"), sampling=FEW)
    text = (tmp_path / "out" / "sidecars" / "synthetic_0000.json").read_text()
    sidecar = json.loads(text)
    assert sidecar["sampling"] == FEW.to_dict()
    assert sidecar["index"] == 0
    assert set(sidecar) >= {"weights_sha256", "versions", "conditions"}
    assert "Smith" not in text
    assert "case_0" not in text


def test_the_output_is_itself_a_cohort(checkpoint, make_cohort, tmp_path) -> None:
    from medldm.training import open_cohort

    generate(checkpoint, tmp_path / "out", label_dir=str(make_cohort(3) / "labels"), sampling=FEW)
    cohort = open_cohort(str(tmp_path / "out"), validation_fraction=0.34, seed=0)
    assert len(cohort.cases) == 3
    assert cohort.schema.structures == {1: "shell", 5: "core"}


def test_existing_volumes_are_not_replaced_unless_asked(checkpoint, make_cohort, tmp_path) -> None:
    labels = str(make_cohort(1) / "labels")
    generate(checkpoint, tmp_path / "out", label_dir=labels, sampling=FEW)
    with pytest.raises(FileExistsError, match="overwrite"):
        generate(checkpoint, tmp_path / "out", label_dir=labels, sampling=FEW)
    generate(checkpoint, tmp_path / "out", label_dir=labels, sampling=FEW, overwrite=True)


def test_a_map_with_an_unknown_structure_is_refused(checkpoint, make_cohort, tmp_path) -> None:
    labels = make_cohort(1) / "labels"
    file = next(labels.iterdir())
    image = nib.load(file)
    nib.save(nib.Nifti1Image(np.full(image.shape, 9, np.uint8), image.affine), file)
    with pytest.raises(ValueError, match="label values 9 are not declared"):
        generate(checkpoint, tmp_path / "out", label_dir=str(labels), sampling=FEW)
    assert not (tmp_path / "out").exists()


def test_label_grid_is_exact_for_maps_of_the_training_spacing(make_cohort, make_model) -> None:
    """An image made on the networks' grid comes back voxel by voxel, through axis swaps and flips."""
    file = str(next((make_cohort(1) / "labels").iterdir()))
    space = make_model().space
    object.__setattr__(space, "spacing_mm", (1.0, 1.25, 1.0))
    grid = LabelGrid(file, space, multiple=4)
    assert grid.prepared.shape == (1, 20, 20, 20)
    assert np.array_equal(grid.to_file_grid(grid.prepared.clone()), grid.file_labels())


def test_label_grid_resamples_maps_of_another_spacing(make_cohort, make_model) -> None:
    file = str(next((make_cohort(1) / "labels").iterdir()))
    space = make_model().space
    object.__setattr__(space, "spacing_mm", (0.5, 0.5, 0.5))
    grid = LabelGrid(file, space, multiple=4)
    back = grid.to_file_grid((grid.prepared > 0).float())
    original = grid.file_labels() > 0
    overlap = 2 * ((back > 0.5) & original).sum() / ((back > 0.5).sum() + original.sum())
    assert overlap > 0.95


def test_without_label_maps_the_affine_comes_from_the_training_space(make_model, tmp_path) -> None:
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, *describe_latent_diffusion(make_model(()), LatentDiffusionConfig())())
    (image,) = generate(path, tmp_path / "out", num_samples=1, sampling=FEW)
    loaded = nib.load(image)
    assert loaded.shape == (16, 20, 16)
    assert nib.aff2axcodes(loaded.affine) == ("R", "A", "S")
    assert np.allclose(loaded.affine @ [7.5, 9.5, 7.5, 1], [0, 0, 0, 1])
    assert torch.isfinite(torch.from_numpy(loaded.get_fdata())).all()
