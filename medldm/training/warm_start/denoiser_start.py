"""Start a second stage from the denoiser of another one."""

from __future__ import annotations

from typing import Any

from medldm.conditioning import ConditioningConfig
from medldm.data.cohort import Cohort
from medldm.errors import CheckpointError, ConfigError
from medldm.latent_diffusion.checkpoints import hash_weights
from medldm.latent_diffusion.config import LatentDiffusionConfig
from medldm.latent_diffusion.lineage import DENOISER
from medldm.latent_diffusion.model import AUTOENCODER_CONFIGS, LatentDiffusionModel
from medldm.networks import LatentUNetConfig
from medldm.training.warm_start.checkpoint import StartCheckpoint
from medldm.training.warm_start.condition_weights import InputColumns, names_known, transfer_conditions
from medldm.training.warm_start.matching import check_table
from medldm.training.warm_start.plan import StartPlan, Transfer, require_same
from medldm.training.warm_start.spaces import (
    match_channels,
    names_of_channels,
    require_same_intensity,
    require_same_kind,
    require_unseen,
    space_in,
    word_space,
)

OF_CONDITIONS = ("in_channels", "out_channels", "cross_attention", "context_dim", "pooled_context")
"""Fields of a denoiser's configuration that follow from latents and conditions."""
NOT_OF_WEIGHTS = (
    *OF_CONDITIONS,
    "augmentation_channels",
    "appearance_channels",
    "position_frequencies",
    "input_statistics",
    "input_gains",
    "padding",
    "dropout",
    "checkpointing",
)
"""Fields of a denoiser's configuration that weights can be adapted to, or do not depend on."""
ATTENTION = ".attention."


def plan_denoiser_start(
    start: StartCheckpoint | None,
    model: LatentDiffusionModel,
    *,
    config: LatentDiffusionConfig,
    cohort: Cohort | None = None,
) -> StartPlan | None:
    """Say what a denoiser takes from a checkpoint; no volume is read.

    All that has the same name and shape is kept. Structures, categories and conditions are matched by name:
    those that the checkpoint does not know begin anew, and columns of the first layer for a new condition at
    zero, so that the denoiser begins as the one of the checkpoint. Latent statistics are never taken: they
    are measured on the training cases. The autoencoder is the model's own.

    Args:
        start: None for a training from nothing.
        model: whose denoiser is trained.
        config: of the training, whose prediction type must be that of the checkpoint.
        cohort: of the training; its held-out cases must not be training cases of the checkpoint.

    Raises:
        ConfigError: if the latents have another shape, the denoiser another architecture, the images another
            kind of intensity, the training another prediction type, or held-out cases that the checkpoint has
            seen.
        CheckpointError: if the card does not describe a model.
    """
    if start is None:
        _refuse_adapters_of_nothing(config)
        return None
    require_unseen(start, cohort)
    require_same_kind(start, makes_label_maps=model.makes_label_maps)
    try:
        former = ConditioningConfig.from_dict(start.card["conditioning"])
        unet = LatentUNetConfig.from_dict(start.card["unet"])
        prediction, path = (
            start.card["diffusion"]["prediction_type"],
            start.card["diffusion"].get("noise_path"),
        )
        notes = _compare_latents(start, model)
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"the card of {start.path} does not describe a model ({error!r})") from None
    if prediction != config.prediction_type:
        raise ConfigError(
            f"start_from is {start.path}, a denoiser with prediction_type {prediction!r}, but this "
            "training's is "
            f"{config.prediction_type!r}: its output means another thing; set prediction_type to "
            f"{prediction}"
        )
    if path is not None and path != config.noise_path().to_dict():
        notes.append("noise path: another one than that of the checkpoint; the weights adapt to it")
    own, other = model.unet_config.to_dict(), unet.to_dict()
    require_same(own, other, what="a denoiser", may_differ=NOT_OF_WEIGHTS)
    check_table(start.names, new=names_known(model), old=names_known(former, start))
    notes += _compare_spaces(start, model)
    if start.weights is None:
        return StartPlan(checkpoint=start, part=DENOISER, values=None)
    transfer = _transfer(start, model, former=former, unet=unet)
    transfer.notes[:0] = notes
    return StartPlan(checkpoint=start, part=DENOISER, values=transfer.values, lines=tuple(transfer.lines()))


