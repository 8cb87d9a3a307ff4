"""From a checkpoint to a folder of new label maps."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from medldm import ConditioningConfig, LatentDiffusionConfig, LatentUNetConfig
from medldm.conditioning import Conditions
from medldm.data.labels import LabelSchema, read_label_schema
from medldm.errors import CheckpointError, ConfigError
from medldm.generation.requests import GenerationDataset
from medldm.label_maps.generation import LabelMapInferer, generate_label_maps, generate_paired_label_maps
from medldm.latent_diffusion.checkpoints import save_checkpoint
from medldm.latent_diffusion.label_maps import (
    build_label_map_autoencoder,
    describe_with_schema,
    label_map_space,
    load_label_map_model,
)
from medldm.latent_diffusion.model import LatentDiffusionModel
from medldm.latent_diffusion.model_files import describe_latent_diffusion
from medldm.sampling.config import SamplingConfig

SCHEMA = LabelSchema(structures={1: "shell", 300: "core"})
SPACE = label_map_space((1.0, 2.0, 3.0), (11, 12, 10))
FAST = SamplingConfig(num_steps=2, seed=7)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    autoencoder = build_label_map_autoencoder(
        SCHEMA, down_channels=(4, 8), n_groups=4, mid_attention=False, n_res_blocks=1
    )
    model = LatentDiffusionModel(
        autoencoder_config=autoencoder.config,
        conditioning_config=ConditioningConfig(
            conditioning_type=("scalars",), scalars={"volume_ml:core": (0.0, 1.0)}, context_dim=8
        ),
        unet_config=LatentUNetConfig(down_channels=(8, 16), n_groups=4, n_heads=2, n_res_blocks=1),
        space=SPACE,
    )
    describe = describe_latent_diffusion(model, LatentDiffusionConfig())
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, *describe_with_schema(describe, SCHEMA)())
    return path


@pytest.fixture
def model(checkpoint: Path) -> LatentDiffusionModel:
    """A model with random weights, its output layer included."""
    model, _, _ = load_label_map_model(checkpoint)
    torch.manual_seed(1)
    for weight in model.denoiser.unet.parameters():
        if weight.ndim > 1 and not weight.any():
            torch.nn.init.normal_(weight, std=0.1)
    return model.eval()


def draw(
    model: LatentDiffusionModel,
    *,
    index: int = 0,
    size: tuple[int, ...] = SPACE.size,
    conditions: Conditions | None = None,
    min_island_ml: float = 0.0,
    **settings: int,
) -> torch.Tensor:
    sampling = SamplingConfig(num_steps=2, **settings)
    inferer = LabelMapInferer(LatentDiffusionConfig(), sampling, min_island_ml=min_island_ml)
    return inferer(size, model, conditions=conditions, index=index)


def test_drawn_maps_hold_indices_on_the_training_grid_of_odd_size(model) -> None:
    drawn = draw(model)
    assert drawn.shape == (1, 1, 11, 12, 10)
    assert drawn.dtype == torch.uint8
    assert int(drawn.max()) <= 2
    assert draw(model, size=(5, 8, 9)).shape == (1, 1, 5, 8, 9)


def test_maps_differ_between_indices_and_between_seeds(model) -> None:
    first = draw(model, seed=7)
    assert torch.equal(first, draw(model, seed=7))
    assert not torch.equal(first, draw(model, seed=7, index=2))
    assert not torch.equal(first, draw(model, seed=8))


def test_each_map_follows_its_own_condition(model, monkeypatch) -> None:
    def latents(volume: float) -> torch.Tensor:
        drawn = []
        decode = model.decode
        with monkeypatch.context() as patch:
            patch.setattr(model, "decode", lambda z, **options: drawn.append(z) or decode(z, **options))
            draw(model, conditions=Conditions({"volume_ml:core": torch.tensor([volume])}))
        return torch.cat(drawn)

    assert torch.equal(latents(0.9), latents(0.9))
    assert not torch.equal(latents(0.1), latents(0.9))


def test_islands_are_removed_on_request_only_and_logged(model, caplog) -> None:
    plain = draw(model)
    with caplog.at_level("INFO", logger="medldm.label_maps.generation"):
        cleaned = draw(model, min_island_ml=0.05)
    n_changed = int((plain != cleaned).sum())
    assert n_changed > 0
    (message,) = [record.message for record in caplog.records]
    assert int(message.split()[-3]) >= n_changed


def test_islands_below_nothing_are_refused() -> None:
    with pytest.raises(ConfigError, match="min_island_ml is -1"):
        LabelMapInferer(LatentDiffusionConfig(), FAST, min_island_ml=-1)


def test_files_hold_the_schema_s_values_the_space_s_affine_and_how_to_make_them_again(
    checkpoint, tmp_path
) -> None:
    condition = {"volume_ml:core": 0.3}
    files = generate_label_maps(
        checkpoint, tmp_path / "out", num_samples=2, first_index=3, conditions=condition, sampling=FAST
    )
    assert [file.relative_to(tmp_path / "out").as_posix() for file in files] == [
        "labels/synthetic_0003.nii.gz",
        "labels/synthetic_0004.nii.gz",
    ]
    image = nib.load(files[1])
    values = np.asarray(image.dataobj)
    assert image.get_data_dtype() == np.uint16
    assert np.array_equal(image.affine, SPACE.affine())
    assert read_label_schema(tmp_path / "out" / "labels.json") == SCHEMA
    sidecar = json.loads((tmp_path / "out" / "sidecars" / "synthetic_0004_labels.json").read_text())
    voxel_ml = 1 * 2 * 3 / 1000
    assert sidecar["volumes_ml"] == pytest.approx(
        {"shell": (values == 1).sum() * voxel_ml, "core": (values == 300).sum() * voxel_ml}
    )
    assert (sidecar["conditions"], sidecar["index"]) == (condition, 4)
    again = generate_label_maps(
        checkpoint,
        tmp_path / "again",
        num_samples=1,
        first_index=sidecar["index"],
        conditions=sidecar["conditions"],
        sampling=SamplingConfig.from_dict(sidecar["sampling"]),
        min_island_ml=sidecar["min_island_ml"],
    )
    assert again[0].read_bytes() == files[1].read_bytes()


def test_without_conditions_the_maps_are_those_drawn_from_their_nulls(checkpoint, tmp_path) -> None:
    (file,) = generate_label_maps(checkpoint, tmp_path / "out", num_samples=1, sampling=FAST)
    model, config, _ = load_label_map_model(checkpoint)
    drawn = LabelMapInferer(config, FAST)((11, 12, 10), model, conditions=None, index=0)[0, 0]
    assert np.array_equal(np.asarray(nib.load(file).dataobj), SCHEMA.value_map(drawn).numpy())


def test_a_list_of_conditions_gives_each_map_its_own(checkpoint, tmp_path) -> None:
    conditions = [{"volume_ml:core": 0.1}, {"volume_ml:core": 0.9}]
    generate_label_maps(checkpoint, tmp_path / "out", num_samples=None, conditions=conditions, sampling=FAST)
    sidecars = sorted((tmp_path / "out" / "sidecars").iterdir())
    assert [json.loads(file.read_text())["conditions"] for file in sidecars] == conditions


def test_existing_maps_are_not_replaced_unless_asked(checkpoint, tmp_path) -> None:
    generate_label_maps(checkpoint, tmp_path / "out", num_samples=1, first_index=1, sampling=FAST)
    before = (tmp_path / "out" / "labels" / "synthetic_0001.nii.gz").read_bytes()
    with pytest.raises(FileExistsError, match=r"1 label maps, such as synthetic_0001\.nii\.gz"):
        generate_label_maps(checkpoint, tmp_path / "out", num_samples=2, sampling=SamplingConfig(num_steps=1))
    assert not (tmp_path / "out" / "labels" / "synthetic_0000.nii.gz").exists()
    (file,) = generate_label_maps(
        checkpoint,
        tmp_path / "out",
        num_samples=1,
        first_index=1,
        sampling=SamplingConfig(num_steps=2, seed=8),
        overwrite=True,
    )
    assert file.read_bytes() != before


@pytest.mark.parametrize(
    ("conditions", "message"),
    [({"age": 3}, "age"), ({"volume_ml:core": "much"}, "no number"), ({"volume_ml:core": 9.0}, "0 to 1")],
)
def test_conditions_the_model_does_not_know_are_refused_and_nothing_is_written(
    checkpoint, tmp_path, conditions, message
) -> None:
    with pytest.raises(ValueError, match=message):
        generate_label_maps(checkpoint, tmp_path / "out", num_samples=1, conditions=conditions, sampling=FAST)
    assert not (tmp_path / "out").exists()


def test_a_missing_checkpoint_is_named(tmp_path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        generate_label_maps(tmp_path / "none.safetensors", tmp_path / "out", num_samples=1)


@pytest.mark.parametrize("first_index", [0, 1, 5])
def test_image_i_gets_map_i(checkpoint, tmp_path, first_index) -> None:
    files = generate_paired_label_maps(
        checkpoint,
        tmp_path / "out",
        structures=SCHEMA.structures,
        num_samples=3,
        first_index=first_index,
        sampling=FAST,
    )
    dataset = GenerationDataset(num_samples=3, first_index=first_index, labels=files)
    for request in (dataset[position] for position in range(3)):
        assert Path(request["label"]).name == f"synthetic_{request['index']:04d}.nii.gz"


def test_a_paired_map_does_not_begin_from_the_noise_of_its_image(checkpoint, tmp_path) -> None:
    (paired,) = generate_paired_label_maps(
        checkpoint, tmp_path / "pairs", structures=SCHEMA.structures, num_samples=1, sampling=FAST
    )
    (plain,) = generate_label_maps(checkpoint, tmp_path / "plain", num_samples=1, sampling=FAST)
    assert paired.endswith(plain.name)
    assert Path(paired).read_bytes() != plain.read_bytes()


def test_maps_of_other_structures_than_the_images_are_refused(checkpoint, tmp_path) -> None:
    with pytest.raises(CheckpointError, match=r"makes maps of .*300: 'core'.*but .*2: 'core'.* are needed"):
        generate_label_maps(
            checkpoint, tmp_path / "out", num_samples=1, structures={1: "shell", 2: "core"}, sampling=FAST
        )
