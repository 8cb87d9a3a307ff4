from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from medldm.networks import VAE, VQVAE, VAEConfig, VQVAEConfig
from medldm.networks.streaming.encode_decode import stream_decode, stream_encode_moments

Randomise = Callable[[nn.Module], nn.Module]
PLAIN = VAEConfig(down_channels=(4, 8, 8), n_groups=2, n_res_blocks=1, mid_attention=False)
STRIDED = VQVAEConfig(down_channels=(6, 8), trunk="strided", codebook_init="normal", n_codes=16)
CONFIGS = {
    "plain": PLAIN,
    "attention": replace(PLAIN, mid_attention=True, attention_levels=(False, True, True)),
    "transposed": replace(PLAIN, upsampling="transposed", n_res_blocks=2),
    "trilinear": replace(PLAIN, upsampling="trilinear", value_range=(0, 1)),
    "trilinear, thick slices": replace(PLAIN, upsampling="trilinear", downsampling=(4, 2, 4)),
    "other decoder": replace(PLAIN, up_channels=(4, 12, 8)),
    "thick slices": replace(PLAIN, downsampling=(4, 4, 1)),
    "thick sagittal slices": replace(PLAIN, downsampling=(2, 4, 4), upsampling="transposed"),
    "two channels": replace(PLAIN, in_channels=2, out_channels=2),
    "single level": VAEConfig(down_channels=(4,), n_groups=2),
    "vqvae": VQVAEConfig(down_channels=(4, 8), n_groups=2, codebook_init="normal", n_codes=16),
    "strided": STRIDED,
    "strided otherwise": STRIDED.copy(
        down_parameters=((2, 3, 1, 1), (3, 5, 1, 1)),
        up_parameters=((3, 5, 1, 1, 0), (2, 3, 1, 1, 1)),
    ),
}


def make(config: VAEConfig | VQVAEConfig, randomise: Randomise) -> VAE | VQVAE:
    return randomise(VAE(config) if isinstance(config, VAEConfig) else VQVAE(config)).eval()  # type: ignore


