from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from medldm.networks import VQVAE, VQVAEConfig
from medldm.networks.downsampling import latent_size

Randomise = Callable[[nn.Module], nn.Module]
RESIDUAL = VQVAEConfig(down_channels=[4, 8, 8], n_groups=2, n_res_blocks=1, n_codes=16)
STRIDED = VQVAEConfig(trunk="strided", down_channels=[5, 7], n_res_blocks=2, n_codes=16, res_channels=3)
TRUNKS = pytest.mark.parametrize("config", [RESIDUAL, STRIDED], ids=["residual", "strided"])


def copy_state(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def assert_equal_states(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


@TRUNKS
@pytest.mark.parametrize("size", [(8, 8, 8), (7, 9, 11), (1, 4, 5)])
def test_forward_restores_any_size(
    config: VQVAEConfig, size: tuple[int, ...], generator: torch.Generator
) -> None:
    vqvae = VQVAE(config)
    volume = torch.randn(2, 1, *size, generator=generator)
    output = vqvae(volume, generator=generator)
    assert output.reconstruction.shape == volume.shape
    assert vqvae.encode(volume).shape == (2, 4, *latent_size(size, vqvae.downsampling))
    assert 1 <= output.metrics["perplexity"] <= config.n_codes


@TRUNKS
@pytest.mark.parametrize("mode", [True, False])
def test_encoding_quantising_and_decoding_change_no_state(
    config: VQVAEConfig, mode: bool, generator: torch.Generator
) -> None:
    vqvae = VQVAE(config).train(mode)
    before = copy_state(vqvae)
    latents, std = vqvae.encode_moments(torch.randn(2, 1, 8, 8, 8, generator=generator))
    vqvae.decode(vqvae.quantise(latents).latents)
    assert not std.any()
    assert_equal_states(copy_state(vqvae), before)


def test_forward_learns_codes_only_in_training_mode(generator: torch.Generator) -> None:
    volume = torch.randn(2, 1, 8, 8, 8, generator=generator)
    vqvae = VQVAE(RESIDUAL).eval()
    before = copy_state(vqvae)
    vqvae(volume)
    assert_equal_states(copy_state(vqvae), before)
    vqvae.train()(volume, generator=generator)
    assert bool(vqvae.quantiser.is_initialised)
    assert not torch.equal(vqvae.quantiser.codebook, before["quantiser.codebook"])


def test_codes_from_data_are_saved_and_restored(generator: torch.Generator) -> None:
    vqvae, volume = VQVAE(RESIDUAL), torch.randn(2, 1, 8, 8, 8, generator=generator)
    vqvae(volume, generator=generator)
    restored = VQVAE(RESIDUAL)
    restored.load_state_dict(vqvae.state_dict())
    assert_equal_states(copy_state(restored), copy_state(vqvae))
    for network in (vqvae, restored):
        network(volume, generator=torch.Generator().manual_seed(1))
    assert_equal_states(copy_state(restored), copy_state(vqvae))


def test_decoding_starts_from_the_nearest_codes(generator: torch.Generator) -> None:
    vqvae = VQVAE(RESIDUAL).eval()
    latents = torch.randn(1, 4, 2, 3, 2, generator=generator)
    quantised = vqvae.quantise(latents)
    assert torch.equal(vqvae.decode(latents), vqvae.decode(quantised.latents))
    assert torch.equal(vqvae.decode(latents), vqvae.decode_indices(quantised.indices))


def test_forward_in_evaluation_is_encode_then_decode(generator: torch.Generator) -> None:
    vqvae = VQVAE(RESIDUAL).eval()
    volume = torch.randn(1, 1, 8, 8, 8, generator=generator)
    torch.testing.assert_close(vqvae(volume).reconstruction, vqvae.decode(vqvae.encode(volume)))


@TRUNKS
def test_checkpointing_changes_neither_output_nor_gradients_nor_codes(
    config: VQVAEConfig, randomise: Randomise, generator: torch.Generator
) -> None:
    plain, saving = randomise(VQVAE(config)), VQVAE(replace(config, checkpointing=True))
    saving.load_state_dict(plain.state_dict())
    volume = torch.randn(2, 1, 8, 7, 8, generator=generator)
    outputs = []
    for vqvae in (plain, saving):
        output = vqvae(volume, generator=torch.Generator().manual_seed(1))
        (output.reconstruction.square().mean() + output.regularisation).backward()
        outputs.append(output.reconstruction)
    assert torch.equal(*outputs)
    assert_equal_states(copy_state(saving), copy_state(plain))
    for first, second in zip(plain.parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(first.grad, second.grad, rtol=1e-6, atol=1e-7)


@TRUNKS
@pytest.mark.parametrize("learning", ["ema", "gradient"])
def test_training_uses_many_codes_and_lowers_the_error(
    config: VQVAEConfig, learning: str, generator: torch.Generator
) -> None:
    torch.manual_seed(0)
    vqvae = VQVAE(replace(config, codebook_learning=learning, restart_after=5, decay=0.8))
    optimiser = torch.optim.Adam(vqvae.parameters(), lr=3e-3)
    wave = torch.sin(3 * torch.linspace(-1, 1, 8))
    volume = torch.stack([wave[:, None, None] * sign * torch.ones(8, 8) for sign in (-1.0, 1.0)])[:, None]
    errors = []
    for _ in range(40):
        output = vqvae(volume, generator=generator)
        error = (output.reconstruction - volume).abs().mean()
        optimiser.zero_grad()
        (error + output.regularisation).backward()
        optimiser.step()
        errors.append(error.item())
    assert errors[-1] < 0.7 * errors[0]
    assert output.metrics["perplexity"] > 2


def test_autocast_runs_with_float32_codes(generator: torch.Generator) -> None:
    vqvae = VQVAE(RESIDUAL)
    with torch.autocast("cpu", torch.bfloat16):
        output = vqvae(torch.randn(2, 1, 8, 8, 8, generator=generator), generator=generator)
    (output.reconstruction.float().mean() + output.regularisation).backward()
    assert vqvae.quantiser.codebook.dtype == output.regularisation.dtype == torch.float32


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_codes": 0}, "n_codes is 0"),
        ({"decay": 1.0}, r"decay is 1.0: a number in \[0, 1\)"),
        ({"commitment_weight": -1}, "commitment_weight is -1"),
        ({"restart_after": 0}, "restart_after is 0"),
        ({"codebook_learning": "sgd"}, "codebook_learning is 'sgd': choose from"),
        ({"codebook_init": "kmeans"}, "codebook_init is 'kmeans': choose from"),
        ({"trunk": "unet"}, "trunk is 'unet': choose from"),
        ({"down_channels": [5, 7]}, "no multiples of n_groups"),
    ],
)
def test_wrong_values_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(RESIDUAL, **{"up_channels": None, "n_res_blocks": 1, "attention_levels": None} | changes)
