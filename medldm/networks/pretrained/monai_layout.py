"""Which layer of MONAI's networks corresponds to which layer here.

Every function yields pairs (name here, names in MONAI): the weights and biases of the MONAI layers, joined
along their first axis, are those of the layer here. Joined are q, k and v of an attention, and the two heads
of a VAE.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

from torch import nn

from medldm.networks.attention import ResidualLayer, SpatialSelfAttention, SpatialTransformer
from medldm.networks.blocks import Downsample, LinearUpsample, ResidualBlock, TransposedUpsample, Upsample
from medldm.networks.encoder_decoder import Level
from medldm.networks.strided_encoder_decoder import ResidualUnit
from medldm.networks.unet import LatentUNet
from medldm.networks.vae import VAE
from medldm.networks.vqvae import VQVAE

Pairs: TypeAlias = Iterator[tuple[str, tuple[str, ...]]]


def pair_vae(network: VAE) -> Pairs:
    """Pair the layers of a VAE with those of AutoencoderKL."""
    yield from _pair_numbered(network.encoder, "encoder")
    yield "to_moments", ("quant_conv_mu.conv", "quant_conv_log_sigma.conv")
    yield "from_latents", ("post_quant_conv.conv",)
    yield from _pair_numbered(network.decoder, "decoder")


def pair_vqvae(network: VQVAE) -> Pairs:
    """Pair the layers of a strided VQVAE, its codebook apart, with those of MONAI's VQVAE."""
    yield from _pair_numbered(network.encoder, "encoder")
    yield from _pair_numbered(network.decoder, "decoder")


def pair_unet(network: LatentUNet) -> Pairs:
    """Pair the layers of a LatentUNet with those of DiffusionModelUNet."""
    yield "conv_in", ("conv_in.conv",)
    yield "time_embedding.linear1", ("time_embed.0",)
    yield "time_embedding.linear2", ("time_embed.2",)
    yield "class_embedding", ("class_embedding",)
    for here, there, sampler in (("down", "down_blocks", "downsampler"), ("up", "up_blocks", "upsampler")):
        for i, level in enumerate(getattr(network, here)):
            for j, layer in enumerate(level.layers):
                ours, theirs = f"{here}.{i}.layers.{j}", f"{there}.{i}"
                yield from _pair_block(layer.residual, f"{ours}.residual", f"{theirs}.resnets.{j}")
                yield from _pair_block(layer.attention, f"{ours}.attention", f"{theirs}.attentions.{j}")
            yield from _pair_block(level.resample, f"{here}.{i}.resample", f"{there}.{i}.{sampler}")
    middle: Any = network.middle
    first, last = middle
    yield from _pair_block(first.residual, "middle.0.residual", "middle_block.resnet_1")
    yield from _pair_block(first.attention, "middle.0.attention", "middle_block.attention")
    yield from _pair_block(last.residual, "middle.1.residual", "middle_block.resnet_2")
    yield "norm_out", ("out.0",)
    yield "conv_out", ("out.2.conv",)


def _pair_numbered(network: nn.Module, part: str) -> Pairs:
    """Pair an encoder's or a decoder's blocks, in the order of its modules, with MONAI's numbered ones."""
    for number, (name, block) in enumerate(_walk(network, part)):
        yield from _pair_block(block, name, f"{part}.blocks.{number}")


def _walk(module: nn.Module, name: str) -> Iterator[tuple[str, nn.Module]]:
    """Yield the blocks that have weights, by name, in the order in which the module was given them."""
    for own, child in module.named_children():
        if isinstance(child, nn.ModuleList | nn.Sequential | Level | ResidualLayer):
            yield from _walk(child, f"{name}.{own}")
        elif any(True for _ in child.parameters()):
            yield f"{name}.{own}", child


def _pair_block(block: nn.Module | None, here: str, there: str) -> Pairs:
    """Pair the layers of one block; an absent block has none."""
    if block is None:
        return
    if isinstance(block, nn.GroupNorm):
        yield here, (there,)
    elif isinstance(block, ResidualBlock):
        yield from _pair_residual(block, here, there)
    elif isinstance(block, SpatialSelfAttention):
        yield f"{here}.norm", (f"{there}.norm",)
        yield from _pair_self_attention(f"{here}.attention", f"{there}.attn")
    elif isinstance(block, SpatialTransformer):
        yield from _pair_transformer(block, here, there)
    elif isinstance(block, ResidualUnit):
        yield f"{here}.conv1", (f"{there}.conv1.conv",)
        yield f"{here}.conv2", (f"{there}.conv2.conv",)
    elif isinstance(block, Downsample):
        yield f"{here}.conv", (f"{there}.conv.conv" if block.end_padding else f"{there}.op.conv",)
    elif isinstance(block, Upsample | LinearUpsample):
        yield f"{here}.conv", (f"{there}.postconv.conv",)
    elif isinstance(block, TransposedUpsample):
        yield f"{here}.conv", (f"{there}.deconv",)
    else:
        yield here, (f"{there}.conv",)


def _pair_residual(block: ResidualBlock, here: str, there: str) -> Pairs:
    shortcut = "nin_shortcut" if block.time_projection is None else "skip_connection"
    yield f"{here}.norm1", (f"{there}.norm1",)
    yield f"{here}.conv1", (f"{there}.conv1.conv",)
    yield f"{here}.time_projection", (f"{there}.time_emb_proj",)
    yield f"{here}.norm2", (f"{there}.norm2",)
    yield f"{here}.conv2", (f"{there}.conv2.conv",)
    yield f"{here}.shortcut", (f"{there}.{shortcut}.conv",)


def _pair_self_attention(here: str, there: str) -> Pairs:
    """MONAI has q, k and v either joined or apart, as use_combined_linear said."""
    yield f"{here}.to_qkv", (f"{there}.qkv",)
    yield f"{here}.to_qkv", (f"{there}.to_q", f"{there}.to_k", f"{there}.to_v")
    yield f"{here}.projection", (f"{there}.out_proj",)


def _pair_transformer(block: SpatialTransformer, here: str, there: str) -> Pairs:
    yield f"{here}.norm", (f"{there}.norm",)
    yield f"{here}.project_in", (f"{there}.proj_in.conv",)
    for i in range(len(block.blocks)):
        ours, theirs = f"{here}.blocks.{i}", f"{there}.transformer_blocks.{i}"
        yield from _pair_self_attention(f"{ours}.self_attention", f"{theirs}.attn1")
        yield f"{ours}.cross_attention.to_q", (f"{theirs}.attn2.to_q",)
        yield f"{ours}.cross_attention.to_kv", (f"{theirs}.attn2.to_k", f"{theirs}.attn2.to_v")
        yield f"{ours}.cross_attention.projection", (f"{theirs}.attn2.out_proj",)
        yield f"{ours}.feed_forward.expand", (f"{theirs}.ff.linear1",)
        yield f"{ours}.feed_forward.contract", (f"{theirs}.ff.linear2",)
        for norm in ("norm1", "norm2", "norm3"):
            yield f"{ours}.{norm}", (f"{theirs}.{norm}",)
    yield f"{here}.project_out", (f"{there}.proj_out.conv",)
