"""Load the weights of MONAI's AutoencoderKL, VQVAE and DiffusionModelUNet into the networks of medldm.

The result computes the same outputs and the same gradients. Weights come as a module or as a state dict that
the caller has loaded; nothing here opens a file, so nothing is unpickled.

Example:
    >>> from monai.networks.nets import AutoencoderKL
    >>> arguments = {"channels": (8, 16), "attention_levels": (False, False), "norm_num_groups": 4}
    >>> arguments |= {"spatial_dims": 3, "num_res_blocks": 1}
    >>> module = AutoencoderKL(**arguments)
    >>> vae = vae_from_monai(module)
    >>> vae = vae_from_monai(module.state_dict(), arguments)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, TypeVar

import torch
from monai.networks.nets import VQVAE as MonaiVQVAE
from monai.networks.nets import AutoencoderKL, DiffusionModelUNet
from torch import Tensor, nn

from medldm.errors import CheckpointError
from medldm.networks.pretrained import monai_arguments
from medldm.networks.pretrained.monai_layout import Pairs, pair_unet, pair_vae, pair_vqvae
from medldm.networks.unet import LatentUNet
from medldm.networks.vae import VAE
from medldm.networks.vqvae import VQVAE

Weights: TypeAlias = Mapping[str, Tensor]
Network = TypeVar("Network", bound=nn.Module)
CODEBOOK = "quantizer.quantizer."


def vae_from_monai(source: nn.Module | Weights, arguments: Mapping[str, Any] | None = None) -> VAE:
    """Make the VAE that equals one of MONAI's AutoencoderKL.

    Args:
        source: the module or its state dict.
        arguments: what MONAI's constructor was called with; needed with a state dict, which does not tell the
            number of groups; read from a module if None.

    Raises:
        TypeError: if `source` is neither.
        CheckpointError: if the weights do not fit the arguments, by name.
    """
    arguments = find_arguments(source, arguments, AutoencoderKL, monai_arguments.read_autoencoder_arguments)
    network = VAE(monai_arguments.vae_config_from_monai(arguments))
    return fill(network, weights_of(source), pair_vae(network), mode_of=source)


def vqvae_from_monai(source: nn.Module | Weights, arguments: Mapping[str, Any] | None = None) -> VQVAE:
    """Make the VQVAE that equals one of MONAI's; arguments and errors as of `vae_from_monai`.

    The running means go on from the codebook as it is, with MONAI's cluster sizes.
    """
    arguments = find_arguments(source, arguments, MonaiVQVAE, monai_arguments.read_vqvae_arguments)
    network = VQVAE(monai_arguments.vqvae_config_from_monai(arguments))
    return fill(network, weights_of(source), pair_vqvae(network), mode_of=source)


def unet_from_monai(source: nn.Module | Weights, arguments: Mapping[str, Any] | None = None) -> LatentUNet:
    """Make the LatentUNet that equals one of MONAI's DiffusionModelUNet; as `vae_from_monai`."""
    arguments = find_arguments(source, arguments, DiffusionModelUNet, monai_arguments.read_unet_arguments)
    network = LatentUNet(monai_arguments.unet_config_from_monai(arguments))
    return fill(network, weights_of(source), pair_unet(network), mode_of=source)


def find_arguments(
    source: object,
    arguments: Mapping[str, Any] | None,
    network: type[nn.Module],
    read: Callable[[Any], dict[str, Any]],
) -> Mapping[str, Any]:
    """Return the given arguments, or read them from a module.

    Raises:
        TypeError: if `source` is neither a module of the network's type nor a state dict.
        ValueError: if nothing tells the arguments of a state dict.
    """
    if not isinstance(source, (nn.Module, Mapping)):
        raise TypeError(
            f"expected a MONAI {network.__name__} or its state dict, got {type(source).__name__}: "
            "files are not opened here; load one with safetensors.torch.load_file or "
            "torch.load(..., weights_only=True)"
        )
    if isinstance(source, nn.Module) and not isinstance(source, network):
        raise TypeError(f"expected a MONAI {network.__name__}, got a module of type {type(source).__name__}")
    if arguments is not None:
        return arguments
    if isinstance(source, network):
        return read(source)
    raise ValueError(
        f"a state dict does not tell all arguments of {network.__name__} (such as the number of groups): "
        "pass `arguments`, as they stand in network_def of its bundle"
    )


