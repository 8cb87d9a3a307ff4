"""Generation: geometry to the bit, intensities mapped back, sidecars, refusals."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from medldm import LatentDiffusionConfig
from medldm.data import check_cohort, read_cohort
from medldm.data.labels import LabelSchema
from medldm.errors import CheckpointError
from medldm.generation.engine import LatentDiffusionInferer, SamplingConfig, generate
from medldm.generation.files import LabelGrid, SyntheticWriter
from medldm.generation.requests import make_preparer
from medldm.latent_diffusion.checkpoints import save_checkpoint
from medldm.latent_diffusion.label_maps import describe_with_schema
from medldm.latent_diffusion.model_files import describe_latent_diffusion, load_latent_diffusion
from medldm.latent_diffusion.texture import TABLE_SHAPE, Texture

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
    grid = LabelGrid(file, space, multiple=(4, 4, 4))
    assert grid.prepared.shape == (1, 20, 20, 20)
    assert np.array_equal(grid.to_file_grid(grid.prepared.clone()), grid.file_labels())


def test_label_grid_resamples_maps_of_another_spacing(make_cohort, make_model) -> None:
    file = str(next((make_cohort(1) / "labels").iterdir()))
    space = make_model().space
    object.__setattr__(space, "spacing_mm", (0.5, 0.5, 0.5))
    grid = LabelGrid(file, space, multiple=(4, 4, 4))
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


CHANNELS = ("t2w", "ct")


@pytest.fixture
def of_channels(make_model, tmp_path) -> Path:
    """A model of two channels, the second one CT."""
    path = tmp_path / "channels.safetensors"
    model = make_model(("label_map",), channels=CHANNELS)
    save_checkpoint(path, *describe_latent_diffusion(model, LatentDiffusionConfig())())
    return path


def test_each_channel_is_written_in_its_own_units_and_type(of_channels, make_cohort, tmp_path) -> None:
    labels = make_cohort(2) / "labels"
    files = generate(of_channels, tmp_path / "out", label_dir=str(labels), sampling=FEW)
    assert [file.name for file in files] == [
        f"synthetic_{index:04d}_{name}.nii.gz" for index in range(2) for name in CHANNELS
    ]
    model, config, _ = load_latent_diffusion(of_channels)
    preparer = make_preparer(model)
    source = sorted(labels.iterdir())[1]
    request = preparer.prepare({"index": 1, "label": str(source), "conditions": {}})
    volume = LatentDiffusionInferer(config, FEW)(request.size, model, conditions=request.conditions, index=1)[
        0
    ]
    for place, (mapping, file) in enumerate(zip(model.space.intensities, files[2:], strict=True)):
        expected = np.asarray(mapping.from_model(request.grid.to_file_grid(volume[place : place + 1])))
        stored = nib.load(file)
        assert stored.get_data_dtype() == expected.dtype
        assert np.array_equal(np.asarray(stored.dataobj), expected)
        assert np.array_equal(stored.affine, nib.load(source).affine)
    assert nib.load(files[1]).get_data_dtype() == np.int16
    sidecar = json.loads((tmp_path / "out" / "sidecars" / "synthetic_0001.json").read_text())
    assert sidecar["channels"] == ["t2w", "ct"]


@pytest.mark.parametrize("endings", ["name", "number"])
def test_the_output_of_several_channels_is_itself_a_cohort(
    of_channels, make_cohort, tmp_path, endings
) -> None:
    labels = str(make_cohort(3) / "labels")
    files = generate(of_channels, tmp_path / "out", label_dir=labels, sampling=FEW, channel_endings=endings)
    cohort = read_cohort(tmp_path / "out", validation_fraction=0)
    assert check_cohort(cohort, full=True) == []
    assert cohort.channels == CHANNELS
    assert [file for case in cohort.cases for file in case["image"]] == [str(file) for file in files]
    if endings == "number":
        assert [file.name for file in files[:2]] == [
            "synthetic_0000_0000.nii.gz",
            "synthetic_0000_0001.nii.gz",
        ]


def test_channels_from_noise_have_one_affine(make_model, tmp_path) -> None:
    path = tmp_path / "m.safetensors"
    model = make_model((), channels=CHANNELS)
    save_checkpoint(path, *describe_latent_diffusion(model, LatentDiffusionConfig())())
    first, second = (nib.load(file) for file in generate(path, tmp_path / "out", num_samples=1, sampling=FEW))
    assert np.array_equal(first.affine, second.affine) and first.shape == second.shape == (16, 20, 16)
    assert not np.array_equal(first.get_fdata(), second.get_fdata())


def test_existing_files_of_any_channel_are_not_replaced(of_channels, make_cohort, tmp_path) -> None:
    labels = str(make_cohort(1) / "labels")
    files = generate(of_channels, tmp_path / "out", label_dir=labels, sampling=FEW)
    files[0].unlink()
    with pytest.raises(FileExistsError, match=r"1 volumes, such as synthetic_0000_ct.nii.gz"):
        generate(of_channels, tmp_path / "out", label_dir=labels, sampling=FEW)
    generate(of_channels, tmp_path / "out", label_dir=labels, sampling=FEW, overwrite=True)
    assert all(file.is_file() for file in files)


@pytest.mark.parametrize("first_is_several", [True, False])
def test_volumes_of_other_channels_do_not_join_a_folder(
    of_channels, checkpoint, make_cohort, tmp_path, first_is_several
) -> None:
    labels = str(make_cohort(1) / "labels")
    models = [of_channels, checkpoint][:: 1 if first_is_several else -1]
    generate(models[0], tmp_path / "out", label_dir=labels, sampling=FEW)
    before = sorted((tmp_path / "out").rglob("*"))
    with pytest.raises(FileExistsError, match="one channel without a name"):
        generate(models[1], tmp_path / "out", label_dir=labels, sampling=FEW, first_index=5, overwrite=True)
    if first_is_several:
        options = {"label_dir": labels, "sampling": FEW, "first_index": 1}
        with pytest.raises(FileExistsError, match="named otherwise"):
            generate(of_channels, tmp_path / "out", channel_endings="number", **options)
    assert sorted((tmp_path / "out").rglob("*")) == before


def test_other_endings_are_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match="channel_endings is 'letter': choose from"):
        SyntheticWriter(tmp_path, channel_endings="letter")


def test_a_model_of_label_maps_is_known_by_its_card(make_model, tmp_path) -> None:
    """Two channels are no sign of label maps, and a model of them is refused as it was."""
    make_preparer(make_model(("label_map",), channels=CHANNELS))
    schema = LabelSchema(structures={1: "shell"})
    images = make_model((), channels=CHANNELS)
    describe = describe_with_schema(describe_latent_diffusion(images, LatentDiffusionConfig()), schema)
    save_checkpoint(tmp_path / "maps.safetensors", *describe())
    with pytest.raises(CheckpointError, match="makes label maps, not images"):
        make_preparer(load_latent_diffusion(tmp_path / "maps.safetensors")[0])
    images.space = make_model().space
    with pytest.raises(CheckpointError, match="makes 2 channels, its card has the intensities of 1"):
        make_preparer(images)


def test_the_sidecar_says_whether_texture_was_drawn(make_model, make_cohort, tmp_path) -> None:
    model = make_model(("label_map",))
    model.texture = Texture(torch.ones(1, 2, 2, 2), torch.full((1, *TABLE_SHAPE), 0.1))
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, *describe_latent_diffusion(model, LatentDiffusionConfig())())
    labels = str(make_cohort(1) / "labels")
    volumes = {}
    for drawn, choice in ((True, "auto"), (False, False)):
        folder = tmp_path / str(drawn)
        (image,) = generate(path, folder, label_dir=labels, sampling=FEW.copy(texture=choice))
        volumes[drawn] = nib.load(image).get_fdata()
        sidecar = json.loads((folder / "sidecars" / "synthetic_0000.json").read_text())
        assert sidecar["texture"] == {"drawn": drawn, "sha256": model.texture.sha256}
        assert sidecar["sampling"]["texture"] == choice
    assert not np.array_equal(volumes[True], volumes[False])
