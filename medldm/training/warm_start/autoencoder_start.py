"""Start a first stage from the weights of another one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from medldm.data.cohort import Cohort
from medldm.data.labels import LabelSchema
from medldm.errors import CheckpointError, ConfigError
from medldm.latent_diffusion.lineage import AUTOENCODER
from medldm.latent_diffusion.model import name_autoencoder_type
from medldm.networks import VAE, VQVAE
from medldm.training.warm_start.checkpoint import StartCheckpoint
from medldm.training.warm_start.matching import Sources, check_table, word_sources
from medldm.training.warm_start.plan import StartPlan, Transfer, require_same
from medldm.training.warm_start.spaces import (
    describe_kinds,
    match_channels,
    names_of_channels,
    require_same_intensity,
    require_same_kind,
    require_unseen,
    schema_in,
    space_in,
    word_space,
)

NOT_OF_WEIGHTS = (
    "in_channels",
    "out_channels",
    "checkpointing",
    "commitment_weight",
    "decay",
    "restart_after",
    "codebook_init",
)
"""Fields of a configuration that weights can be adapted to, or do not depend on."""


def plan_autoencoder_start(
    start: StartCheckpoint | None,
    network: VAE | VQVAE,
    *,
    channels: Sequence[str] = (),
    intensity: str | Mapping[str, Any] = "mr_percentile",
    spacing_mm: Sequence[float] | None = None,
    schema: LabelSchema | None = None,
    cohort: Cohort | None = None,
) -> StartPlan | None:
    """Say what a first stage takes from a checkpoint; no volume is read.

    All that has the same name and shape is kept. Channels, or structures of label maps, are matched by name:
    those of the checkpoint bring their part of the first and of the last layer, new ones begin anew. The
    linear path is kept, for encoder and decoder have learned what this very path leaves, and latents keep
    what they mean.

    Args:
        start: None for a training from nothing.
        network: to train.
        channels: names of the contrasts; () for one without a name.
        intensity: as of `measure_space`: the kind of the mapping, for all channels or for each.
        spacing_mm: of the volumes; None says nothing of another one.
        schema: structures of a first stage of label maps.
        cohort: of the training; its held-out cases must not be training cases of the checkpoint.

    Raises:
        ConfigError: if the architecture, the kind of image or the channels of a linear path are others, or
            nothing of what is trained is named in the checkpoint, or the checkpoint has seen held-out cases.
        CheckpointError: if the card does not describe an autoencoder.
    """
    if start is None:
        return None
    require_unseen(start, cohort)
    require_same_kind(start, makes_label_maps=schema is not None)
    own = names_of_channels(channels, schema)
    space = space_in(start)
    old = names_of_channels(() if space is None else space.channels, schema_in(start))
    check_table(start.names, new=own, old=old)
    sources = match_channels(own, old, start.names)
    _require_architecture(start, network)
    _require_channels(start, network, own=own, old=old, sources=sources)
    notes = [] if own == old else [f"channels: {word_sources(own, old, sources)}"]
    if schema is None:
        kinds = describe_kinds(intensity, own)
        notes += require_same_intensity(start, kinds, channels=own, sources=sources)
    notes += [] if spacing_mm is None else word_space(start, spacing_mm=spacing_mm)
    if start.weights is None:
        return StartPlan(checkpoint=start, part=AUTOENCODER, values=None)
    transfer = _transfer(start, network, sources)
    transfer.notes += notes
    return StartPlan(
        checkpoint=start, part=AUTOENCODER, values=transfer.values, lines=tuple(transfer.lines())
    )


def follow_autoencoder(start: StartCheckpoint | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of an autoencoder with the checkpoint's values in the place of "auto".

    Args:
        start: whose card describes one; None changes nothing.
        options: fields of the configuration.
    """
    if start is None:
        return dict(options)
    described = _autoencoder_in(start)["config"]
    return {
        name: described.get(name, value) if isinstance(value, str) and value == "auto" else value
        for name, value in options.items()
    }


def _autoencoder_in(start: StartCheckpoint) -> dict[str, Any]:
    try:
        described = start.card["autoencoder"]
        return {"type": described["type"], "config": dict(described["config"])}
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"the card of {start.path} does not describe an autoencoder ({error!r})"
        ) from None


def _require_architecture(start: StartCheckpoint, network: VAE | VQVAE) -> None:
    described = _autoencoder_in(start)
    kind, config = described["type"], described["config"]
    own = name_autoencoder_type(network.config)
    if kind != own:
        raise ConfigError(
            f"start_from is {start.path}, a {kind!r}, but this training is of a {own!r}: set "
            f"autoencoder_type to {kind}, or give a checkpoint of a {own!r}"
        )
    found = type(network.config).from_dict(config)
    require_same(network.config.to_dict(), found.to_dict(), what="an autoencoder", may_differ=NOT_OF_WEIGHTS)


def _require_channels(
    start: StartCheckpoint, network: VAE | VQVAE, *, own: Sequence[str], old: Sequence[str], sources: Sources
) -> None:
    is_same = len(own) == len(old) and list(sources) == list(range(len(old)))
    if not is_same and (network.linear_path is not None or network.config.is_strided):
        what = "a linear path" if network.linear_path is not None else "a strided trunk"
        raise ConfigError(
            f"start_from is {start.path}, {what} of the channels {list(old)}, but this training has "
            f"{list(own)}: the components of {what} are of all channels together and cannot be taken "
            "apart; give the same "
            "channels in the same order, or train from nothing"
        )
    if all(source is None for source in sources):
        raise ConfigError(
            f"start_from is {start.path}, of the channels {list(old)}, of which this training has none: it "
            f"has {list(own)}; say with start_names which one comes from which"
        )


def _transfer(start: StartCheckpoint, network: VAE | VQVAE, sources: Sources) -> Transfer:
    prefix = "autoencoder." if start.card.get("kind") == "latent_diffusion" else ""
    old = start.part(prefix)
    transfer = Transfer({name: value.cpu() for name, value in network.state_dict().items()}, old)
    if not network.config.is_strided and network.linear_path is None:
        transfer.keep_rows("encoder.conv_in.weight", sources, dim=1)
        for name in ("decoder.conv_out.weight", "decoder.conv_out.bias"):
            transfer.keep_rows(name, sources)
    transfer.keep_rest()
    transfer.require_finite(start.path)
    return transfer
