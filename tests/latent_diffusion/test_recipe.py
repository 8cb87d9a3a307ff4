"""The settings of both stages stay with the model through its files."""

from __future__ import annotations

import pytest

from medldm import LatentDiffusionConfig
from medldm.errors import CheckpointError
from medldm.latent_diffusion.checkpoints import read_card, save_checkpoint
from medldm.latent_diffusion.model_files import (
    describe_autoencoder,
    describe_latent_diffusion,
    load_latent_diffusion,
    make_latent_diffusion,
)
from medldm.latent_diffusion.recipe import RECIPE_KEY, describe_recipe, recipe_in


def test_the_recipe_of_the_first_stage_comes_with_the_second(make_model, tmp_path) -> None:
    own = make_model()
    first, second = tmp_path / "autoencoder.safetensors", tmp_path / "latent_diffusion.safetensors"
    recipe = {"autoencoder": {"n_steps": 3, "learning_rate": 0.1}}
    save_checkpoint(first, *describe_autoencoder(own.autoencoder, own.space, recipe=recipe)())
    model = make_latent_diffusion(
        first, conditioning_config=own.conditioning_config, unet_config=own.unet_config
    )
    model.recipe["diffusion"] = {"n_steps": 5}
    save_checkpoint(second, *describe_latent_diffusion(model, LatentDiffusionConfig())())
    both = {**recipe, "diffusion": {"n_steps": 5}}
    assert recipe_in(read_card(second)) == both
    assert load_latent_diffusion(second)[0].recipe == both


def test_a_card_of_before_has_none(make_model, tmp_path) -> None:
    path = tmp_path / "old.safetensors"
    save_checkpoint(path, *describe_latent_diffusion(make_model(), LatentDiffusionConfig())())
    assert RECIPE_KEY not in read_card(path) and load_latent_diffusion(path)[0].recipe == {}
    assert describe_recipe({"autoencoder": {}}) == {} == describe_recipe(None)


@pytest.mark.parametrize("strange", [3, ["a"], {"diffusion": 1}])
def test_a_strange_recipe_is_refused(strange) -> None:
    with pytest.raises(CheckpointError, match="does not describe a recipe"):
        recipe_in({RECIPE_KEY: strange})