def assert_near(found: torch.Tensor, expected: torch.Tensor, tolerance: float = 5e-5) -> None:
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    assert expected.float().std() > 0.01
    assert (found - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("tile", [1, 4])
@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_streaming_equals_the_whole(
    name: str, tile: int, recompute: bool, randomise: Randomise, generator: torch.Generator
) -> None:
    autoencoder = make(CONFIGS[name], randomise)
    latents = torch.randn(2, 4, 3, 5, 2, generator=generator)
    found = stream_decode(autoencoder, latents, tile=tile, recompute=recompute)
    assert_near(found, autoencoder.decode(latents))
    volume = torch.randn(2, autoencoder.config.in_channels, 13, 7, 18, generator=generator)
    mean, std = stream_encode_moments(autoencoder, volume, tile=tile, recompute=recompute)
    whole_mean, whole_std = autoencoder.encode_moments(volume)
    assert_near(mean, whole_mean)
    torch.testing.assert_close(std, whole_std, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("axis", [2, 3, 4])
@torch.no_grad()
def test_every_tile_size_and_axis_gives_the_same(
    axis: int, randomise: Randomise, generator: torch.Generator
) -> None:
    autoencoder = make(PLAIN, randomise)
    size = [2, 2, 2]
    size[axis - 2] = 5
    latents = torch.randn(1, 4, *size, generator=generator)
    expected = autoencoder.decode(latents)
    for tile in range(1, 17):
        assert_near(stream_decode(autoencoder, latents, tile=tile, recompute=tile % 2 == 0), expected)


@torch.no_grad()
def test_two_dimensions_work(randomise: Randomise, generator: torch.Generator) -> None:
    autoencoder = make(CONFIGS["attention"].copy(spatial_dims=2), randomise)
    latents = torch.randn(1, 4, 5, 7, generator=generator)
    assert_near(stream_decode(autoencoder, latents, tile=3), autoencoder.decode(latents))
    volume = torch.randn(1, 1, 9, 14, generator=generator)
    found = stream_encode_moments(autoencoder, volume, tile=3)
    assert_near(found[0], autoencoder.encode_moments(volume)[0])


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("is_autocast", [False, True])
@torch.no_grad()
def test_bfloat16_is_as_near_to_float32_as_the_whole(
    is_autocast: bool, recompute: bool, randomise: Randomise, generator: torch.Generator
) -> None:
    autoencoder = make(CONFIGS["attention"], randomise)
    latents = torch.randn(1, 4, 4, 3, 2, generator=generator)
    volume = torch.randn(1, 1, 16, 9, 8, generator=generator)
    exact = autoencoder.decode(latents), autoencoder.encode_moments(volume)[0]
    if not is_autocast:
        autoencoder, latents, volume = autoencoder.bfloat16(), latents.bfloat16(), volume.bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=is_autocast):
        whole = autoencoder.decode(latents), autoencoder.encode_moments(volume)[0]
        options = {"tile": 3, "recompute": recompute}
        found = (
            stream_decode(autoencoder, latents, **options),
            stream_encode_moments(autoencoder, volume, **options)[0],
        )
    for f, w, e in zip(found, whole, exact, strict=True):
        assert f.dtype == w.dtype
        assert (f - e).square().mean().sqrt() < 1.5 * (w - e).square().mean().sqrt()


def test_result_is_written_to_the_given_tensor_and_nothing_else_changes(
    randomise: Randomise, generator: torch.Generator
) -> None:
    autoencoder = make(CONFIGS["attention"], randomise)
    latents = torch.randn(1, 4, 3, 2, 2, generator=generator)
    volume = torch.randn(1, 1, 12, 8, 8, generator=generator)
    before = latents.clone(), volume.clone()
    weights = {name: value.clone() for name, value in autoencoder.state_dict().items()}
    out = torch.empty(1, 1, 12, 8, 8)
    found = stream_decode(autoencoder, latents, tile=2, out=out)
    moments = stream_encode_moments(autoencoder, volume, tile=2)
    assert found is out
    assert not any(x.requires_grad for x in (found, *moments))
    assert torch.equal(latents, before[0])
    assert torch.equal(volume, before[1])
    assert all(torch.equal(value, weights[name]) for name, value in autoencoder.state_dict().items())
    assert_near(found, autoencoder.decode(latents).detach())


def test_wrong_arguments_are_refused() -> None:
    vae = VAE(PLAIN)
    with pytest.raises(ValueError, match="tile is 0: a whole number of at least 1"):
        stream_decode(vae, torch.zeros(1, 4, 2, 2, 2), tile=0)
    with pytest.raises(ValueError, match=r"latents have shape \(1, 3, 2, 2, 2\)"):
        stream_decode(vae, torch.zeros(1, 3, 2, 2, 2), tile=2)
    with pytest.raises(ValueError, match=r"volume has shape \(1, 8, 8, 8\)"):
        stream_encode_moments(vae, torch.zeros(1, 8, 8, 8), tile=2)


@pytest.mark.gpu
@torch.no_grad()
def test_gpu_equals_cpu(randomise: Randomise, generator: torch.Generator) -> None:
    autoencoder = make(CONFIGS["attention"], randomise)
    latents = torch.randn(1, 4, 3, 5, 2, generator=generator)
    volume = torch.randn(1, 1, 13, 7, 18, generator=generator)
    expected = autoencoder.decode(latents), autoencoder.encode_moments(volume)[0]
    autoencoder.cuda()
    out = torch.empty_like(expected[0])
    assert_near(stream_decode(autoencoder, latents.cuda(), tile=3, out=out), expected[0], 1e-3)
    mean, _ = stream_encode_moments(autoencoder, volume, tile=3)
    assert_near(mean.cpu(), expected[1], 1e-3)
