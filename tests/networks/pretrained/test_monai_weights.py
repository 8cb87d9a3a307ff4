"""MONAI's networks are the oracle: with their weights, ours give the same outputs and the same gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from monai.networks.nets import VQVAE as MonaiVQVAE
from monai.networks.nets import AutoencoderKL, DiffusionModelUNet
from torch import Tensor, nn

from medldm.networks.pretrained.monai_layout import pair_unet, pair_vae, pair_vqvae
from medldm.networks.pretrained.monai_weights import unet_from_monai, vae_from_monai, vqvae_from_monai

Randomise = Callable[[nn.Module], nn.Module]
TWO_LEVELS: dict[str, Any] = {
    "spatial_dims": 3,
    "channels": (8, 16),
    "attention_levels": (False, False),
    "norm_num_groups": 4,
    "num_res_blocks": 1,
}
THREE_LEVELS = TWO_LEVELS | {
    "channels": (4, 8, 12),
    "attention_levels": (False, True, True),
    "norm_num_groups": 2,
    "num_res_blocks": (1, 2, 1),
}
AUTOENCODERS: dict[str, dict[str, Any]] = {
    "two levels": TWO_LEVELS,
    "three levels, attention": THREE_LEVELS,
    "no attention at all": TWO_LEVELS
    | {"with_encoder_nonlocal_attn": False, "with_decoder_nonlocal_attn": False},
    "transposed, one middle": THREE_LEVELS | {"use_convtranspose": True, "with_decoder_nonlocal_attn": False},
    "joined q, k, v": THREE_LEVELS | {"use_combined_linear": True, "norm_eps": 1e-3},
    "no last linear layer": THREE_LEVELS | {"include_fc": False, "latent_channels": 5},
    "two dimensions": TWO_LEVELS | {"spatial_dims": 2, "in_channels": 2, "out_channels": 3},
}
DENOISER = TWO_LEVELS | {"in_channels": 4, "out_channels": 3, "num_head_channels": 4}
THREE_LEVEL_DENOISER = THREE_LEVELS | {"in_channels": 4, "out_channels": 4, "num_head_channels": 4}
CROSS = {"with_conditioning": True, "cross_attention_dim": 6}
DENOISERS: dict[str, dict[str, Any]] = {
    "two levels": DENOISER,
    "self-attention, heads per level": DENOISER
    | {"attention_levels": (True, True), "num_head_channels": (2, 8)},
    "cross-attention": DENOISER | CROSS | {"attention_levels": (False, True)},
    "three levels, cross-attention": THREE_LEVEL_DENOISER | CROSS | {"transformer_num_layers": 2},
    "classes": DENOISER | {"num_class_embeds": 3},
    "classes, cross-attention, residual resampling": THREE_LEVEL_DENOISER
    | CROSS
    | {"num_class_embeds": 3, "resblock_updown": True, "use_combined_linear": True},
    "no last linear layer": THREE_LEVEL_DENOISER | CROSS | {"include_fc": False, "norm_eps": 1e-3},
    "head channels that do not divide": THREE_LEVEL_DENOISER | CROSS | {"num_head_channels": 5},
    "two dimensions": DENOISER | CROSS | {"spatial_dims": 2, "attention_levels": (True, True)},
}
VQ = {"spatial_dims": 3, "in_channels": 1, "out_channels": 1, "num_embeddings": 16, "embedding_dim": 4}
QUANTISERS: dict[str, dict[str, Any]] = {
    "three levels": VQ | {"channels": (4, 6, 8), "num_res_layers": 1, "num_res_channels": (4, 6, 8)},
    "two levels, narrow units": VQ
    | {
        "channels": (6, 8),
        "num_res_layers": 2,
        "num_res_channels": 3,
        "downsample_parameters": (2, 4, 1, 1),
        "upsample_parameters": (2, 4, 1, 1, 0),
        "commitment_cost": 0.5,
    },
    "other strides and activations": VQ
    | {
        "channels": (4, 6),
        "num_res_layers": 1,
        "num_res_channels": (2, 3),
        "downsample_parameters": ((2, 4, 1, 1), (1, 3, 1, 1)),
        "upsample_parameters": ((1, 3, 1, 1, 0), (2, 4, 1, 1, 0)),
        "act": "leakyrelu",
        "output_act": "tanh",
    },
}


def assert_equal_gradients(network: nn.Module, oracle: nn.Module, pairs: Any) -> None:
    """Every gradient of `network` equals the joined gradients of the oracle's layers."""
    ours, theirs = dict(network.named_parameters()), dict(oracle.named_parameters())
    n_compared = 0
    for here, there in pairs:
        for kind in ("weight", "bias"):
            names = [f"{name}.{kind}" for name in there]
            if f"{here}.{kind}" in ours and all(name in theirs for name in names):
                expected = torch.cat([theirs[name].grad for name in names])
                found = ours[f"{here}.{kind}"].grad
                torch.testing.assert_close(
                    found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()) + 1e-6
                )
                n_compared += 1
    assert n_compared == len(ours)


def assert_close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("arguments", AUTOENCODERS.values(), ids=AUTOENCODERS)
def test_autoencoder_gives_outputs_and_gradients_of_monai(
    arguments: dict[str, Any], randomise: Randomise, generator: torch.Generator
) -> None:
    oracle = randomise(AutoencoderKL(**arguments))
    network = vae_from_monai(oracle)
    size = (8, 12, 4)[: arguments["spatial_dims"]]
    volume = torch.randn(2, arguments.get("in_channels", 1), *size, generator=generator)
    mean, std = oracle.encode(volume)
    expected = oracle.decode(mean + 0.5 * std)
    posterior = network.encode(volume)
    found = network.decode(posterior.mean + 0.5 * posterior.std)
    assert_close(posterior.mean, mean)
    assert_close(posterior.std, std)
    assert_close(found, expected)
    found.square().mean().backward()
    expected.square().mean().backward()
    assert_equal_gradients(network, oracle, pair_vae(network))