def _refuse_adapters_of_nothing(config: LatentDiffusionConfig) -> None:
    if config.adapter_rank is not None:
        raise ConfigError(
            f"adapter_rank is {config.adapter_rank}, but start_from is null: adapters change trained weights "
            "a little; name a checkpoint with start_from, or set adapter_rank to null"
        )


def follow_denoiser(start: StartCheckpoint, **given: Any) -> LatentUNetConfig:
    """Return the configuration of a checkpoint's denoiser, for a training that leaves its size open.

    Args:
        start: whose card describes it.
        given: fields that the training says itself; "auto" for those of the checkpoint.
    """
    own = {name: value for name, value in given.items() if value != "auto"}
    try:
        size = {name: value for name, value in start.card["unet"].items() if name not in OF_CONDITIONS}
        return LatentUNetConfig.from_dict({**size, **own})
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"the card of {start.path} does not describe a denoiser ({error!r})") from None


def _compare_latents(start: StartCheckpoint, model: LatentDiffusionModel) -> list[str]:
    """Refuse latents of another shape, and say where they are those of another autoencoder."""
    described = start.card["autoencoder"]
    former = AUTOENCODER_CONFIGS[described["type"]].from_dict(described["config"])
    shapes = {
        "latent channels": (model.autoencoder.latent_channels, former.latent_channels),
        "downsampling": (tuple(model.autoencoder.downsampling), tuple(former.downsampling or ())),
    }
    differing = [f"{name} {own} here and {old} there" for name, (own, old) in shapes.items() if own != old]
    if differing:
        raise ConfigError(
            f"start_from is {start.path}, a denoiser of other latents ({'; '.join(differing)}): give an "
            "autoencoder_path whose latents have its shape, such as the first stage it was trained on"
        )
    if described.get("weights_sha256") == hash_weights(model.autoencoder.state_dict()):
        return []
    return [
        "autoencoder: the denoiser was trained on another one than this training's; its latents mean "
        "something else here, so expect a longer training than on its own autoencoder"
    ]


def _compare_spaces(start: StartCheckpoint, model: LatentDiffusionModel) -> list[str]:
    """Refuse another kind of image; say what else differs."""
    space, former = model.space, space_in(start)
    if space is None or former is None:
        return []
    notes = word_space(start, spacing_mm=space.spacing_mm)
    if model.makes_label_maps:
        return notes
    own, old = names_of_channels(space.channels, None), names_of_channels(former.channels, None)
    sources = match_channels(own, old, start.names)
    kinds = {name: mapping.kind for name, mapping in zip(own, space.intensities, strict=True)}
    return [*notes, *require_same_intensity(start, kinds, channels=own, sources=sources)]


def _transfer(
    start: StartCheckpoint, model: LatentDiffusionModel, *, former: ConditioningConfig, unet: LatentUNetConfig
) -> Transfer:
    denoiser = model.denoiser
    own = {name: value.cpu() for name, value in denoiser.state_dict().items()}
    transfer = Transfer(own, start.part("denoiser."))
    columns = InputColumns(model.autoencoder.latent_channels)
    columns.take(transfer, model=model, former=former, unet=unet, table=start.names)
    transfer_conditions(transfer, model.conditioning_config, former, start)
    if unet.cross_attention != model.unet_config.cross_attention:
        transfer.notes.append("attention: begins anew, for tokens of conditions come or go")
        for name in own:
            if name.startswith("unet.") and ATTENTION in name:
                transfer.begin_anew(name)
    transfer.keep_rest()
    transfer.require_finite(start.path)
    return transfer
