"""Parts of a network that a training leaves as they are, by name.

Frozen weights get no gradient, no state of the optimiser and no weight decay: they end equal to the bit.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

from torch import nn

from medldm.conditioning.config import read_names
from medldm.configs import unknown_name_message
from medldm.errors import ConfigError
from medldm.latent_diffusion.model import ConditionalDenoiser
from medldm.networks import VAE, VQVAE

logger = logging.getLogger(__name__)

ENCODER, DECODER = "encoder", "decoder"
CONDITIONER, EMBEDDINGS, INPUT, MIDDLE, OUTPUT = "conditioner", "embeddings", "input", "middle", "output"


def parts_of_autoencoder(network: VAE | VQVAE) -> dict[str, list[nn.Module]]:
    """Return what can be frozen of a first stage; a codebook belongs to the encoder, as latents do."""
    decoding = list(network.decoding_modules())
    return {ENCODER: [module for module in network.children() if module not in decoding], DECODER: decoding}


def parts_of_denoiser(denoiser: ConditionalDenoiser) -> dict[str, list[nn.Module]]:
    """Return what can be frozen of a denoiser; "level_0" is the finest, down and up."""
    unet = denoiser.unet
    embeddings = (
        unet.time_embedding,
        unet.class_embedding,
        unet.pooled_projection,
        unet.augmentation_embedding,
        unet.appearance_embedding,
        unet.statistics_embedding,
    )
    levels = zip(unet.down, reversed(list(unet.up)), strict=True)
    return {
        CONDITIONER: [denoiser.conditioning],
        EMBEDDINGS: [each for each in embeddings if each is not None],
        INPUT: [unet.conv_in],
        **{f"level_{number}": list(pair) for number, pair in enumerate(levels)},
        MIDDLE: [unet.middle],
        OUTPUT: [unet.norm_out, unet.conv_out, *([] if unet.input_gains is None else [unet.input_gains])],
    }


def choose_frozen(
    network: VAE | VQVAE | ConditionalDenoiser, freeze: str | Sequence[str] | None
) -> dict[str, list[nn.Module]]:
    """Return the parts of a network that are named.

    Args:
        network: of either stage.
        freeze: names of parts, see `parts_of_autoencoder` and `parts_of_denoiser`; None for none.

    Raises:
        ConfigError: naming an unknown part and the known ones, or if nothing would be left to train.
    """
    is_denoiser = isinstance(network, ConditionalDenoiser)
    parts = parts_of_denoiser(network) if is_denoiser else parts_of_autoencoder(network)  # type: ignore[arg-type]
    names = read_names(freeze)
    for name in names:
        if name not in parts:
            raise ConfigError(f"freeze: {unknown_name_message(name, list(parts), kind='part')}")
    chosen = {name: parts[name] for name in parts if name in names}
    frozen = {id(weight) for weight in _weights_of(chosen)}
    if frozen and all(id(weight) in frozen for weight in network.parameters()):
        raise ConfigError(f"freeze names {list(names)}, all of the network: leave a part to be trained")
    return chosen


def freeze_parts(network: VAE | VQVAE | ConditionalDenoiser, freeze: str | Sequence[str] | None) -> None:
    """Freeze the parts of a network that are named, its codebook included; the others stay as they are.

    Raises:
        ConfigError: as `choose_frozen` does.
    """
    chosen = choose_frozen(network, freeze)
    for modules in chosen.values():
        for module in modules:
            module.requires_grad_(False)
    if isinstance(network, VQVAE):
        network.quantiser.is_frozen = ENCODER in chosen
    if chosen:
        n_frozen = sum(weight.numel() for weight in _weights_of(chosen))
        n_all = sum(weight.numel() for weight in network.parameters())
        logger.info("frozen: %s; %d of %d weights are trained", ", ".join(chosen), n_all - n_frozen, n_all)


def trained_weights(network: nn.Module) -> list[nn.Parameter]:
    """Return the weights that an optimiser is given."""
    return [weight for weight in network.parameters() if weight.requires_grad]


def _weights_of(parts: dict[str, list[nn.Module]]) -> Iterator[nn.Parameter]:
    return (weight for modules in parts.values() for module in modules for weight in module.parameters())
