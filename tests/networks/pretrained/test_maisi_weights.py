"""MAISI's autoencoder is the oracle: with its weights, ours gives the same outputs and the same gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from monai.apps.generation.maisi.networks.autoencoderkl_maisi import AutoencoderKlMaisi, MaisiConvolution
from monai.networks.nets import AutoencoderKL
from torch import nn

from medldm.networks.pretrained.maisi_weights import (
    from_maisi_name,
    infer_maisi_arguments,
    vae_config_from_maisi,
    vae_from_maisi,
)
from medldm.networks.streaming.encode_decode import stream_decode

Randomise = Callable[[nn.Module], nn.Module]
SMALL: dict[str, Any] = {
    "spatial_dims": 3,
    "in_channels": 1,
    "out_channels": 1,
    "num_channels": (4, 8, 12),
    "num_res_blocks": (1, 2, 1),
    "attention_levels": (False, False, False),
    "latent_channels": 4,
    "norm_num_groups": 2,
    "num_splits": 1,
    "save_mem": False,
}
NETWORKS: dict[str, dict[str, Any]] = {
    "as released": SMALL,
    "split": SMALL | {"num_splits": 2, "dim_split": 1},
    "attention": SMALL | {"attention_levels": (False, True, True), "include_fc": True},
    "middle": SMALL | {"with_encoder_nonlocal_attn": True, "with_decoder_nonlocal_attn": True},
    "decoder's middle, joined q, k, v": SMALL
    | {"with_decoder_nonlocal_attn": True, "use_combined_linear": True, "norm_eps": 1e-4},
}


def convolve_in_float32(module: nn.Module) -> None:
    """Let maps in float16 reach convolutions of float32: nothing is rounded but what is normalised."""
    for layer in module.modules():
        if isinstance(layer, MaisiConvolution):
            layer.register_forward_pre_hook(lambda _, inputs: (inputs[0].float(),))


@pytest.mark.parametrize("arguments", NETWORKS.values(), ids=NETWORKS)
def test_outputs_and_gradients_are_those_of_maisi(
    arguments: dict[str, Any], randomise: Randomise, generator: torch.Generator
) -> None:
    oracle = randomise(AutoencoderKlMaisi(**arguments))
    network = vae_from_maisi(oracle)
    # MAISI's own convolutions in parts need maps that are larger than their overlap at every level.
    size = (8, 12, 4) if arguments["num_splits"] == 1 else (8, 64, 16)
    volume = torch.randn(1, 1, *size, generator=generator).requires_grad_()
    mean, std = oracle.encode(volume)
    found_mean, found_std = network.encode_moments(volume)
    torch.testing.assert_close(found_mean, mean, rtol=0, atol=1e-4)
    torch.testing.assert_close(found_std, std, rtol=0, atol=1e-4)
    expected, found = oracle.decode(mean), network.decode(found_mean)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    (expected_gradient,) = torch.autograd.grad(expected.square().mean(), volume)
    (found_gradient,) = torch.autograd.grad(found.square().mean(), volume)
    torch.testing.assert_close(found_gradient, expected_gradient, rtol=1e-3, atol=1e-5)


@torch.no_grad()
def test_normalised_maps_in_float16_change_the_outputs_by_their_rounding_alone(
    randomise: Randomise, generator: torch.Generator
) -> None:
    """MAISI's rounding is what differs: it is as far from its own float32 result as from ours."""
    rounded = randomise(AutoencoderKlMaisi(**SMALL, norm_float16=True))
    exact = AutoencoderKlMaisi(**SMALL)
    exact.load_state_dict(rounded.state_dict())
    network = vae_from_maisi(rounded)
    convolve_in_float32(rounded)
    latents = torch.randn(1, 4, 4, 6, 5, generator=generator)
    found, of_exact, of_rounded = (each.decode(latents) for each in (network, exact, rounded))
    torch.testing.assert_close(found, of_exact, rtol=0, atol=1e-4)
    rounding = (of_rounded - of_exact).abs().max()
    assert 0 < rounding < 2**-10 * of_exact.abs().max()
    assert (found - of_rounded).abs().max() < 1.1 * rounding


def test_the_arguments_are_read_from_the_weights(randomise: Randomise) -> None:
    for arguments in NETWORKS.values():
        module = AutoencoderKlMaisi(**arguments)
        told = {name: arguments[name] for name in ("norm_num_groups", "norm_eps") if name in arguments}
        inferred = infer_maisi_arguments(module.state_dict()) | told
        assert vae_config_from_maisi(inferred) == vae_config_from_maisi(arguments)
        assert vae_from_maisi(module).config == vae_config_from_maisi(arguments)


def test_names_become_those_of_autoencoder_kl_one_for_one() -> None:
    options = {name: value for name, value in NETWORKS["middle"].items() if name in ("spatial_dims",)}
    options |= {"channels": (4, 8, 12), "num_res_blocks": (1, 2, 1), "attention_levels": (False,) * 3}
    kl = AutoencoderKL(**options, latent_channels=4, norm_num_groups=2, include_fc=False)
    maisi = AutoencoderKlMaisi(**NETWORKS["middle"])
    assert [from_maisi_name(name) for name in maisi.state_dict()] == list(kl.state_dict())


def test_its_transposed_upsampling_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="use_convtranspose is True"):
        vae_config_from_maisi(SMALL | {"use_convtranspose": True})


@torch.no_grad()
def test_streamed_decoding_equals_the_whole(randomise: Randomise, generator: torch.Generator) -> None:
    network = vae_from_maisi(randomise(AutoencoderKlMaisi(**SMALL))).eval()
    latents = torch.randn(1, 4, 5, 3, 2, generator=generator)
    expected = network.decode(latents)
    for tile in (1, 3):
        found = stream_decode(network, latents, tile=tile)
        assert (found - expected).abs().max() <= 5e-5 * expected.abs().max()
