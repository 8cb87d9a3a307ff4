"""Models to and from their checkpoint files; the file alone rebuilds the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medldm.conditioning import ConditioningConfig
from medldm.errors import CheckpointError
from medldm.latent_diffusion.checkpoints import (
    NO_MODEL,
    SCHEMA_KEY,
    Checkpoint,
    build_with_weights,
    hash_weights,
    load_checkpoint,
    load_plain_weights,
)
from medldm.latent_diffusion.config import LatentDiffusionConfig, read_diffusion
from medldm.latent_diffusion.lineage import AUTOENCODER, describe_lineage, lineage_of
from medldm.latent_diffusion.model import (
    AUTOENCODER_CONFIGS,
    ConditionalDenoiser,
    LatentDiffusionModel,
    make_autoencoder,
    name_autoencoder_type,
)
from medldm.latent_diffusion.recipe import OF_AUTOENCODER, Recipe, describe_recipe, recipe_in
from medldm.latent_diffusion.texture import Texture
from medldm.latent_diffusion.volume_space import VolumeSpace
from medldm.networks import VAE, VQVAE, LatentUNetConfig, VAEConfig, VQVAEConfig
from medldm.networks.weights import load_weights

TEXTURE_KEY = "texture"
"""Name in a card of the texture of decoded volumes; the card of a model without has none."""

SCALE, SPREAD, SPECTRUM = "latent_scale", "latent_spread", "latent_spectrum"
"""Names of the buffers of `LatentDiffusionModel`."""

Describe = Callable[[], tuple[Mapping[str, Tensor], dict[str, Any]]]


def describe_autoencoder(
    network: VAE | VQVAE, space: VolumeSpace | None, *, recipe: Recipe | None = None
) -> Describe:
    """Return a function that gives an autoencoder's weights and card, for `CheckpointWriter`.

    Args:
        network: the autoencoder.
        space: of its volumes.
        recipe: the settings that it is trained with.
    """
    card = {
        "kind": "autoencoder",
        "autoencoder": _describe_autoencoder_config(network.config),
        "space": space.to_dict() if space is not None else None,
        **describe_recipe(recipe),
    }
    return lambda: (network.state_dict(), card)


def load_autoencoder(
    path: str | Path, *, autoencoder_type: str | None = None
) -> tuple[VAE | VQVAE, Checkpoint]:
    """Rebuild a first stage from its file alone.

    Args:
        path: written by the first stage.
        autoencoder_type: if given, the type the file must hold.

    Raises:
        CheckpointError: if the file is damaged, of another kind, or holds the other type of autoencoder.
    """
    checkpoint = load_checkpoint(path, kind="autoencoder")
    with _reading_card(path):
        config = _rebuild_autoencoder_config(checkpoint.card["autoencoder"])
    found = name_autoencoder_type(config)
    if autoencoder_type is not None and found != autoencoder_type:
        raise CheckpointError(
            f"{path} holds a {found!r}, but autoencoder_type is {autoencoder_type!r}: give "
            "the file of the right "
            "first stage, or change autoencoder_type"
        )
    autoencoder = build_with_weights(lambda: make_autoencoder(config), checkpoint.weights, source=str(path))
    return autoencoder.eval(), checkpoint


def space_of(checkpoint: Checkpoint) -> VolumeSpace | None:
    """Return the space in a checkpoint's card."""
    description = checkpoint.card.get("space")
    return VolumeSpace.from_dict(description) if description is not None else None


def agree_on_channels(path: str | Path, wanted: Sequence[str] | None) -> tuple[str, ...] | None:
    """Return the channels to train a second stage on: those of its first stage, in the first stage's order.

    Args:
        path: written by the first stage.
        wanted: names that the user gave, in any order; None for those of the first stage.

    Returns:
        Names; None where the first stage has none, as one of label maps.

    Raises:
        CheckpointError: if others are wanted than the first stage has.
    """
    own = channels_of(path)
    if own is None or (not own and (wanted is None or len(wanted) == 1)):
        return None if wanted is None else tuple(wanted)
    if wanted is not None and set(wanted) != set(own):
        raise CheckpointError(
            f"{path} was trained on {_name_channels(own)}, but channels are {list(wanted)}: leave channels "
            "out, or train stage 1 on them"
        )
    return own


