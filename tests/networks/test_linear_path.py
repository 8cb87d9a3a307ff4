from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from medldm.networks import VAE, VQVAE, VAEConfig, VQVAEConfig
from medldm.networks.blocks import crop_to, pad_to_multiple
from medldm.networks.streaming.encode_decode import stream_decode, stream_encode_moments

Randomise = Callable[[nn.Module], nn.Module]
OPTIONS: dict[str, Any] = {
    "linear_path": True,
    "down_channels": [4, 6],
    "n_groups": 2,
    "n_res_blocks": 1,
    "mid_attention": False,
}
FACTORS = [(4, 4, 4), (4, 4, 2), (2, 1, 4)]
FORMS: list[Any] = [True, "lapped"]


def make(kind: str, **options: Any) -> Any:
    return VQVAE(**{"n_codes": 8, **OPTIONS, **options}) if kind == "vqvae" else VAE(**OPTIONS | options)


def volumes_of(generator: torch.Generator, *, n: int = 3, channels: int = 1) -> torch.Tensor:
    noise = torch.randn(n, channels, 13, 9, 7, generator=generator, dtype=torch.float64)
    return noise + 0.9 * noise.roll(1, 2) + 0.9 * noise.roll(1, 3)


def fit(autoencoder: Any, volumes: torch.Tensor) -> Any:
    if autoencoder.linear_path.angles is not None:
        autoencoder.linear_path.angles.copy_(torch.tensor([-0.3, 0.4, -0.5]))
        autoencoder.linear_path.level.fill_(0.7)
    moments = autoencoder.linear_path.make_moments()
    for volume in volumes:
        autoencoder.linear_path.count(volume[None], moments)
    transform = moments.fit()
    autoencoder.linear_path.set_transform(transform)
    return transform


def test_levels_compress_twice_as_much_and_networks_see_half_the_size() -> None:
    config = VAEConfig(**OPTIONS, latent_channels=8)
    assert config.downsampling == (4, 4, 4)
    networks = config.of_networks()
    assert (networks.downsampling, networks.in_channels) == ((2, 2, 2), 8)
    thick = config.copy(downsampling=(4, 4, 1))
    assert thick.halves == (2, 2, 1)
    assert thick.strides == ((2, 2, 1),)
    assert thick.of_networks().in_channels == 4


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("factors", FACTORS)
@pytest.mark.parametrize("kind", ["vae", "vqvae"])
def test_an_untrained_network_is_the_orthogonal_projection(
    kind: str, factors: tuple[int, ...], form: Any, generator: torch.Generator
) -> None:
    network = make(kind, downsampling=factors, latent_channels=3, linear_path=form).double().eval()
    volumes = volumes_of(generator)
    transform = fit(network, volumes)
    padded = pad_to_multiple(volumes, factors)
    mean, _ = network.encode_moments(volumes)
    found = network.linear_path.decode(mean)
    assert torch.equal(mean, network.linear_path.encode(padded))
    if kind == "vae":
        assert torch.equal(network.decode(mean), found)
        assert torch.equal(network.reconstruct(volumes), crop_to(found, volumes.shape[2:]))
    # A projection: twice is once. Orthogonal: what is lost is the variance of the components left out.
    torch.testing.assert_close(network.linear_path.decode(network.linear_path.encode(found)), found)
    n_blocks = mean.numel() // 3
    lost = (found - padded).square().sum() / n_blocks
    torch.testing.assert_close(lost, transform.variances[3:].sum(), rtol=1e-6, atol=0)


def test_lapped_blocks_reach_over_their_borders_and_no_further(generator: torch.Generator) -> None:
    network = make("vae", downsampling=(4, 4, 2), latent_channels=32, linear_path="lapped").double()
    fit(network, volumes_of(generator))
    for place, size, reach in ((0, 5, (6, 14)), (1, 5, (6, 14)), (2, 5, (3, 7))):
        latents = torch.zeros(1, 32, 1, 1, 1, dtype=torch.float64)
        line = torch.zeros(1, 32, *(size if i == place else 1 for i in range(3)), dtype=torch.float64)
        line.select(2 + place, 2).copy_(torch.randn(latents.shape[:2], generator=generator)[..., None, None])
        change = network.linear_path.decode(line) - network.linear_path.decode(torch.zeros_like(line))
        others = [axis for axis in range(5) if axis != 2 + place]
        touched = change.abs().amax(others).gt(1e-9).nonzero().flatten()
        assert (int(touched[0]), int(touched[-1]) + 1) == reach
        assert len(touched) == reach[1] - reach[0]


