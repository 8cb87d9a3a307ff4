"""Load the weights of MAISI's AutoencoderKlMaisi into a VAE.

It is MONAI's AutoencoderKL with other names, a trilinear upsampling, and ways to save memory that do not
change what it computes: convolutions in parts, and normalised maps that are rounded to float16. Here memory
is saved by `medldm.networks.streaming` in their place, and nothing is rounded.

Source: Guo et al. 2025, "MAISI: Medical AI for Synthetic Imaging", Section 3.1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from monai.apps.generation.maisi.networks.autoencoderkl_maisi import AutoencoderKlMaisi
from torch import Tensor, nn

from medldm.errors import ConfigError
from medldm.networks.pretrained.infer_arguments import infer_autoencoder_arguments
from medldm.networks.pretrained.monai_arguments import (
    complete_arguments,
    vae_config_from_monai,
)
from medldm.networks.pretrained.monai_layout import pair_vae
from medldm.networks.pretrained.monai_weights import Weights, fill, find_arguments, weights_of
from medldm.networks.vae import VAE, VAEConfig

_RENAMED = {"num_channels": "channels", "use_checkpointing": "use_checkpoint"}
_WITHOUT_EFFECT = ("num_splits", "dim_split", "norm_float16", "print_info", "save_mem")
"""Arguments that trade memory for time, or for the last bits of the result."""


def vae_from_maisi(source: nn.Module | Weights, arguments: Mapping[str, Any] | None = None) -> VAE:
    """Make the VAE that equals one of MAISI's AutoencoderKlMaisi.

    Args:
        source: the module or its state dict.
        arguments: what its constructor was called with; needed with a state dict, see `vae_from_monai`; read
            from a module if None.

    Raises:
        TypeError: if `source` is neither.
        CheckpointError: if the weights do not fit the arguments, by name.
        ConfigError: for a transposed upsampling, which has another kernel than AutoencoderKL's.

    Examples:
        >>> options = {"spatial_dims": 3, "in_channels": 1, "out_channels": 1, "num_channels": (8, 16)}
        >>> options |= {"num_res_blocks": (1, 1), "attention_levels": (False, False), "norm_num_groups": 4}
        >>> vae_from_maisi(AutoencoderKlMaisi(**options)).config.upsampling
        'trilinear'
    """
    arguments = find_arguments(source, arguments, AutoencoderKlMaisi, _read_arguments)
    network = VAE(vae_config_from_maisi(arguments))
    return fill(network, weights_of(source), pair_vae(network), rename=from_maisi_name, mode_of=source)


def vae_config_from_maisi(arguments: Mapping[str, Any]) -> VAEConfig:
    """Make the configuration of the VAE that equals MAISI's AutoencoderKlMaisi(**arguments)."""
    given = complete_arguments(AutoencoderKlMaisi, arguments)
    if given["use_convtranspose"]:
        raise ConfigError(
            "use_convtranspose is True: MAISI's transposed upsampling is not supported; its released "
            "autoencoders interpolate"
        )
    own = {_RENAMED.get(name, name): value for name, value in given.items() if name not in _WITHOUT_EFFECT}
    return vae_config_from_monai(own).copy(upsampling="trilinear")


def infer_maisi_arguments(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Read the arguments of an AutoencoderKlMaisi from its weights, see `infer_autoencoder_arguments`."""
    own = infer_autoencoder_arguments({from_maisi_name(name): value for name, value in weights.items()})
    if not any(".attn." in name for name in weights):
        del own["include_fc"]  # of no attention nothing tells it, and MAISI's default is another one
    return {"num_channels": own.pop("channels"), **own}


def from_maisi_name(name: str) -> str:
    """Turn the name of a weight of AutoencoderKlMaisi into that of AutoencoderKL.

    Examples:
        >>> from_maisi_name("encoder.blocks.1.conv1.conv.conv.weight")
        'encoder.blocks.1.conv1.conv.weight'
        >>> from_maisi_name("decoder.blocks.3.conv.conv.conv.bias")
        'decoder.blocks.3.postconv.conv.bias'
    """
    layer, _, kind = name.rpartition(".")
    if not layer.startswith(("encoder.", "decoder.")) or not layer.endswith(".conv.conv"):
        return name
    layer = layer.removesuffix(".conv")
    if layer.startswith("decoder.") and layer.endswith(".conv.conv"):
        layer = f"{layer.removesuffix('.conv.conv')}.postconv.conv"
    return f"{layer}.{kind}"


def has_maisi_names(names: Mapping[str, Tensor]) -> bool:
    """Whether weights have the names of AutoencoderKlMaisi, and not those of AutoencoderKL."""
    return "encoder.blocks.0.conv.conv.weight" in names


def _read_arguments(module: AutoencoderKlMaisi) -> dict[str, Any]:
    own = {
        **infer_maisi_arguments(module.state_dict()),
        "use_checkpointing": module.use_checkpoint,
    }
    norm: Any = next(layer for layer in module.modules() if isinstance(layer, nn.GroupNorm))
    return {**own, "norm_num_groups": norm.num_groups, "norm_eps": norm.eps}
