"""Layers with hooks, wrapped or parametrised layers are called as PyTorch calls them, whatever is faster.

The oracle is the plain form of the same network: what its layers would compute without any kernel.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from medldm.networks import VAE, VQVAE, LatentUNet, StaticContext
from medldm.networks.attention import ResidualLayer
from medldm.networks.blocks import Downsample, LinearUpsample, ResidualBlock, TransposedUpsample, Upsample
from medldm.networks.kernels import dispatch
from medldm.networks.streaming.encode_decode import stream_decode, stream_encode_moments
from medldm.networks.strided_encoder_decoder import ResidualUnit

Randomise = Callable[[nn.Module], nn.Module]
LAYERS = (nn.Conv3d, nn.ConvTranspose3d, nn.GroupNorm, nn.Linear)
BLOCKS = (
    *(ResidualBlock, ResidualLayer, ResidualUnit),
    *(Upsample, LinearUpsample, Downsample, TransposedUpsample),
)
RANDOM = torch.Generator().manual_seed(0)
VOLUME = torch.randn(1, 1, 8, 12, 8, generator=RANDOM)
LATENTS = torch.randn(1, 4, 4, 6, 4, generator=RANDOM)
CONTEXT = torch.randn(1, 3, 6, generator=RANDOM)
SMALL = {"down_channels": [8, 12], "n_groups": 4, "n_res_blocks": 1}
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "vae": lambda: VAE(**SMALL, attention_levels=[False, True]),
    "transposed": lambda: VAE(**SMALL, upsampling="transposed", mid_attention=False),
    "trilinear": lambda: VAE(**SMALL, upsampling="trilinear", mid_attention=False),
    "strided": lambda: VQVAE(down_channels=[6, 8], trunk="strided", codebook_init="normal", n_codes=16),
    "unet": lambda: LatentUNet(**SMALL, n_heads=2, context_dim=6),
    "resampling": lambda: LatentUNet(**SMALL, n_heads=2, context_dim=6, residual_resampling=True),
}


class LowRank(nn.Module):
    """A layer with an addition of low rank, as adapters make it: it has no weight of its own name."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.base = layer
        self.addition = nn.Parameter(torch.tensor(0.3))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) * (1 + self.addition)


class Doubled(nn.Module):
    """A parametrisation of a weight."""

    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


def wrap(network: nn.Module) -> None:
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, LAYERS) and not isinstance(module, LowRank):
                setattr(module, name, LowRank(child))


def parametrise(network: nn.Module) -> None:
    for layer in layers_of(network):
        parametrize.register_parametrization(layer, "weight", Doubled())


def change_outputs(network: nn.Module) -> None:
    for layer in layers_of(network):
        layer.register_forward_hook(lambda _, __, output: 1.1 * output)


def change_inputs(network: nn.Module) -> None:
    for layer in layers_of(network):
        layer.register_forward_pre_hook(lambda _, inputs: (0.9 * inputs[0],))


def change_blocks(network: nn.Module) -> None:
    for module in network.modules():
        if type(module).__name__ in (
            "ResidualBlock",
            "ResidualLayer",
            "ResidualUnit",
            "Upsample",
            "Downsample",
        ):
            module.register_forward_hook(lambda _, __, output: 1.1 * output)


def replace_forward(network: nn.Module) -> None:
    for layer in layers_of(network):
        forward = layer.forward
        layer.forward = lambda x, forward=forward: 1.1 * forward(x)  # type: ignore[method-assign]


CHANGES = [wrap, parametrise, change_outputs, change_inputs, change_blocks, replace_forward]


def layers_of(network: nn.Module) -> list[Any]:
    return [module for module in network.modules() if isinstance(module, LAYERS)]


def run(network: Any) -> Tensor:
    if isinstance(network, LatentUNet):
        return network(LATENTS, torch.tensor([300]), CONTEXT)
    mean, std = network.encode_moments(VOLUME)
    return torch.cat([network.decode(mean).flatten(), mean.flatten(), std.flatten()])


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", NETWORKS)
def test_changed_layers_count_in_training_and_inference(
    name: str, change: Callable[[nn.Module], None], randomise: Randomise
) -> None:
    network = randomise(NETWORKS[name]())
    before = run(network).detach()
    change(network)
    with dispatch.plain_form():
        plain = run(network)
        expected = torch.autograd.grad(plain.square().mean(), list(network.parameters()), allow_unused=True)
    trained = run(network)
    found = torch.autograd.grad(trained.square().mean(), list(network.parameters()), allow_unused=True)
    with torch.no_grad():
        inferred = run(network.eval())
    scale = float(plain.detach().abs().max())
    assert float((plain.detach() - before).abs().max()) > 1e-2 * scale
    torch.testing.assert_close(trained, plain, rtol=0, atol=1e-5 * scale)
    torch.testing.assert_close(inferred, plain.detach(), rtol=0, atol=1e-5 * scale)
    for first, second in zip(found, expected, strict=True):
        assert (first is None) == (second is None)
        if second is not None:
            torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-4 * float(second.abs().max()))


@pytest.mark.parametrize("has_gradients", [True, False])
@pytest.mark.parametrize("name", NETWORKS)
def test_hooks_see_every_layer_once(name: str, has_gradients: bool) -> None:
    network = NETWORKS[name]()
    seen: dict[nn.Module, int] = dict.fromkeys(layers_of(network), 0)

    def count(layer: nn.Module, *_: object) -> None:
        seen[layer] += 1

    for layer in seen:
        layer.register_forward_hook(count)
    with torch.set_grad_enabled(has_gradients):
        run(network)
    assert set(seen.values()) == {1}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", ["vae", "transposed", "strided"])
@torch.no_grad()
def test_changed_layers_count_in_streaming(
    name: str, change: Callable[[nn.Module], None], randomise: Randomise, caplog: pytest.LogCaptureFixture
) -> None:
    network = randomise(NETWORKS[name]()).eval()
    change(network)
    latents = network.encode_moments(VOLUME)[0]
    with caplog.at_level(logging.WARNING):
        found = stream_decode(network, latents, tile=3), stream_encode_moments(network, VOLUME, tile=3)[0]
    assert "has hooks or is wrapped: it is computed whole" in caplog.text
    for y, expected in zip(found, (network.decode(latents), latents), strict=True):
        torch.testing.assert_close(y, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


@torch.no_grad()
def test_layers_without_hooks_are_streamed_in_tiles(caplog: pytest.LogCaptureFixture) -> None:
    for name in ("vae", "transposed", "strided"):
        stream_decode(NETWORKS[name](), LATENTS, tile=3)
    assert caplog.text == ""


@pytest.mark.parametrize("change", CHANGES)
@torch.no_grad()
def test_changed_layers_count_with_a_static_context(
    change: Callable[[nn.Module], None], randomise: Randomise
) -> None:
    unet = randomise(NETWORKS["unet"]()).eval()
    change(unet)
    context = StaticContext(CONTEXT)
    for _ in range(2):
        torch.testing.assert_close(unet(LATENTS, torch.tensor([300]), context), run(unet))


def test_a_layer_whose_hook_was_removed_is_fused_again() -> None:
    vae = NETWORKS["vae"]()
    layer = layers_of(vae)[0]
    handle = layer.register_forward_hook(lambda *_: None)
    assert not dispatch.may_fuse(layer)
    handle.remove()
    assert dispatch.may_fuse(layer)
    with dispatch.plain_form():
        assert not dispatch.may_fuse(layer)
