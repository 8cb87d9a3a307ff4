"""The train workflows of a package make the packaged model: its networks, its space, its recipe."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from monai.bundle import ConfigParser

from medldm import (
    ConditioningConfig,
    LatentDiffusionConfig,
    LatentDiffusionModel,
    LatentUNetConfig,
    VAEConfig,
    VQVAEConfig,
)
from medldm.data.labels import LabelSchema
from medldm.latent_diffusion.checkpoints import read_card, save_checkpoint
from medldm.latent_diffusion.label_maps import describe_with_schema, label_map_space
from medldm.latent_diffusion.model_files import describe_autoencoder, describe_latent_diffusion
from medldm.latent_diffusion.volume_space import VolumeSpace
from medldm.sharing.card import shareable_card
from medldm.sharing.package import PackageConfig, package_model
from medldm.sharing.shipped import find_bundle
from medldm.sharing.train_configs import write_train_configs
from medldm.transforms import IntensityMapping

SMALL: dict[str, Any] = {"down_channels": (8, 16), "n_groups": 4, "n_res_blocks": 1}
VQ = VQVAEConfig(
    **SMALL, latent_channels=3, n_codes=32, decay=0.9, mid_attention=False, upsampling="trilinear"
)
LAPPED = VAEConfig(down_channels=(8,), n_groups=4, n_res_blocks=3, linear_path="lapped", latent_channels=6)
UNET = LatentUNetConfig(**SMALL, n_heads=2, dropout=0.1, norm_eps=1e-5, position_frequencies=3)
PATHS = {
    "scaled": LatentDiffusionConfig(
        prediction_type="v_prediction", noise_schedule="scaled_linear", beta_start=0.001, n_timesteps=500
    ),
    "flow": LatentDiffusionConfig(
        prediction_type="edm", noise_schedule="flow", edm_spread="modes", time_shift=2.0, logit_mean=0.4
    ),
}
RECIPE = {
    "autoencoder": {
        **{"n_steps": 123, "batch_size": 3, "patience": 7, "learning_rate": 0.002, "warmup_steps": 40},
        **{"adversarial_start": 0.25, "regularisation_weight": 0.5, "weight_decay": 0.01},
        **{"patch_size": [8, 8, 8], "gradient_clip": "inf"},
    },
    "diffusion": {
        **{"n_steps": 456, "batch_size": 5, "learning_rate": 0.0003, "warmup_steps": 100, "patience": None},
        **{"loss_weighting": "min_snr", "region_weights": {"core": 3.0}, "weight_decay": 0.05},
        **{"augmentation": "none", "decoder_steps": 77, "latent_scaling": "unit"},
    },
}


def model_of_images(autoencoder: VAEConfig | VQVAEConfig, **options: Any) -> LatentDiffusionModel:
    torch.manual_seed(0)
    return LatentDiffusionModel(
        autoencoder_config=autoencoder,
        unet_config=UNET,
        conditioning_config=ConditioningConfig(
            conditioning_type=["label_map"],
            structures={1: "shell", 5: "core"},
            label_channels=4,
            conditioning_dropout=0.2,
            structure_dropout=0.4,
        ),
        space=VolumeSpace(
            spacing_mm=(2, 2, 1.5),
            size=(16, 20, 16),
            intensity=IntensityMapping(kind="ct_window", lower=-500, upper=500),
        ),
        **options,
    )


def describe(model: LatentDiffusionModel, config: LatentDiffusionConfig, **more: Any) -> dict[str, Any]:
    if config.edm_spread == "modes":
        model.set_latent_spectrum(torch.ones(model.autoencoder.latent_channels, 4, 5, 4))
    return {**describe_latent_diffusion(model, config)()[1], **more}


@pytest.fixture
def workflows(tmp_path: Path):
    """Write the workflows of a bundle for a model."""

    def write(model: LatentDiffusionModel, card: dict[str, Any], bundle: str) -> dict[str, Path]:
        files = {stage: tmp_path / bundle / f"train_{stage}.yaml" for stage in ("autoencoder", "diffusion")}
        for file in files.values():
            file.parent.mkdir(exist_ok=True)
            shutil.copy(find_bundle(bundle).config(file.stem), file)
        write.notes = write_train_configs(tmp_path / bundle, model, card)
        return files

    return write


def parse(file: Path, **knobs: Any) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config(str(file))
    parser.update({"device": "cpu", **{name: str(value) for name, value in knobs.items()}})
    return parser


@pytest.mark.parametrize(("autoencoder", "path"), [(VQ, "scaled"), (LAPPED, "flow")], ids=["vqvae", "lapped"])
def test_the_workflows_build_the_packaged_model(autoencoder, path, workflows, make_cohort, tmp_path) -> None:
    model, cohort = model_of_images(autoencoder), make_cohort(4)
    files = workflows(model, describe(model, PATHS[path], recipe=RECIPE), "mri_label_ldm")
    first = parse(files["autoencoder"], dataset_dir=cohort, output_dir=tmp_path / "out")
    assert first.get_parsed_content("network_def").config == model.autoencoder_config
    space = first.get_parsed_content("space")
    assert (space.spacing_mm, space.size, space.intensity) == (
        model.space.spacing_mm,
        model.space.size,
        model.space.intensity,
    )
    trained = tmp_path / "out" / "autoencoder.safetensors"
    save_checkpoint(trained, *describe_autoencoder(model.autoencoder, model.space)())
    second = parse(files["diffusion"], dataset_dir=cohort, output_dir=tmp_path / "out")
    built = second.get_parsed_content("model")
    assert built.unet_config == model.unet_config
    assert built.conditioning_config == model.conditioning_config
    config = second.get_parsed_content("config")
    assert config.describe_diffusion() == PATHS[path].describe_diffusion()
    assert config.edm_spread == PATHS[path].edm_spread


def test_the_workflows_have_the_recipe_that_the_card_records(workflows) -> None:
    model = model_of_images(LAPPED)
    files = workflows(model, describe(model, PATHS["flow"], recipe=RECIPE), "ct_label_ldm")
    first, second = (yaml.safe_load(files[stage].read_text()) for stage in ("autoencoder", "diffusion"))
    for name in ("n_steps", "batch_size", "patience", "warmup_steps", "adversarial_start", "patch_size"):
        assert first[name] == RECIPE["autoencoder"][name], name
    assert first["loss"]["config"]["regularisation_weight"] == 0.5
    assert first["training"]["config"]["gradient_clip"] == float("inf")
    # The knob itself stays "auto": a training that starts from weights takes a third.
    assert (first["learning_rate"], first["auto_learning_rate"]) == ("auto", 0.002)
    for name in ("n_steps", "batch_size", "patience", "loss_weighting", "region_weights", "decoder_steps"):
        assert second[name] == RECIPE["diffusion"][name], name
    assert second["config"]["weight_decay"] == 0.05
    assert (second["auto_learning_rate"], second["warmup_steps"]) == (0.0003, "auto")
    assert workflows.notes == ("train_autoencoder.yaml: has no place for weight_decay",)


def test_a_card_without_recipe_says_what_is_the_bundles(workflows) -> None:
    model = model_of_images(LAPPED)
    files = workflows(model, describe(model, PATHS["flow"]), "mri_label_ldm")
    of_bundle = yaml.safe_load(find_bundle("mri_label_ldm").config("train_diffusion").read_text())
    assert yaml.safe_load(files["diffusion"].read_text())["batch_size"] == of_bundle["batch_size"]
    assert len(workflows.notes) == 2 and all("does not record rates" in note for note in workflows.notes)


def test_the_workflows_of_label_maps_build_theirs(workflows, make_cohort, tmp_path) -> None:
    schema = LabelSchema(structures={1: "shell", 5: "core"})
    autoencoder = VAEConfig(**SMALL, in_channels=3, out_channels=3, norm_eps=1e-5, latent_channels=5)
    model = LatentDiffusionModel(
        autoencoder_config=autoencoder,
        unet_config=UNET,
        space=label_map_space((2.0, 2.0, 1.5), (16, 20, 16)),
        makes_label_maps=True,
    )
    describing = describe_with_schema(lambda: ({}, describe(model, PATHS["scaled"])), schema)
    files = workflows(model, describing()[1], "labelmap_ldm")
    first = parse(files["autoencoder"], dataset_dir=make_cohort(4), output_dir=tmp_path / "out")
    assert first.get_parsed_content("network_def").config == model.autoencoder_config
    assert first.get_parsed_content("space") == model.space
    second = yaml.safe_load(files["diffusion"].read_text())
    assert second["config"]["n_timesteps"] == 500 and second["model"]["unet_config"]["norm_eps"] == 1e-5
    assert (second["down_channels"], second["conditioning_type"]) == ([8, 16], [])


def test_nothing_in_a_card_becomes_an_expression(workflows) -> None:
    model = model_of_images(LAPPED)
    evil = {"augmentation": "$__import__('os').system('x')", "region_weights": {"@model": 1.0}}
    recipe = {"diffusion": {**evil, "batch_size": 9}}
    files = workflows(model, describe(model, PATHS["flow"], recipe=recipe), "mri_label_ldm")
    assert "import" not in files["diffusion"].read_text()
    assert yaml.safe_load(files["diffusion"].read_text())["region_weights"] is None
    assert any("augmentation, region_weights" in note for note in workflows.notes)


def test_a_package_has_the_workflows_and_keeps_the_recipe_without_paths(save_model, tmp_path) -> None:
    recipe = {"diffusion": {"batch_size": 9, "source": "/home/anna/scans"}}
    options = {"licence": "Apache-2.0", "torchscript": False}
    package = package_model(
        save_model(more={"recipe": recipe}), tmp_path / "shared", PackageConfig(**options)
    )
    second = yaml.safe_load((package.folder / "configs" / "train_diffusion.yaml").read_text())
    assert (second["batch_size"], second["down_channels"], second["n_heads"]) == (9, [8, 16], 2)
    first = yaml.safe_load((package.folder / "configs" / "train_autoencoder.yaml").read_text())
    assert (first["down_channels"], first["latent_channels"], first["split_seed"]) == ([4, 8, 8], 3, 3)
    card = read_card(package.folder / "models" / "latent_diffusion.safetensors")
    assert (
        card["recipe"] == shareable_card({"recipe": recipe})[0]["recipe"] == {"diffusion": {"batch_size": 9}}
    )
    assert "train_autoencoder.yaml: the checkpoint does not record" in package.table()
