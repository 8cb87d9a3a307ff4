from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from medldm.networks import VAE, VAEConfig

Randomise = Callable[[nn.Module], nn.Module]
SMALL = VAEConfig(down_channels=[4, 8, 8], n_groups=2, n_res_blocks=1, attention_levels=[False, False, True])


@pytest.mark.parametrize("size", [(8, 8, 8), (7, 9, 11), (1, 4, 5), (13, 3, 8)])
def test_forward_restores_any_size(size: tuple[int, int, int], generator: torch.Generator) -> None:
    vae = VAE(SMALL)
    volume = torch.randn(2, 1, *size, generator=generator)
    output = vae(volume, generator=generator)
    assert output.reconstruction.shape == volume.shape
    assert vae.encode(volume).mean.shape[2:] == tuple(-(-n // vae.downsampling) for n in size)


def test_odd_size_is_that_of_the_volume_padded_with_its_edge(generator: torch.Generator) -> None:
    vae = VAE(SMALL).eval()
    volume = torch.randn(1, 1, 7, 8, 8, generator=generator)
    padded = torch.cat([volume, volume[:, :, -1:]], dim=2)
    assert torch.equal(vae.encode(volume).mean, vae.encode(padded).mean)


def test_default_compresses_eightfold_to_four_channels() -> None:
    config = VAEConfig()
    assert (config.down_channels, config.up_channels) == ((64, 128, 256, 512), (512, 256, 128, 64))
    assert (config.downsampling, config.latent_channels) == (8, 4)


def test_regularisation_is_the_kl_per_voxel_of_the_volume(generator: torch.Generator) -> None:
    vae = VAE(SMALL)
    volume = torch.randn(2, 1, 8, 7, 8, generator=generator)
    output = vae(volume, generator=generator)
    expected = vae.encode(volume).kl().mean() / (8 * 7 * 8)
    torch.testing.assert_close(output.regularisation, expected)
    assert not output.metrics["kl"].requires_grad


def test_forward_decodes_a_sample_of_the_posterior(generator: torch.Generator) -> None:
    vae = VAE(SMALL)
    volume = torch.randn(2, 1, 8, 8, 8, generator=generator)
    latents = vae.encode(volume).sample(torch.Generator().manual_seed(3))
    expected = vae.decode(latents)
    found = vae(volume, generator=torch.Generator().manual_seed(3)).reconstruction
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_moments_are_those_of_the_posterior(generator: torch.Generator) -> None:
    vae = VAE(SMALL)
    volume = torch.randn(1, 1, 8, 8, 8, generator=generator)
    mean, std = vae.encode_moments(volume)
    assert torch.equal(mean, vae.encode(volume).mean)
    assert torch.equal(std, vae.encode(volume).std)


def test_samples_of_a_batch_do_not_see_each_other(generator: torch.Generator) -> None:
    vae = VAE(SMALL)
    volume = torch.randn(3, 1, 8, 8, 8, generator=generator)
    together = vae.decode(vae.encode(volume).mean)
    alone = torch.cat([vae.decode(vae.encode(part).mean) for part in volume.split(1)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


def test_checkpointing_changes_neither_output_nor_gradients(
    randomise: Randomise, generator: torch.Generator
) -> None:
    plain = randomise(VAE(SMALL))
    saving = VAE(replace(SMALL, checkpointing=True))
    saving.load_state_dict(plain.state_dict())
    volume = torch.randn(2, 1, 8, 7, 8, generator=generator)
    outputs = []
    for vae in (plain, saving):
        output = vae(volume, generator=torch.Generator().manual_seed(1))
        (output.reconstruction.square().mean() + output.regularisation).backward()
        outputs.append(output.reconstruction)
    assert torch.equal(*outputs)
    for first, second in zip(plain.parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(first.grad, second.grad, rtol=1e-6, atol=1e-7)


def test_every_parameter_learns(randomise: Randomise, generator: torch.Generator) -> None:
    vae = randomise(VAE(SMALL))
    output = vae(torch.randn(2, 1, 8, 8, 8, generator=generator), generator=generator)
    (output.reconstruction.square().mean() + output.regularisation).backward()
    for name, parameter in vae.named_parameters():
        assert parameter.grad is not None, name
        assert float(parameter.grad.abs().max()) > 0, name


def test_autocast_is_near_float32(generator: torch.Generator) -> None:
    vae = VAE(SMALL)
    volume = torch.randn(2, 1, 8, 8, 8, generator=generator)
    exact = vae.decode(vae.encode(volume).mean)
    with torch.autocast("cpu", torch.bfloat16):
        output = vae(volume, generator=generator)
        rough = vae.decode(vae.encode(volume).mean)
    output.reconstruction.float().mean().backward()
    assert (rough.float() - exact).abs().max() < 0.05 * exact.abs().max()
    assert output.regularisation.dtype == torch.float32


def test_two_dimensions_work() -> None:
    vae = VAE(replace(SMALL, spatial_dims=2))
    assert vae(torch.zeros(1, 1, 9, 8)).reconstruction.shape == (1, 1, 9, 8)


def test_the_decoder_may_have_other_channels(generator: torch.Generator) -> None:
    vae = VAE(VAEConfig(down_channels=[4, 8], up_channels=[16, 12], n_groups=2, n_res_blocks=1))
    assert vae.decoder.conv_out.in_channels == 12
    assert vae(torch.randn(1, 1, 4, 4, 4, generator=generator)).reconstruction.shape == (1, 1, 4, 4, 4)


def test_a_volume_of_another_shape_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"VAE: volume has shape \(1, 8, 8, 8\): \(B, 1, X, Y, Z\) is needed"
    ):
        VAE(SMALL).encode(torch.zeros(1, 8, 8, 8))
    with pytest.raises(
        ValueError, match=r"VAE: latents have shape \(1, 3, 2, 2, 2\): \(B, 4, X, Y, Z\) is needed"
    ):
        VAE(SMALL).decode(torch.zeros(1, 3, 2, 2, 2))


def test_training_starts_with_a_posterior_much_narrower_than_the_prior() -> None:
    torch.manual_seed(0)
    vae = VAE(VAEConfig(down_channels=(8, 16), n_groups=4, mid_attention=False))
    std = vae.encode(torch.randn(1, 1, 8, 8, 8)).std
    assert std.min() > 0.05
    assert std.max() < 0.4
