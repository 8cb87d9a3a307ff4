"""Turn constructor arguments of MONAI's networks into configurations, and MONAI's modules into arguments.

The names are those of monai.networks.nets 1.6: AutoencoderKL, VQVAE and DiffusionModelUNet.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping
from typing import Any

from monai.networks.nets import VQVAE as MonaiVQVAE
from monai.networks.nets import AutoencoderKL, DiffusionModelUNet
from torch import nn

from medldm.configs import unknown_name_message
from medldm.errors import ConfigError
from medldm.networks.pretrained.infer_arguments import infer_autoencoder_arguments, infer_unet_arguments
from medldm.networks.unet_config import LatentUNetConfig
from medldm.networks.vae import VAEConfig
from medldm.networks.vqvae_config import ACTIVATIONS, VQVAEConfig

logger = logging.getLogger(__name__)

SHARED = ("spatial_dims", "in_channels", "out_channels")
"""Arguments of all three networks that have the same name here."""


def vae_config_from_monai(arguments: Mapping[str, Any]) -> VAEConfig:
    """Make the configuration of the VAE that equals MONAI's AutoencoderKL(**arguments)."""
    given = complete_arguments(AutoencoderKL, arguments)
    return VAEConfig(
        down_channels=given["channels"],
        latent_channels=given["latent_channels"],
        n_groups=given["norm_num_groups"],
        n_res_blocks=given["num_res_blocks"],
        mid_attention=given["with_encoder_nonlocal_attn"],
        decoder_mid_attention=given["with_decoder_nonlocal_attn"],
        attention_projection=given["include_fc"],
        upsampling="transposed" if given["use_convtranspose"] else "nearest",
        checkpointing=given["use_checkpoint"],
        **{name: given[name] for name in (*SHARED, "attention_levels", "norm_eps")},
    )


def vqvae_config_from_monai(arguments: Mapping[str, Any]) -> VQVAEConfig:
    """Make the configuration of the VQVAE that equals MONAI's VQVAE(**arguments)."""
    given = complete_arguments(MonaiVQVAE, arguments)
    _warn_of_dropout("dropout", given["dropout"])
    return VQVAEConfig(
        trunk="strided",
        down_channels=given["channels"],
        latent_channels=given["embedding_dim"],
        n_res_blocks=given["num_res_layers"],
        res_channels=given["num_res_channels"],
        down_parameters=given["downsample_parameters"],
        up_parameters=given["upsample_parameters"],
        activation=_name_activation("act", given["act"]),
        output_activation=_name_activation("output_act", given["output_act"]),
        n_codes=given["num_embeddings"],
        commitment_weight=given["commitment_cost"],
        codebook_init="normal",
        checkpointing=given["use_checkpointing"],
        **{name: given[name] for name in (*SHARED, "decay")},
    )


def unet_config_from_monai(arguments: Mapping[str, Any]) -> LatentUNetConfig:
    """Make the configuration of the LatentUNet that equals MONAI's DiffusionModelUNet(**arguments)."""
    given = complete_arguments(DiffusionModelUNet, arguments)
    _warn_of_dropout("dropout_cattn", given["dropout_cattn"])
    return LatentUNetConfig(
        down_channels=given["channels"],
        n_head_channels=given["num_head_channels"],
        cross_attention=given["with_conditioning"],
        context_dim=given["cross_attention_dim"],
        n_res_blocks=given["num_res_blocks"],
        n_groups=given["norm_num_groups"],
        n_class_embeds=given["num_class_embeds"],
        n_transformer_layers=given["transformer_num_layers"],
        residual_resampling=given["resblock_updown"],
        attention_projection=given["include_fc"],
        **{name: given[name] for name in (*SHARED, "attention_levels", "norm_eps")},
    )


def read_autoencoder_arguments(module: AutoencoderKL) -> dict[str, Any]:
    """Read from a module the arguments of AutoencoderKL that decide its outputs."""
    encoder: Any = module.encoder
    return {
        **infer_autoencoder_arguments(module.state_dict()),
        "norm_num_groups": encoder.norm_num_groups,
        "norm_eps": encoder.norm_eps,
        "use_checkpoint": module.use_checkpoint,
    }


def read_vqvae_arguments(module: MonaiVQVAE) -> dict[str, Any]:
    """Read from a module the arguments of MONAI's VQVAE that decide its outputs."""
    encoder, decoder, quantiser = module.encoder, module.decoder, module.quantizer.quantizer
    of_module = ("channels", "num_res_layers", "num_res_channels", "num_embeddings", "embedding_dim")
    return {
        **{name: getattr(module, name) for name in (*SHARED, *of_module, "use_checkpointing")},
        "downsample_parameters": encoder.downsample_parameters,
        "upsample_parameters": decoder.upsample_parameters,
        "commitment_cost": quantiser.commitment_cost,
        "decay": quantiser.decay,
        "act": encoder.act,
        "dropout": encoder.dropout,
        "output_act": decoder.output_act,
    }


def read_unet_arguments(module: DiffusionModelUNet) -> dict[str, Any]:
    """Read from a module the arguments of DiffusionModelUNet that decide its outputs."""
    norm = module.out[0]
    return {
        **infer_unet_arguments(module.state_dict()),
        "num_head_channels": module.num_head_channels,
        "norm_num_groups": norm.num_groups,
        "norm_eps": norm.eps,
    }


def complete_arguments(network: type[nn.Module], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Add MONAI's defaults to constructor arguments.

    Raises:
        ConfigError: if an argument is unknown to the MONAI network, or a needed one is missing.
    """
    parameters = dict(inspect.signature(network.__init__).parameters)
    parameters.pop("self")
    for name in arguments:
        if name not in parameters:
            raise ConfigError(
                unknown_name_message(name, list(parameters), kind=f"MONAI {network.__name__} argument")
            )
    defaults = {name: p.default for name, p in parameters.items() if p.default is not inspect.Parameter.empty}
    missing = [name for name in parameters if name not in {**defaults, **arguments}]
    if missing:
        raise ConfigError(f"MONAI {network.__name__} needs {missing}: pass the arguments it was made with")
    return {**defaults, **arguments}


def _name_activation(argument: str, value: Any) -> str:
    name = "none" if value is None else str(getattr(value, "value", value)).lower()
    if name not in ACTIVATIONS:
        raise ConfigError(f"MONAI VQVAE argument {argument} is {value!r}: supported are {list(ACTIVATIONS)}")
    return name


def _warn_of_dropout(argument: str, value: float) -> None:
    if value:
        logger.warning(
            "%s = %s is left out: the networks have no dropout; outputs in evaluation are equal",
            argument,
            value,
        )
