from __future__ import annotations

import logging
from typing import Any

import pytest
from monai.networks.nets import VQVAE as MonaiVQVAE
from monai.networks.nets import AutoencoderKL, DiffusionModelUNet

from medldm.networks.pretrained.monai_arguments import (
    complete_arguments,
    read_autoencoder_arguments,
    read_unet_arguments,
    read_vqvae_arguments,
    unet_config_from_monai,
    vae_config_from_monai,
    vqvae_config_from_monai,
)

AUTOENCODER = {"spatial_dims": 3, "channels": [4, 8], "attention_levels": [False, True], "norm_num_groups": 2}
DENOISER = AUTOENCODER | {"in_channels": 3, "out_channels": 3, "num_res_blocks": 1, "num_head_channels": 4}


@pytest.mark.parametrize(
    "changes",
    [
        {"num_res_blocks": [1, 2]},
        {"num_res_blocks": 1, "with_encoder_nonlocal_attn": False, "use_convtranspose": True},
        {"num_res_blocks": 1, "with_decoder_nonlocal_attn": False, "norm_eps": 1e-4},
        {"num_res_blocks": 1, "include_fc": False, "use_combined_linear": True, "use_checkpoint": True},
    ],
)
def test_autoencoder_module_tells_the_arguments_it_was_made_with(changes: dict[str, Any]) -> None:
    arguments = AUTOENCODER | changes
    read = read_autoencoder_arguments(AutoencoderKL(**arguments))
    assert vae_config_from_monai(read) == vae_config_from_monai(arguments)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"resblock_updown": True, "num_class_embeds": 4, "norm_eps": 1e-4},
        {"with_conditioning": True, "cross_attention_dim": 5, "transformer_num_layers": 2},
        {
            "with_conditioning": True,
            "cross_attention_dim": 5,
            "include_fc": False,
            "use_combined_linear": True,
        },
        {"spatial_dims": 2, "num_head_channels": [2, 8]},
    ],
)
def test_denoiser_module_tells_the_arguments_it_was_made_with(changes: dict[str, Any]) -> None:
    arguments = DENOISER | changes
    read = read_unet_arguments(DiffusionModelUNet(**arguments))
    assert unet_config_from_monai(read) == unet_config_from_monai(arguments)


def test_vqvae_module_tells_the_arguments_it_was_made_with() -> None:
    arguments = {
        "spatial_dims": 3,
        "in_channels": 2,
        "out_channels": 1,
        "channels": [4, 6, 8],
        "num_res_channels": 3,
        "num_res_layers": 2,
        "commitment_cost": 0.3,
        "decay": 0.8,
        "output_act": "tanh",
        "act": "LEAKYRELU",
    }
    config = vqvae_config_from_monai(arguments)
    assert vqvae_config_from_monai(read_vqvae_arguments(MonaiVQVAE(**arguments))) == config
    assert (config.trunk, config.decay, config.activation) == ("strided", 0.8, "leakyrelu")


def test_unknown_argument_names_the_nearest() -> None:
    with pytest.raises(
        ValueError, match=r"Unknown MONAI AutoencoderKL argument 'chanels'\. Did you mean 'channels'"
    ):
        complete_arguments(AutoencoderKL, {"chanels": (4, 8)})


def test_missing_argument_is_named() -> None:
    with pytest.raises(ValueError, match=r"MONAI DiffusionModelUNet needs \['in_channels'\]"):
        unet_config_from_monai({name: value for name, value in DENOISER.items() if name != "in_channels"})


def test_unsupported_activation_is_named() -> None:
    with pytest.raises(ValueError, match="argument act is 'prelu': supported are"):
        vqvae_config_from_monai({"spatial_dims": 3, "in_channels": 1, "out_channels": 1, "act": "prelu"})


def test_dropout_is_left_out_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        unet_config_from_monai(
            DENOISER | {"with_conditioning": True, "cross_attention_dim": 5, "dropout_cattn": 0.1}
        )
    assert "dropout_cattn = 0.1 is left out" in caplog.text