def weights_of(source: nn.Module | Weights) -> dict[str, Tensor]:
    """Return the state dict of a module, or a copy of one."""
    return dict(source.state_dict() if isinstance(source, nn.Module) else source)


def fill(
    network: Network,
    weights: dict[str, Tensor],
    pairs: Pairs,
    *,
    rename: Callable[[str], str] = str,
    mode_of: object = None,
) -> Network:
    """Load weights of a MONAI network.

    Args:
        network: takes them.
        weights: by the names of the file or the module.
        pairs: of layers, see `medldm.networks.pretrained.monai_layout`.
        rename: from a name of `weights` to the one in `pairs`.
        mode_of: a module whose mode, training or evaluation, the network is given.

    Raises:
        CheckpointError: if a weight is missing, left over or of another shape, by the names of `weights`.
    """
    own_names = {rename(name): name for name in weights}
    renamed = {rename(name): tensor for name, tensor in weights.items()}
    state = network.state_dict()
    used = _take_codebook(state, renamed) if isinstance(network, VQVAE) else set()
    filled = {name for name in state if name.startswith("quantiser.")} if used else set()
    wanted: dict[str, str] = {}
    shapes: list[str] = []
    for here, there in pairs:
        for kind in ("weight", "bias"):
            name, names = f"{here}.{kind}", [f"{layer}.{kind}" for layer in there]
            wanted.setdefault(name, names[0])
            if name in state and all(each in renamed for each in names):
                shapes += _join(state, name, {own_names[each]: renamed[each] for each in names})
                filled.add(name)
                used.update(names)
    missing = [wanted.get(name, name) for name in state if name not in filled]
    _check_complete(missing, [own_names[name] for name in renamed.keys() - used], shapes)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError(
            f"the weights do not fit the arguments that MONAI's network had: {error}"
        ) from error
    return network.train(mode_of.training) if isinstance(mode_of, nn.Module) else network


def _join(state: dict[str, Tensor], name: str, parts: Mapping[str, Tensor]) -> list[str]:
    """Put the weights of MONAI's layers, one after the other, in the place of one; name another shape."""
    n_rows = sum(len(tensor) if tensor.ndim else 1 for tensor in parts.values())
    needed, found = state[name].shape, [tensor.shape for tensor in parts.values()]
    if n_rows == needed[0] and all(shape[1:] == needed[1:] for shape in found):
        state[name] = torch.cat(list(parts.values()))
        return []
    whole = (len(parts) > 1) * f" of {len(parts)} weights together"
    return [f"{next(iter(parts))}: {tuple(found[0])} in the weights, {tuple(needed)}{whole} by the arguments"]


def _take_codebook(state: dict[str, Tensor], weights: Weights) -> set[str]:
    """Fill in the codebook and its running means; return the MONAI names used, none if one is missing."""
    names = {f"{CODEBOOK}{name}" for name in ("embedding.weight", "ema_cluster_size", "ema_w")}
    if not names <= weights.keys():
        return set()
    codebook, counts = weights[f"{CODEBOOK}embedding.weight"], weights[f"{CODEBOOK}ema_cluster_size"]
    state["quantiser.codebook"], state["quantiser.counts"] = codebook, counts
    state["quantiser.sums"] = counts[:, None] * codebook
    return names


def _check_complete(missing: list[str], unused: list[str], shapes: list[str]) -> None:
    """Raise if a weight of the network was not found or has another shape, or one of MONAI's was not used."""
    if missing or unused or shapes:
        raise CheckpointError(
            f"the weights do not fit the arguments that MONAI's network had: not found for {len(missing)} "
            f"weights {sorted(missing)[:4]}, no use for {len(unused)} weights {sorted(unused)[:4]}, "
            f"{len(shapes)} of another shape {shapes[:1]}; check channels, levels and attention"
        )
