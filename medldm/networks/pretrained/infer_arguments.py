"""Read from the names and shapes of weights the constructor arguments that MONAI's network had.

The names are those of monai.networks.nets 1.6. What no weight tells is in `UNTOLD`: MONAI's default is as
good as any guess there, and the caller says which it took.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from itertools import groupby
from typing import Any

from torch import Tensor

from medldm.errors import CheckpointError

AUTOENCODER, VQVAE, UNET = "AutoencoderKL", "VQVAE", "DiffusionModelUNet"
UNTOLD: Mapping[str, tuple[str, ...]] = {
    AUTOENCODER: ("norm_num_groups", "norm_eps"),
    VQVAE: ("downsample_parameters", "upsample_parameters", "act", "output_act"),
    UNET: ("num_head_channels", "norm_num_groups", "norm_eps"),
}
"""Arguments that decide the outputs and that no weight tells, by network."""

_FIRST = {
    AUTOENCODER: "quant_conv_mu.conv.weight",
    VQVAE: "quantizer.quantizer.embedding.weight",
    UNET: "time_embed.0.weight",
}
_LEVEL = r"(R+|(?:RA)+)"
"""Residual blocks of a level, each with attention or none."""
_MIDDLE = "RAR"


def recognise_network(weights: Collection[str]) -> str | None:
    """Return the name of the MONAI network whose weights have these names; None if of no known one."""
    return next((network for network, name in _FIRST.items() if name in weights), None)


def infer_autoencoder_arguments(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Read the arguments of an AutoencoderKL from its weights.

    Raises:
        CheckpointError: if the weights are of no AutoencoderKL, naming what is not.
    """
    _require(weights, AUTOENCODER)
    encoder, decoder = (_blocks(weights, part) for part in ("encoder", "decoder"))
    first, latents = _weight(encoder[0], "encoder.blocks.0"), weights[_FIRST[AUTOENCODER]]
    levels = _levels(encoder)
    n_blocks, has_attention, has_middle = _read_levels(levels, rf"{_LEVEL}({_MIDDLE})?", last=True)
    _, _, decoder_has_middle = _read_levels(_levels(decoder), rf"({_MIDDLE})?{_LEVEL}", last=False)
    return {
        "spatial_dims": first.ndim - 2,
        "in_channels": first.shape[1],
        "out_channels": _weight(decoder[-1], "the last of decoder.blocks").shape[0],
        "channels": tuple(level[0]["conv2.conv.weight"].shape[0] for level in levels),
        "num_res_blocks": n_blocks,
        "attention_levels": has_attention,
        "latent_channels": latents.shape[0],
        "with_encoder_nonlocal_attn": has_middle,
        "with_decoder_nonlocal_attn": decoder_has_middle,
        "use_convtranspose": any(".deconv." in name for name in weights),
        "include_fc": _has_projection(list(weights)),
    }


