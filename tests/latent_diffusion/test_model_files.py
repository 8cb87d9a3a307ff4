"""Models rebuilt from their files alone, and the refusal of what does not belong together."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from medldm import LatentDiffusionConfig, LatentUNetConfig, VAEConfig, VQVAEConfig
from medldm.errors import CheckpointError
from medldm.latent_diffusion.checkpoints import load_checkpoint, save_checkpoint
from medldm.latent_diffusion.model import make_autoencoder
from medldm.latent_diffusion.model_files import (
    agree_on_channels,
    describe_autoencoder,
    describe_latent_diffusion,
    load_autoencoder,
    load_latent_diffusion,
    make_latent_diffusion,
    require_channels_of,
)

SMALL = {"down_channels": (4, 8), "n_groups": 4, "mid_attention": False}
UNET = LatentUNetConfig(down_channels=(8, 16), n_groups=4, n_heads=2)


def write_autoencoder(path: Path, config: VAEConfig | VQVAEConfig, *, seed: int = 0, space=None) -> Path:
    torch.manual_seed(seed)
    save_checkpoint(path, *describe_autoencoder(make_autoencoder(config), space)())
    return path


@pytest.mark.parametrize("config", [VAEConfig(**SMALL), VQVAEConfig(**SMALL)], ids=["vae", "vqvae"])
def test_both_stages_are_rebuilt_from_their_files(tmp_path, make_model, config) -> None:
    space = make_model().space
    first = write_autoencoder(tmp_path / "a.safetensors", config, space=space)
    model = make_latent_diffusion(first, unet_config=UNET)
    assert model.space == space
    save_checkpoint(tmp_path / "m.safetensors", *describe_latent_diffusion(model, LatentDiffusionConfig())())
    rebuilt, found, _ = load_latent_diffusion(tmp_path / "m.safetensors", autoencoder_path=first)
    assert rebuilt.space == space
    assert found.noise_path() == LatentDiffusionConfig().noise_path()
    volume = torch.randn(1, 1, 9, 8, 8)
    assert torch.equal(rebuilt.reconstruct(volume), model.eval().reconstruct(volume))


def test_the_other_type_of_autoencoder_is_refused(tmp_path) -> None:
    path = write_autoencoder(tmp_path / "a.safetensors", VAEConfig(**SMALL))
    with pytest.raises(CheckpointError, match="holds a 'vae', but autoencoder_type is 'vqvae'"):
        load_autoencoder(path, autoencoder_type="vqvae")


def test_an_autoencoder_of_other_weights_is_refused(tmp_path) -> None:
    own = write_autoencoder(tmp_path / "a.safetensors", VAEConfig(**SMALL), seed=0)
    other = write_autoencoder(tmp_path / "b.safetensors", VAEConfig(**SMALL), seed=1)
    model = make_latent_diffusion(own, unet_config=UNET)
    save_checkpoint(tmp_path / "m.safetensors", *describe_latent_diffusion(model, LatentDiffusionConfig())())
    with pytest.raises(CheckpointError, match="was trained on the autoencoder"):
        load_latent_diffusion(tmp_path / "m.safetensors", autoencoder_path=other)


def test_the_card_says_all_and_names_no_path(tmp_path, make_model) -> None:
    config = LatentDiffusionConfig(autoencoder_path="secret/name/autoencoder.safetensors")
    save_checkpoint(tmp_path / "m.safetensors", *describe_latent_diffusion(make_model(), config)())
    card = load_checkpoint(tmp_path / "m.safetensors").card
    assert {"autoencoder", "unet", "conditioning", "diffusion", "space", "versions", "weights_sha256"} <= set(
        card
    )
    assert card["conditioning"]["structures"] == {"1": "shell", "5": "core"}
    assert b"secret" not in (tmp_path / "m.safetensors").read_bytes()


def test_the_channels_of_stage_2_are_those_of_stage_1_in_its_order(make_model, tmp_path) -> None:
    model = make_model(channels=("t2w", "ct"))
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, *describe_autoencoder(model.autoencoder, model.space)())
    assert agree_on_channels(path, None) == agree_on_channels(path, ["ct", "t2w"]) == ("t2w", "ct")
    with pytest.raises(CheckpointError, match=r"trained on the channels \['t2w', 'ct'\], but channels are"):
        agree_on_channels(path, ["t2w"])
    require_channels_of(path, ("t2w", "ct"))
    assert make_latent_diffusion(path, unet_config=UNET).space.channels == ("t2w", "ct")


def test_one_channel_without_a_name_takes_any_one(make_model, tmp_path) -> None:
    model = make_model()
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, *describe_autoencoder(model.autoencoder, model.space)())
    assert agree_on_channels(path, None) is None and agree_on_channels(path, ["t1n"]) == ("t1n",)
    require_channels_of(path, ())
    require_channels_of(path, ("t1n",))
    with pytest.raises(CheckpointError, match="one channel without a name, but channels are"):
        agree_on_channels(path, ["t1n", "t2w"])
    with pytest.raises(CheckpointError, match=r"the cohort has \['t1n', 't2w'\]: choose one"):
        require_channels_of(path, ("t1n", "t2w"))
