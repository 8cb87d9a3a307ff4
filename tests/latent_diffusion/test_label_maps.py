"""Models of label maps: one-hot volumes, the schema in the checkpoint."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from medldm import ConditioningConfig, LatentDiffusionConfig, LatentDiffusionModel, LatentUNetConfig
from medldm.data.cohort import Cohort, read_cohort
from medldm.data.labels import LabelSchema
from medldm.errors import CheckpointError
from medldm.latent_diffusion.checkpoints import load_checkpoint, save_checkpoint
from medldm.latent_diffusion.label_maps import (
    build_label_map_autoencoder,
    decode_indices,
    describe_with_schema,
    encode_one_hot,
    label_map_space,
    load_label_map_model,
    make_label_map_diffusion,
    require_schema,
    schema_of,
)
from medldm.latent_diffusion.model_files import describe_autoencoder, describe_latent_diffusion
from medldm.latent_diffusion.volume_space import VolumeSpace
from medldm.sampling.sampler import LatentDiffusionSampler

SCHEMA = LabelSchema(structures={1: "shell", 5: "core"}, colours={5: "#00ff00"})
SPACE = label_map_space((1.0, 2.0, 3.0), (11, 12, 10))
SMALL = {"down_channels": (4, 8), "n_groups": 4, "mid_attention": False, "n_res_blocks": 1}
UNET = LatentUNetConfig(down_channels=(8, 16), n_groups=4, n_heads=2, n_res_blocks=1)
VOLUME = ConditioningConfig(
    conditioning_type=("scalars",), scalars={"volume_ml:core": (0.0, 1.0)}, context_dim=8
)
CONFIG = LatentDiffusionConfig()


def save_first_stage(path: Path, schema: LabelSchema = SCHEMA) -> Path:
    torch.manual_seed(0)
    network = build_label_map_autoencoder(schema, **SMALL)
    save_checkpoint(path, *describe_with_schema(describe_autoencoder(network, SPACE), schema)())
    return path


@pytest.fixture
def model(tmp_path: Path) -> LatentDiffusionModel:
    """A model with random weights, its output layer included."""
    path = save_first_stage(tmp_path / "autoencoder.safetensors")
    model = make_label_map_diffusion(path, schema=SCHEMA, conditioning_config=VOLUME, unet_config=UNET)
    for weight in model.denoiser.unet.parameters():
        if weight.ndim > 1 and not weight.any():
            torch.nn.init.normal_(weight, std=0.1)
    return model.eval()


def test_one_hot_and_back_is_the_identity(generator) -> None:
    indices = torch.randint(5, (2, 1, 3, 5, 4), generator=generator, dtype=torch.uint8)
    volume = encode_one_hot(indices, 6)
    assert volume.shape == (2, 6, 3, 5, 4)
    assert volume.dtype == torch.float32
    assert torch.equal(volume.sum(1), torch.ones(2, 3, 5, 4))
    assert torch.equal(decode_indices(volume), indices)


def test_the_autoencoder_has_a_channel_for_each_structure_and_the_background() -> None:
    network = build_label_map_autoencoder(SCHEMA, **SMALL)
    assert network(torch.zeros(1, 3, 11, 12, 10)).reconstruction.shape == (1, 3, 11, 12, 10)


def test_the_space_survives_its_description() -> None:
    assert VolumeSpace.from_dict(SPACE.to_dict()) == SPACE


def test_the_schema_travels_in_the_file_of_both_stages(model, tmp_path) -> None:
    first = load_checkpoint(tmp_path / "autoencoder.safetensors", kind="autoencoder")
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, *describe_with_schema(describe_latent_diffusion(model, CONFIG), SCHEMA)())
    loaded, config, schema = load_label_map_model(path)
    assert schema_of(first) == schema == SCHEMA
    assert loaded.space == SPACE
    for n_steps in (1, 2):
        latents = [
            LatentDiffusionSampler(each, config).sample(
                (2, each.autoencoder.latent_channels, 6, 6, 5), num_steps=n_steps
            )
            for each in (model, loaded)
        ]
        assert torch.equal(*latents)


def test_a_model_of_images_is_refused(make_model, tmp_path) -> None:
    images = make_model(())
    path = tmp_path / "images.safetensors"
    save_checkpoint(path, *describe_latent_diffusion(images, CONFIG)())
    with pytest.raises(CheckpointError, match="not of a model of label maps"):
        load_label_map_model(path)
    save_checkpoint(path, *describe_autoencoder(images.autoencoder, images.space)())
    with pytest.raises(CheckpointError, match="not of a model of label maps"):
        make_label_map_diffusion(path, schema=SCHEMA)


def test_a_first_stage_of_other_structures_is_refused_by_name(tmp_path) -> None:
    path = save_first_stage(tmp_path / "a.safetensors", LabelSchema(structures={1: "shell", 2: "core"}))
    with pytest.raises(CheckpointError, match=r"\{1: 'shell', 2: 'core'\}.*\{1: 'shell', 5: 'core'\}"):
        make_label_map_diffusion(path, schema=SCHEMA)


def test_a_label_map_cannot_condition_a_label_map(tmp_path) -> None:
    path = save_first_stage(tmp_path / "a.safetensors")
    config = ConditioningConfig(conditioning_type=("label_map",), structures=dict(SCHEMA.structures))
    with pytest.raises(ValueError, match=r"conditions name \['label_map'\]"):
        make_label_map_diffusion(path, schema=SCHEMA, conditioning_config=config)


def test_a_cohort_without_label_maps_is_refused(make_cohort) -> None:
    cohort = read_cohort(make_cohort(2), validation_fraction=0.0)
    assert require_schema(cohort).structures == SCHEMA.structures
    with pytest.raises(ValueError, match="no label maps"):
        require_schema(Cohort(training=[], validation=[], schema=None, root=cohort.root))
    many = LabelSchema(structures={value: f"s{value}" for value in range(1, 257)})
    with pytest.raises(ValueError, match="256 structures; 255 at most"):
        require_schema(Cohort(training=[], validation=[], schema=many, root=cohort.root))


def test_two_hundred_and_fifty_five_structures_fit_one_byte() -> None:
    logits = torch.zeros(1, 256, 1, 1, 1)
    logits[0, 255] = 1.0
    assert np.asarray(decode_indices(logits)).item() == 255
