"""Weights of conditions: which belong to which, and rows of structures and categories by their names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch

from medldm.conditioning import ConditioningConfig
from medldm.conditioning.config import SPATIAL_TYPES
from medldm.data.labels import LabelSchema
from medldm.errors import ConfigError
from medldm.latent_diffusion.model import LatentDiffusionModel
from medldm.networks import LatentUNetConfig
from medldm.training.warm_start.checkpoint import StartCheckpoint
from medldm.training.warm_start.matching import match_names, word_sources
from medldm.training.warm_start.plan import Transfer
from medldm.training.warm_start.spaces import BACKGROUND, space_in

CONV_IN = "unet.conv_in.weight"
LATENTS, POSITION = "latents", "position"
UNKNOWN = ".unknown"
"""End of the name of what stands for structures that a label map does not cover, one row for each."""


def kind_of(config: ConditioningConfig, name: str) -> str:
    """Return the type of a condition: a column's is that of its table."""
    if name in config.classes:
        return "class"
    return "scalars" if name in config.scalars else name


def rows_of(config: ConditioningConfig, name: str) -> tuple[str, ...]:
    """Return what the rows of a condition's embedding stand for: structures or categories."""
    if name == "label_map":
        return (BACKGROUND, *LabelSchema(structures=config.structures).names)
    if name in config.classes:
        return config.classes[name]
    return tuple(str(number) for number in range(config.n_categories(name) or 0))


def names_known(
    described: LatentDiffusionModel | ConditioningConfig, start: StartCheckpoint | None = None
) -> Iterable[str]:
    """Return all names of a model that a table may speak of: conditions, structures, categories, channels."""
    if isinstance(described, LatentDiffusionModel):
        config, space = described.conditioning_config, described.space
    else:
        config, space = described, None if start is None else space_in(start)
    yield from config.names
    for name in config.names:
        if kind_of(config, name) in ("label_map", "class"):
            yield from rows_of(config, name)
    yield from () if space is None else space.channels


class InputColumns:
    """The columns of the denoiser's first layer: latents, each spatial condition, the position.

    Args:
        n_latents: channels of the latents.
    """

    def __init__(self, n_latents: int) -> None:
        self.n_latents = n_latents

    def of(self, config: ConditioningConfig, unet: LatentUNetConfig) -> dict[str, slice]:
        """Return where the columns of each part lie, in the order in which the input is joined."""
        widths = {"label_map": config.label_channels, "image": config.image_channels}
        parts = {LATENTS: self.n_latents}
        parts |= {name: widths[name] for name in config.names if name in SPATIAL_TYPES}
        parts[POSITION] = unet.position_channels
        places, begin = {}, 0
        for name, width in parts.items():
            places[name], begin = slice(begin, begin + width), begin + width
        return places

    def take(
        self,
        transfer: Transfer,
        *,
        model: LatentDiffusionModel,
        former: ConditioningConfig,
        unet: LatentUNetConfig,
        table: Mapping[str, str],
    ) -> None:
        """Take the first layer's columns part by part; those of a new part are zero and change nothing."""
        own, old = transfer.own[CONV_IN], transfer.old.get(CONV_IN)
        if old is None or old.shape[:1] != own.shape[:1] or old.shape[2:] != own.shape[2:]:
            transfer.begin_anew(CONV_IN)
            return
        here = self.of(model.conditioning_config, model.unet_config)
        there = self.of(former, unet)
        value = torch.zeros_like(own)
        for name, place in here.items():
            source = there.get(name)
            if source is not None and source.stop - source.start == place.stop - place.start:
                value[:, place] = old[:, source].to(own)
        transfer.put(CONV_IN, value, source=CONV_IN, is_adapted=here != there)


def transfer_conditions(
    transfer: Transfer, config: ConditioningConfig, former: ConditioningConfig, start: StartCheckpoint
) -> None:
    """Take the weights of each condition that the checkpoint has, too; the others begin anew."""
    for number, name in enumerate(config.names):
        prefix = f"conditioning.conditioners.{number}."
        mine = [weight for weight in transfer.own if weight.startswith(prefix)]
        source = start.names.get(name, name)
        reason = _reason_to_begin_anew(config, former, start, name=name, source=source)
        if reason:
            transfer.notes.append(f"condition {name}: begins anew, {reason}")
            for weight in mine:
                transfer.begin_anew(weight)
            continue
        there = f"conditioning.conditioners.{former.names.index(source)}."
        for weight in mine:
            other = there + weight.removeprefix(prefix)
            if weight.endswith((".embedding.weight", UNKNOWN)):
                _take_rows(transfer, config, former, start, weight=weight, other=other, name=name)
            elif name == "label_map" and weight == f"{prefix}unknown":
                # One row for each structure, none for the background.
                own, old = (rows_of(each, "label_map")[1:] for each in (config, former))
                transfer.keep_rows(weight, match_names(own, old, start.names), source=other)
            else:
                transfer.keep(weight, other)


def _take_rows(
    transfer: Transfer,
    config: ConditioningConfig,
    former: ConditioningConfig,
    start: StartCheckpoint,
    *,
    weight: str,
    other: str,
    name: str,
) -> None:
    own, old = rows_of(config, name), rows_of(former, start.names.get(name, name))
    sources = match_names(own, old, start.names)
    if weight.endswith(UNKNOWN):  # of structures alone, without the background
        sources = [None if source is None else source - 1 for source in sources[1:]]
    elif own != old:
        transfer.notes.append(f"condition {name}: {word_sources(own, old, sources)}")
    transfer.keep_rows(weight, sources, source=other)


def _reason_to_begin_anew(
    config: ConditioningConfig, former: ConditioningConfig, start: StartCheckpoint, *, name: str, source: str
) -> str:
    """Say why a condition's weights are not taken; "" where they are.

    Raises:
        ConfigError: for a condition image of another kind, unless the user allows it.
    """
    if source not in former.names or kind_of(former, source) != kind_of(config, name):
        return "the checkpoint does not know it"
    if name in config.scalars and config.scalars[name] != former.scalars[source]:
        there, here = list(former.scalars[source]), list(config.scalars[name])
        return f"it was trained on the range {there}, which is {here} here"
    if name == "text" and config.text_encoder != former.text_encoder:
        return "its texts were embedded by another encoder"
    if name == "image":
        _require_same_image(config, former, start)
    return ""


def _require_same_image(
    config: ConditioningConfig, former: ConditioningConfig, start: StartCheckpoint
) -> None:
    kinds = [(each.image_intensity or {}).get("kind") for each in (config, former)]
    if kinds[0] != kinds[1] and not start.allow_other_intensity:
        raise ConfigError(
            f"start_from is {start.path}, whose condition image has the intensity {kinds[1]}, but here it is "
            f"{kinds[0]}: set image_intensity to that, or allow_other_intensity: true to take its weights "
            "all the same"
        )
