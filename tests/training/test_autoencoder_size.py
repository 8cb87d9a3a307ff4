"""How far an autoencoder compresses follows the volumes' size, and the user's own settings win."""

from __future__ import annotations

import math
from typing import Any

import pytest

from medldm.errors import ConfigError
from medldm.networks import VAEConfig
from medldm.planning.networks import networks_of_bundle
from medldm.training.autoencoder_size import choose_autoencoder, fit_autoencoder_size

BUNDLE = "medldm/bundles/mri_label_ldm"
AUTO: dict[str, Any] = {
    "down_channels": "auto",
    "latent_channels": "auto",
    "linear_path": "lapped",
    "downsampling": None,
}


@pytest.mark.parametrize(
    ("own", "size", "levels", "latents", "factor"),
    [
        ({}, (32, 48, 32), (16,), 8, 2),
        ({}, (64, 64, 64), (16,), 8, 2),
        ({}, (64, 64, 65), (32, 64), 16, 4),
        ({"linear_path": False}, (32, 48, 32), (32, 64), 4, 2),
        ({"linear_path": False}, (96, 96, 96), (32, 64, 128), 4, 4),
        ({"downsampling": [4, 4, 1]}, (32, 48, 32), (16, 32), 16, 4),
        ({"down_channels": [8, 16, 32]}, (32, 48, 32), (8, 16, 32), 32, 8),
        ({"downsampling": [2, 2, 1]}, (32, 48, 32), (16,), 4, 2),
        ({"in_channels": 2, "out_channels": 2}, (32, 48, 32), (16,), 16, 2),
        ({"latent_channels": 6}, (32, 48, 32), (32,), 6, 2),
    ],
)
def test_levels_and_channels_follow_the_size(
    own: dict[str, Any], size: tuple[int, int, int], levels: tuple[int, ...], latents: int, factor: int
) -> None:
    fitted, reason = fit_autoencoder_size(AUTO | own, size=size, n_channels=own.get("in_channels", 1))
    assert tuple(fitted["down_channels"]) == levels and fitted["latent_channels"] == latents
    assert f"compressed {factor} times" in reason
    config = VAEConfig(**fitted, n_groups=8, mid_attention=False)
    is_whole = own.get("in_channels", 1) * math.prod(config.downsampling or ()) == latents
    assert ("nothing lost" in reason) == (is_whole and bool(config.linear_path))
    assert max(config.downsampling or ()) == factor


def test_the_users_own_settings_win_and_other_words_are_refused() -> None:
    own = AUTO | {"down_channels": [8, 16], "latent_channels": 3}
    assert fit_autoencoder_size(own, size=(32, 48, 32)) == (own, "")
    with pytest.raises(ConfigError, match=r"down_channels is 'small': auto, or a value such as \[32, 64\]"):
        fit_autoencoder_size(AUTO | {"down_channels": "small"}, size=(8, 8, 8))
    with pytest.raises(ConfigError, match="latent_channels is 'four': auto, or a value such as 4"):
        choose_autoencoder("vae", size=(8, 8, 8), options=AUTO | {"latent_channels": "four"})


def test_a_plan_says_what_the_training_will_choose() -> None:
    small = networks_of_bundle(BUNDLE, size=(32, 48, 32))
    large = networks_of_bundle(BUNDLE, size=(160, 192, 160))
    assert (small.autoencoder.latent_channels, large.autoencoder.latent_channels) == (8, 16)
    assert "32 x 48 x 32 voxels, compressed 2 times" in small.autoencoder_choice
    built = choose_autoencoder(
        "vae", size=(32, 48, 32), options=AUTO | {"n_groups": 8, "mid_attention": False}
    )
    assert built.config == small.autoencoder