def infer_vqvae_arguments(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Read the arguments of MONAI's VQVAE from its weights; as `infer_autoencoder_arguments`."""
    _require(weights, VQVAE)
    encoder, decoder = (_blocks(weights, part) for part in ("encoder", "decoder"))
    convolutions = [block["conv.weight"] for block in encoder if "conv.weight" in block]
    kinds = "".join("C" if "conv.weight" in block else "U" for block in encoder)
    levels = re.findall("C(U*)", kinds)[:-1]
    units = [list(part) for is_unit, part in groupby(encoder, _is_unit) if is_unit]
    codebook = weights[_FIRST[VQVAE]]
    return {
        "spatial_dims": convolutions[0].ndim - 2,
        "in_channels": convolutions[0].shape[1],
        "out_channels": _weight(decoder[-1], "the last of decoder.blocks").shape[1],
        "channels": tuple(weight.shape[0] for weight in convolutions[:-1]),
        "num_res_layers": len(levels[0]),
        "num_res_channels": tuple(level[0]["conv1.conv.weight"].shape[0] for level in units),
        "num_embeddings": codebook.shape[0],
        "embedding_dim": codebook.shape[1],
    }


def infer_unet_arguments(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Read the arguments of a DiffusionModelUNet from its weights; as `infer_autoencoder_arguments`."""
    _require(weights, UNET)
    first, last = (_named(weights, name) for name in ("conv_in.conv.weight", "out.2.conv.weight"))
    levels = range(1 + max(map(int, _parts(weights, "down_blocks.")), default=-1))
    widths = [_named(weights, f"down_blocks.{i}.resnets.0.conv2.conv.weight").shape[0] for i in levels]
    blocks = "middle_block.attention.transformer_blocks."
    context = weights.get(f"{blocks}0.attn2.to_k.weight")
    classes = weights.get("class_embedding.weight")
    return {
        "spatial_dims": first.ndim - 2,
        "in_channels": first.shape[1],
        "out_channels": last.shape[0],
        "channels": tuple(widths),
        "num_res_blocks": tuple(len(_parts(weights, f"down_blocks.{i}.resnets.")) for i in levels),
        "attention_levels": tuple(bool(_parts(weights, f"down_blocks.{i}.attentions.")) for i in levels),
        "resblock_updown": any("downsampler.conv1" in name for name in weights),
        "with_conditioning": context is not None,
        "transformer_num_layers": max(1, len(_parts(weights, blocks))),
        "cross_attention_dim": None if context is None else context.shape[1],
        "num_class_embeds": None if classes is None else classes.shape[0],
        "include_fc": _has_projection([name for name in weights if ".attn2." not in name]),
    }


def _require(weights: Mapping[str, Tensor], network: str) -> None:
    found = recognise_network(weights)
    if found != network:
        like = f"look like those of a {found}" if found else "are of no network that is known here"
        raise CheckpointError(
            f"the weights are not those of a MONAI {network}: they {like} ({len(weights)} weights, such as "
            f"{sorted(weights)[:3]})"
        )


def _blocks(weights: Mapping[str, Tensor], part: str) -> list[dict[str, Tensor]]:
    """Return the blocks of an encoder or a decoder in their order, each with its weights by name."""
    prefix = f"{part}.blocks."
    blocks: dict[int, dict[str, Tensor]] = {}
    for name, tensor in weights.items():
        number, _, own = name.removeprefix(prefix).partition(".")
        if name.startswith(prefix) and number.isdigit():
            blocks.setdefault(int(number), {})[own] = tensor
    if len(blocks) < 3:
        raise CheckpointError(
            f"the weights have {len(blocks)} blocks {prefix}0, 1, ...: at least 3 are needed"
        )
    return [block for _, block in sorted(blocks.items())]


def _letter(block: Mapping[str, Tensor]) -> str:
    """R for a residual block, A for attention, D for a change of resolution, "" for what else there is."""
    if "conv2.conv.weight" in block:
        return "R"
    if any(name.startswith("attn.") for name in block):
        return "A"
    return "D" if {"conv.conv.weight", "postconv.conv.weight", "deconv.weight"} & block.keys() else ""


def _levels(blocks: Sequence[dict[str, Tensor]]) -> list[list[dict[str, Tensor]]]:
    """Return the blocks between the changes of resolution, without the convolutions at the ends."""
    levels: list[list[dict[str, Tensor]]] = [[]]
    for block in blocks:
        if _letter(block) == "D":
            levels.append([])
        elif _letter(block):
            levels[-1].append(block)
    return levels


def _read_levels(
    levels: Sequence[Sequence[dict[str, Tensor]]], pattern: str, *, last: bool
) -> tuple[tuple[int, ...], tuple[bool, ...], bool]:
    """Return residual blocks and attention of each level, and whether there is a middle at one end."""
    coarsest = len(levels) - 1 if last else 0
    n_blocks, has_attention, has_middle = [], [], False
    for i, level in enumerate(levels):
        kinds = "".join(map(_letter, level))
        match = re.fullmatch(pattern if i == coarsest else f"(?P<level>{_LEVEL})", kinds)
        if match is None:
            raise CheckpointError(
                f"level {i} of the {'encoder' if last else 'decoder'} has the blocks {kinds or 'none'} (R "
                "residual, A attention): MONAI's network has residual blocks, each with attention or none"
            )
        own = [group for group in match.groups() if group]
        if i == coarsest and len(own) == 2:
            has_middle = True
            own.remove(_MIDDLE)
        n_blocks.append(own[0].count("R"))
        has_attention.append("A" in own[0])
    return tuple(n_blocks), tuple(has_attention), has_middle


def _is_unit(block: Mapping[str, Tensor]) -> bool:
    return "conv1.conv.weight" in block


def _weight(block: Mapping[str, Tensor], name: str) -> Tensor:
    if "conv.weight" not in block:
        raise CheckpointError(f"{name} is no convolution, it has {sorted(block)[:4]}")
    return block["conv.weight"]


def _named(weights: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in weights:
        raise CheckpointError(f"the weights lack {name}")
    return weights[name]


def _parts(weights: Mapping[str, Tensor], prefix: str) -> set[str]:
    """Return what follows a prefix up to the next point."""
    return {name[len(prefix) :].split(".")[0] for name in weights if name.startswith(prefix)}


def _has_projection(names: Sequence[str]) -> bool:
    """Whether self-attention ends with a linear layer; True where there is no attention."""
    has_attention = any(".to_q." in name or ".qkv." in name for name in names)
    return not has_attention or any(".out_proj." in name for name in names)
