from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence

from medldm.networks import VAE, VAEConfig
from medldm.networks.downsampling import latent_size
from medldm.networks.vae import DiagonalGaussian

Randomise = Callable[[nn.Module], nn.Module]
SMALL = VAEConfig(down_channels=[4, 8, 8], n_groups=2, n_res_blocks=1, attention_levels=[False, False, True])


@pytest.mark.parametrize("size", [(8, 8, 8), (7, 9, 11), (1, 4, 5), (13, 3, 8)])
def test_forward_restores_any_size(size: tuple[int, int, int], generator: torch.Generator) -> None:
    vae = VAE(SMALL)
    volume = torch.randn(2, 1, *size, generator=generator)
    output = vae(volume, generator=generator)
    assert output.reconstruction.shape == volume.shape
    assert vae.encode(volume).mean.shape[2:] == latent_size(size, vae.downsampling)


def test_odd_size_is_that_of_the_volume_padded_with_its_edge(generator: torch.Generator) -> None:
    vae = VAE(SMALL).eval()
    volume = torch.randn(1, 1, 7, 8, 8, generator=generator)
    padded = torch.cat([volume, volume[:, :, -1:]], dim=2)
    assert torch.equal(vae.encode(volume).mean, vae.encode(padded).mean)


def test_default_compresses_eightfold_to_four_channels() -> None:
    config = VAEConfig()
    assert (config.down_channels, config.up_channels) == ((64, 128, 256, 512), (512, 256, 128, 64))
    assert (config.downsampling, config.latent_channels) == ((8, 8, 8), 4)


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
    vae = VAE(SMALL.copy(spatial_dims=2))
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


def test_kl_is_that_of_torch_distributions(generator: torch.Generator) -> None:
    mean, logvar = torch.randn(2, 3, 4, 5, 6, 7, generator=generator, dtype=torch.float64)
    expected = kl_divergence(Normal(mean, (logvar / 2).exp()), Normal(0.0, 1.0)).flatten(1).sum(1)
    torch.testing.assert_close(DiagonalGaussian(mean, logvar).kl(), expected, rtol=1e-10, atol=0)


def test_kl_of_the_standard_normal_is_zero() -> None:
    assert DiagonalGaussian(torch.zeros(2, 4, 3, 3, 3), torch.zeros(2, 4, 3, 3, 3)).kl().tolist() == [
        0.0,
        0.0,
    ]


@pytest.mark.parametrize(("logvar", "clamped"), [(-1e4, -30.0), (1e4, 20.0), (3.0, 3.0)])
def test_logvar_is_clamped(logvar: float, clamped: float) -> None:
    posterior = DiagonalGaussian(torch.zeros(1, 1, 1), torch.full((1, 1, 1), logvar))
    assert posterior.logvar.item() == clamped
    assert posterior.std.item() == pytest.approx(torch.tensor(clamped / 2).exp().item())
    assert torch.isfinite(posterior.kl()).all()


def test_samples_have_the_mean_and_deviation(generator: torch.Generator) -> None:
    n = 200_000
    posterior = DiagonalGaussian(torch.full((1, 1, n), 2.0), torch.full((1, 1, n), 9.0).log())
    sample = posterior.sample(generator)
    standard_error = 3.0 / n**0.5
    assert abs(sample.mean().item() - 2.0) < 5 * standard_error
    assert abs(sample.std().item() - 3.0) < 5 * standard_error


def test_sample_is_repeated_by_its_seed() -> None:
    posterior = DiagonalGaussian(torch.zeros(1, 2, 3), torch.zeros(1, 2, 3))
    first, second = (posterior.sample(torch.Generator().manual_seed(4)) for _ in range(2))
    assert torch.equal(first, second)


def test_half_precision_moments_are_handled_in_float32() -> None:
    posterior = DiagonalGaussian(
        torch.ones(1, 2, 3, dtype=torch.bfloat16), torch.ones(1, 2, 3, dtype=torch.bfloat16)
    )
    assert posterior.std.dtype == posterior.kl().dtype == posterior.sample().dtype == torch.float32


def test_gradient_of_the_sample_is_one_for_the_mean_and_the_noise_for_the_deviation() -> None:
    mean, logvar = torch.zeros(1, 1, 4, requires_grad=True), torch.zeros(1, 1, 4, requires_grad=True)
    sample = DiagonalGaussian(mean, logvar).sample(torch.Generator().manual_seed(1))
    gradients = torch.autograd.grad(sample.sum(), (mean, logvar))
    assert torch.equal(gradients[0], torch.ones(1, 1, 4))
    torch.testing.assert_close(gradients[1], sample.detach() / 2)