@pytest.mark.parametrize("arguments", DENOISERS.values(), ids=DENOISERS)
def test_denoiser_gives_outputs_and_gradients_of_monai(
    arguments: dict[str, Any], randomise: Randomise, generator: torch.Generator
) -> None:
    oracle = randomise(DiffusionModelUNet(**arguments))
    network = unet_from_monai(oracle)
    size = (8, 4, 4)[: arguments["spatial_dims"]]
    x = torch.randn(2, 4, *size, generator=generator).requires_grad_()
    timesteps = torch.tensor([3, 877])
    conditions: dict[str, Tensor] = {}
    if arguments.get("with_conditioning"):
        conditions["context"] = torch.randn(2, 3, 6, generator=generator)
    if "num_class_embeds" in arguments:
        conditions["class_labels"] = torch.tensor([2, 0])
    expected = oracle(x, timesteps, **conditions)
    (expected_input_gradient,) = torch.autograd.grad(expected.square().mean(), x, retain_graph=True)
    found = network(x, timesteps, **conditions)
    (found_input_gradient,) = torch.autograd.grad(found.square().mean(), x, retain_graph=True)
    assert_close(found, expected)
    assert_close(found_input_gradient, expected_input_gradient)
    found.square().mean().backward()
    expected.square().mean().backward()
    assert_equal_gradients(network, oracle, pair_unet(network))


@pytest.mark.parametrize("arguments", QUANTISERS.values(), ids=QUANTISERS)
def test_vqvae_gives_outputs_and_gradients_of_monai(
    arguments: dict[str, Any], randomise: Randomise, generator: torch.Generator
) -> None:
    oracle = randomise(MonaiVQVAE(**arguments)).eval()
    network = vqvae_from_monai(oracle)
    volume = torch.randn(2, 1, 16, 8, 8, generator=generator)
    expected, expected_loss = oracle(volume)
    found = network(volume)
    assert torch.equal(network.quantise(network.encode(volume)).indices, oracle.index_quantize(volume))
    assert_close(found.reconstruction, expected)
    assert_close(found.regularisation, expected_loss)
    (found.reconstruction.square().mean() + found.regularisation).backward()
    (expected.square().mean() + expected_loss).backward()
    assert_equal_gradients(network, oracle, pair_vqvae(network))


def test_state_dict_with_arguments_equals_module(randomise: Randomise) -> None:
    cases = (
        (AutoencoderKL, vae_from_monai, THREE_LEVELS),
        (DiffusionModelUNet, unet_from_monai, THREE_LEVEL_DENOISER | CROSS),
        (MonaiVQVAE, vqvae_from_monai, QUANTISERS["three levels"]),
    )
    for network, load, arguments in cases:
        oracle = randomise(network(**arguments))
        from_module, from_weights = load(oracle), load(oracle.state_dict(), arguments)
        assert from_module.config == from_weights.config
        for name, value in from_module.state_dict().items():
            assert torch.equal(value, from_weights.state_dict()[name]), name


def test_loaded_network_shares_no_memory_and_takes_the_mode_of_the_module(randomise: Randomise) -> None:
    oracle = randomise(AutoencoderKL(**TWO_LEVELS)).eval()
    network = vae_from_monai(oracle)
    assert not network.training
    before = network.encoder.conv_in.weight.clone()
    with torch.no_grad():
        oracle.encoder.blocks[0].conv.weight.zero_()
    assert torch.equal(network.encoder.conv_in.weight, before)


def test_vqvae_goes_on_learning_from_the_codebook_of_monai(
    randomise: Randomise, generator: torch.Generator
) -> None:
    oracle = randomise(MonaiVQVAE(**QUANTISERS["two levels, narrow units"])).train()
    volume = torch.randn(2, 1, 8, 8, 8, generator=generator)
    oracle(volume)
    network = vqvae_from_monai(oracle)
    assert bool(network.quantiser.is_initialised)
    before = network.quantiser.codebook.clone()
    network(volume)
    assert not torch.equal(network.quantiser.codebook, before)
    assert torch.isfinite(network.quantiser.codebook).all()


def test_a_file_is_refused_so_that_nothing_is_unpickled(tmp_path: Any) -> None:
    with pytest.raises(TypeError, match="files are not opened here"):
        vae_from_monai(tmp_path / "model.pt")  # type: ignore[arg-type]


def test_a_module_of_another_kind_is_refused() -> None:
    with pytest.raises(TypeError, match="expected a MONAI AutoencoderKL, got a module of type Conv3d"):
        vae_from_monai(nn.Conv3d(1, 1, 1))


def test_a_state_dict_without_arguments_is_refused() -> None:
    with pytest.raises(ValueError, match="pass `arguments`"):
        unet_from_monai(DiffusionModelUNet(**DENOISER).state_dict())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_res_blocks": 2}, "not found for"),
        ({"channels": (16, 16)}, "do not fit the arguments"),
        ({"with_decoder_nonlocal_attn": False}, "no use for"),
    ],
)
def test_weights_that_do_not_fit_are_named(wrong: dict[str, Any], message: str) -> None:
    weights = AutoencoderKL(**TWO_LEVELS).state_dict()
    with pytest.raises(ValueError, match=message):
        vae_from_monai(weights, TWO_LEVELS | wrong)