@pytest.mark.parametrize("form", FORMS)
def test_latents_have_unit_variance(form: Any, generator: torch.Generator) -> None:
    network = make("vae", latent_channels=5, linear_path=form).double()
    volumes = volumes_of(generator)
    fit(network, volumes)
    latents = network.encode_moments(volumes)[0].movedim(1, 0).flatten(1)
    torch.testing.assert_close(latents.mean(1), torch.zeros(5).double(), rtol=0, atol=1e-9)
    torch.testing.assert_close(torch.cov(latents, correction=0), torch.eye(5).double(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("factors", FACTORS)
@pytest.mark.parametrize("channels", [1, 2])
def test_all_components_are_the_identity_on_odd_sizes(
    channels: int, factors: tuple[int, ...], form: Any, generator: torch.Generator
) -> None:
    n_values = channels * factors[0] * factors[1] * factors[2]
    options = {"in_channels": channels, "out_channels": channels, "latent_channels": n_values}
    network = make("vae", downsampling=factors, linear_path=form, **options).double()
    volumes = volumes_of(generator, channels=channels)
    torch.testing.assert_close(network.reconstruct(volumes), volumes, rtol=1e-5, atol=1e-5)
    fit(network, volumes)
    torch.testing.assert_close(network.reconstruct(volumes), volumes, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["vae", "vqvae"])
def test_gradients_reach_every_part(kind: str, randomise: Randomise, generator: torch.Generator) -> None:
    network = make(kind)
    randomise(network)
    output = network(volumes_of(generator).float(), generator=generator)
    (output.reconstruction.square().mean() + output.regularisation).backward()
    lacking = [name for name, weight in network.named_parameters() if not weight.grad.abs().max() > 0]
    assert not lacking


def test_the_first_step_learns_though_the_last_layers_are_zero(generator: torch.Generator) -> None:
    network = make("vae", latent_channels=2)
    volumes = volumes_of(generator).float()
    fit(network, volumes)
    output = network(volumes, generator=generator)
    (output.reconstruction - volumes).abs().mean().backward()
    assert network.decoder.conv_out.weight.grad.abs().max() > 0
    assert network.to_moments.weight.grad.abs().max() > 0


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("factors", FACTORS)
@pytest.mark.parametrize("kind", ["vae", "vqvae"])
@pytest.mark.parametrize("tile", [1, 3])
@torch.no_grad()
def test_streaming_equals_the_whole(
    kind: str,
    factors: tuple[int, ...],
    tile: int,
    form: Any,
    randomise: Randomise,
    generator: torch.Generator,
) -> None:
    network: Any = randomise(make(kind, downsampling=factors, linear_path=form)).eval()
    volume = volumes_of(generator, n=2).float()
    fit(network, volume)
    mean, std = network.encode_moments(volume)
    found = stream_encode_moments(network, volume, tile=tile)
    torch.testing.assert_close(found[0], mean, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found[1], std, rtol=1e-4, atol=1e-5)
    out = torch.empty_like(network.decode(mean))
    streamed = stream_decode(network, mean, tile=tile, out=out)
    assert streamed is out
    torch.testing.assert_close(streamed, network.decode(mean), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("form", FORMS)
def test_bfloat16_keeps_the_path_in_float32(form: Any, generator: torch.Generator) -> None:
    network = make("vae", linear_path=form)
    volume = volumes_of(generator).float()
    fit(network, volume)
    exact = network.reconstruct(volume)
    with torch.autocast("cpu", torch.bfloat16):
        assert (network.reconstruct(volume) - exact).abs().max() < 1e-5


@pytest.mark.parametrize("form", FORMS)
def test_components_without_variance_do_not_explode(form: Any, generator: torch.Generator) -> None:
    network = make("vae", latent_channels=8, linear_path=form)
    fit(network, torch.full((1, 1, 8, 8, 8), -1.0))
    flat = torch.full((1, 1, 8, 8, 8), -1.0)
    torch.testing.assert_close(network.reconstruct(flat), flat)
    assert torch.isfinite(network.encode_moments(torch.randn(1, 1, 8, 8, 8, generator=generator))[0]).all()


@pytest.mark.parametrize("form", FORMS)
def test_weights_carry_the_path(form: Any, generator: torch.Generator) -> None:
    network, other = make("vae", linear_path=form), make("vae", linear_path=form)
    volumes = volumes_of(generator).float()
    fit(network, volumes)
    other.load_state_dict(network.state_dict())
    assert bool(other.linear_path.is_fitted)
    assert torch.equal(other.reconstruct(volumes), network.reconstruct(volumes))


def test_a_blocked_path_has_the_weights_that_it_had() -> None:
    names = {"mean", "basis", "variances", "is_fitted"}
    blocked, lapped = make("vae", linear_path="blocked"), make("vae", linear_path="lapped")
    assert set(make("vae").linear_path.state_dict()) == set(blocked.linear_path.state_dict()) == names
    assert set(lapped.linear_path.state_dict()) == {*names, "angles", "level"}
    with pytest.raises(RuntimeError, match=r"linear_path\.angles"):
        blocked.load_state_dict(lapped.state_dict())


@pytest.mark.parametrize(("given", "kept"), [("false", False), ("True", True), ("lapped", "lapped")])
def test_the_form_is_read_as_command_lines_give_it(given: str, kept: Any) -> None:
    options = {**OPTIONS, "linear_path": given, "latent_channels": 2}
    config = VAEConfig(**options)
    assert config.linear_path is kept or config.linear_path == kept
    assert config.is_lapped == (kept == "lapped")
    assert VAEConfig.from_dict(config.to_dict()) == config
    assert config.downsampling == ((4, 4, 4) if kept else (2, 2, 2))


def test_an_unknown_form_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'overlapped': true or false or one of \['blocked', 'lapped'\]"):
        VAEConfig(**OPTIONS | {"linear_path": "overlapped"})


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"out_channels": 2}, "as many in_channels"),
        ({"latent_channels": 65}, "has 64 values"),
        ({"trunk": "strided"}, "has no linear_path"),
        ({"downsampling": [2, 2, 2]}, "the levels of down_channels give 4"),
    ],
)
def test_what_does_not_fit_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VQVAEConfig(**{**OPTIONS, **wrong})