def require_channels_of(path: str | Path, channels: Sequence[str]) -> None:
    """Refuse a cohort of several channels for a first stage that has one without a name.

    Raises:
        CheckpointError: naming the cohort's channels.
    """
    if channels_of(path) == () and len(channels) > 1:
        raise CheckpointError(
            f"{path} was trained on {_name_channels(())}, the cohort has {list(channels)}: choose one with "
            "channels, or train stage 1 on them"
        )


def channels_of(path: str | Path) -> tuple[str, ...] | None:
    """Return the names of a checkpoint's channels, () for one without a name, None for label maps."""
    checkpoint = load_checkpoint(path)
    space = space_of(checkpoint)
    return None if space is None or SCHEMA_KEY in checkpoint.card else space.channels


def _name_channels(channels: Sequence[str]) -> str:
    return f"the channels {list(channels)}" if channels else "one channel without a name"


def make_latent_diffusion(
    autoencoder_path: str | Path,
    *,
    conditioning_config: ConditioningConfig | None = None,
    unet_config: LatentUNetConfig | None = None,
    autoencoder_type: str | None = None,
) -> LatentDiffusionModel:
    """Build an untrained second stage around a trained first stage.

    Args:
        autoencoder_path: written by the first stage; its space becomes the model's.
        conditioning_config: the conditions to train with.
        unet_config: of the denoiser.
        autoencoder_type: if given, the type the file must hold.
    """
    autoencoder, checkpoint = load_autoencoder(autoencoder_path, autoencoder_type=autoencoder_type)
    model = LatentDiffusionModel(
        autoencoder_config=autoencoder.config,
        conditioning_config=conditioning_config,
        unet_config=unet_config,
        space=space_of(checkpoint),
        makes_label_maps=SCHEMA_KEY in checkpoint.card,
    )
    load_weights(model.autoencoder, checkpoint.weights, source=str(autoencoder_path))
    _take_lineage(model, checkpoint)
    return model


def load_first_stage(model: LatentDiffusionModel, path: str | Path) -> None:
    """Load a trained first stage's weights into a model.

    Args:
        model: takes over the first stage's space, where the file knows one and the model does not.
        path: a checkpoint of the first stage, or a `.pth` or `.pt` file of its weights alone.

    Raises:
        CheckpointError: if the file does not hold the weights of the model's autoencoder.
    """
    if Path(path).suffix in (".pth", ".pt"):
        load_weights(model.autoencoder, load_plain_weights(path), source=str(path))
        return
    autoencoder, checkpoint = load_autoencoder(path)
    if autoencoder.config != model.autoencoder_config:
        raise CheckpointError(
            f"{path} holds an autoencoder of another configuration: {autoencoder.config} in the file, "
            f"{model.autoencoder_config} in the model"
        )
    load_weights(model.autoencoder, checkpoint.weights, source=str(path))
    model.space = model.space or space_of(checkpoint)
    _take_lineage(model, checkpoint)


def _take_lineage(model: LatentDiffusionModel, checkpoint: Checkpoint) -> None:
    """Let a model say what its first stage was started from, and how it was trained."""
    model.lineage[AUTOENCODER] = lineage_of(checkpoint.card).get(AUTOENCODER, [])
    model.recipe[OF_AUTOENCODER] = recipe_in(checkpoint.card).get(OF_AUTOENCODER, {})


