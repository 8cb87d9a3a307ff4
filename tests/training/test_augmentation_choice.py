"""What the two settings of a bundle choose for a cohort."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from medldm import LatentDiffusionConfig
from medldm.data.cohort import Cohort
from medldm.data.labels import LabelSchema
from medldm.errors import ConfigError
from medldm.latent_diffusion.checkpoints import save_checkpoint
from medldm.latent_diffusion.model_files import describe_autoencoder, make_latent_diffusion
from medldm.training import (
    Augmentation,
    AugmentationConfig,
    LatentDataset,
    RunConfig,
    build_diffusion_training,
    choose_augmentation,
    choose_denoiser,
)

PAIRED = {1: "left eye", 2: "right eye", 3: "nose"}


@pytest.fixture
def first_stage(make_model, tmp_path) -> Path:
    """A checkpoint of an MR and a CT channel."""
    model = make_model(("class",), channels=("t1n", "ct"))
    path = tmp_path / "autoencoder.safetensors"
    save_checkpoint(path, *describe_autoencoder(model.autoencoder, model.space)())
    return path


def cohort(n: int, structures: dict[int, str] | None = None) -> Cohort:
    schema = None if structures is None else LabelSchema(structures=structures)
    return Cohort(root=Path(), training=[{}] * n, validation=[], schema=schema)


def choose(setting: Any, path: Path, *, n: int = 30, structures=None, **options: Any) -> Augmentation | None:
    return choose_augmentation(setting, cohort=cohort(n, structures), autoencoder_path=path, **options)


def test_small_cohorts_are_augmented_by_default_with_more_copies_the_smaller_they_are(first_stage) -> None:
    found = [choose("auto", first_stage, n=n) for n in (5, 249, 250, 499, 500)]
    assert [None if each is None else each.copies for each in found] == [8, 8, 4, 4, None]
    assert choose({"scale": 0.2}, first_stage, n=5000).copies == 2
    assert choose("none", first_stage) is choose(None, first_stage) is None
    assert choose("auto", first_stage, copies=1) is None
    assert choose("auto", first_stage, copies=5).copies == 5


def test_intensities_change_where_they_have_no_fixed_meaning(first_stage) -> None:
    assert choose("auto", first_stage).gammas == (0.15, 0)
    found = choose("auto", first_stage, conditioning_type=["image"], image_intensity="mr_percentile")
    assert found.condition_gamma == 0.15


@pytest.mark.parametrize(
    ("structures", "flip", "expected", "said"),
    [
        (PAIRED, None, True, "change places: left eye and right eye"),
        (PAIRED, False, False, "flip is false"),
        ({1: "anterior", 2: "posterior"}, None, False, "no structure is named as left or right"),
        ({1: "anterior", 2: "posterior"}, True, True, "flip is true, although no structure"),
        (None, None, False, "no structure is named as left or right"),
    ],
)
def test_mirror_images_need_names_or_the_users_word(
    first_stage, caplog, structures, flip, expected, said
) -> None:
    caplog.set_level(logging.INFO)
    found = choose({"flip": flip}, first_stage, structures=structures)
    assert found.flip is expected
    assert said in caplog.text
    assert found.mirror == ({1: 2, 2: 1} if structures is PAIRED else {})


@pytest.mark.parametrize(
    ("setting", "copies", "message"),
    [
        ("yes", "auto", "augmentation is 'yes': auto, none, or limits"),
        ({"rotation": 5}, "auto", "Did you mean 'rotation_deg'"),
        ("auto", 0, "augmentation_copies is 0"),
        ("auto", "many", "augmentation_copies is 'many'"),
    ],
)
def test_other_settings_are_refused(first_stage, setting, copies, message) -> None:
    with pytest.raises(ConfigError, match=message):
        choose(setting, first_stage, copies=copies)


def test_the_denoiser_is_told_and_its_size_goes_by_the_cohort(first_stage, caplog) -> None:
    caplog.set_level(logging.INFO)
    made = choose("auto", first_stage)
    config = choose_denoiser(cohort=cohort(30), autoencoder_path=first_stage, augmentation=made, n_heads=2)
    assert config.augmentation_channels == made.n_channels == 12 + 2 + 1
    assert config.down_channels == (24, 48)
    assert "30 training cases, which are augmented and count twice, and latents of 4 x 5 x 4" in caplog.text
    own = choose_denoiser(
        cohort=cohort(30), autoencoder_path=first_stage, down_channels=[8, 8], n_groups=4, n_heads=2
    )
    assert own.down_channels == (8, 8)
    assert (own.augmentation_channels, own.attention_levels) == (0, (False, True))


def test_a_denoiser_that_is_told_something_else_is_refused_and_one_that_is_not_told_warned_of(
    first_stage, caplog
) -> None:
    config = AugmentationConfig(original_share=0)
    made = Augmentation(config, spacing_mm=(1, 1, 1), copies=2, seed=0, gammas=(0.0, 0.0))
    latents = [{"mean": torch.randn(3, 4, 5, 4), "std": torch.rand(3, 4, 5, 4)} for _ in range(2)]
    copies = [[entry | {"augmentation": torch.ones(made.n_channels)}] for entry in latents]
    data = LatentDataset(latents, copies=copies, augmentation=made)
    unet = choose_denoiser(
        cohort=cohort(30), autoencoder_path=first_stage, down_channels=[8], n_groups=4, n_heads=2
    )
    options = {"config": LatentDiffusionConfig(n_epochs=3), "run": RunConfig(batch_size=2)}
    untold = make_latent_diffusion(first_stage, unet_config=unet)
    build_diffusion_training(untold, data, **options).trainer.run()
    assert "the denoiser is not told how" in caplog.text
    other = make_latent_diffusion(first_stage, unet_config=unet.copy(augmentation_channels=3))
    with pytest.raises(ConfigError, match=r"3 augmentation_channels.*has 15"):
        build_diffusion_training(other, data, **options)
    told = make_latent_diffusion(first_stage, unet_config=unet.copy(augmentation_channels=15))
    # What the time and the augmentation reach starts at zero, and so needs a step or two to move.
    torch.nn.init.normal_(told.denoiser.unet.conv_out.weight)
    build_diffusion_training(told, data, **options).trainer.run()
    assert told.denoiser.unet.augmentation_embedding.linear2.weight.any(), (
        "it has learnt from what it is told"
    )