def describe_latent_diffusion(
    model: LatentDiffusionModel, config: LatentDiffusionConfig, *, denoiser: ConditionalDenoiser | None = None
) -> Describe:
    """Return a function that gives a model's weights and card, for `CheckpointWriter`.

    Args:
        model: autoencoder, statistics and configurations are taken from it.
        config: the noise path and prediction type of the training.
        denoiser: if given, its (averaged) weights stand in the place of the model's own.
    """

    def describe() -> tuple[Mapping[str, Tensor], dict[str, Any]]:
        weights = dict(model.state_dict())
        if denoiser is not None:
            weights.update({f"denoiser.{name}": tensor for name, tensor in denoiser.state_dict().items()})
        autoencoder = _describe_autoencoder_config(model.autoencoder_config)
        card = {
            "kind": "latent_diffusion",
            "autoencoder": {**autoencoder, "weights_sha256": hash_weights(model.autoencoder.state_dict())},
            "unet": model.unet_config.to_dict(),
            "conditioning": model.conditioning_config.to_dict(),
            "diffusion": config.describe_diffusion(),
            "space": model.space.to_dict() if model.space is not None else None,
            **describe_lineage(model.lineage),
            **describe_recipe(model.recipe),
        }
        return weights, card if model.texture is None else {**card, TEXTURE_KEY: model.texture.to_dict()}

    return describe


def texture_of(checkpoint: Checkpoint) -> Texture | None:
    """Return the texture in a checkpoint's card, None where it has none.

    Raises:
        ConfigError: if it does not describe one.
    """
    description = checkpoint.card.get(TEXTURE_KEY)
    return None if description is None else Texture.from_dict(description)


def load_latent_diffusion(
    path: str | Path, *, autoencoder_path: str | Path | None = None
) -> tuple[LatentDiffusionModel, LatentDiffusionConfig, Checkpoint]:
    """Rebuild a model from its file alone.

    Args:
        path: written by the second stage.
        autoencoder_path: a first stage to check: it must be the one the model was trained on.

    Raises:
        CheckpointError: if the file is damaged or of another kind, or the autoencoder is another one.
    """
    checkpoint = load_checkpoint(path, kind="latent_diffusion")
    card = checkpoint.card
    with _reading_card(path):
        parts: dict[str, Any] = {
            "autoencoder_config": _rebuild_autoencoder_config(card["autoencoder"]),
            "conditioning_config": ConditioningConfig.from_dict(card["conditioning"]),
            "unet_config": LatentUNetConfig.from_dict(card["unet"]),
            "space": space_of(checkpoint),
            "makes_label_maps": SCHEMA_KEY in card,
        }
        config = LatentDiffusionConfig.from_dict(
            {"autoencoder_type": card["autoencoder"]["type"], **read_diffusion(card["diffusion"])}
        )
        texture, lineage, recipe = texture_of(checkpoint), lineage_of(card), recipe_in(card)
    weights = _with_spread(checkpoint.weights)

    def make() -> LatentDiffusionModel:
        model = LatentDiffusionModel(**parts)
        model.set_latent_spectrum(torch.ones_like(weights[SPECTRUM]) if SPECTRUM in weights else None)
        return model

    model = build_with_weights(make, weights, source=str(path))
    model.texture, model.lineage, model.recipe = texture, lineage, recipe
    if autoencoder_path is None:
        return model.eval(), config, checkpoint
    expected = card["autoencoder"]["weights_sha256"]
    found = load_checkpoint(autoencoder_path, kind="autoencoder").card["weights_sha256"]
    if found != expected:
        raise CheckpointError(
            f"{path} was trained on the autoencoder {expected[:12]}, but {autoencoder_path} is "
            f"{found[:12]}: give the first stage it was trained on, or train the second stage again"
        )
    return model.eval(), config, checkpoint


def _with_spread(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Add the spread that files of versions without it leave out; nothing of theirs depends on it."""
    if SPREAD in weights or SCALE not in weights:
        return weights
    return {**weights, SPREAD: torch.ones_like(weights[SCALE])}


@contextmanager
def _reading_card(path: str | Path) -> Iterator[None]:
    """Turn what a card's strange contents raise into one error that names the file."""
    try:
        yield
    except NO_MODEL as error:
        raise CheckpointError(f"the card of {path} does not describe a model ({error!r:.500})") from error


def _describe_autoencoder_config(config: VAEConfig | VQVAEConfig) -> dict[str, Any]:
    return {"type": name_autoencoder_type(config), "config": config.to_dict()}


def _rebuild_autoencoder_config(description: Mapping[str, Any]) -> VAEConfig | VQVAEConfig:
    return AUTOENCODER_CONFIGS[description["type"]].from_dict(description["config"])
