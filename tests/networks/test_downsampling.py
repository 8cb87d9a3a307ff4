from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from medldm.networks import VAE, VQVAE, VAEConfig, VQVAEConfig
from medldm.networks.blocks import Downsample, TransposedUpsample, Upsample, pad_to_multiple
from medldm.networks.downsampling import factors_for_spacing, latent_size, strides_of
from medldm.networks.kernels.dispatch import plain_form

Randomise = Callable[[nn.Module], nn.Module]
TINY: dict[str, Any] = {"n_groups": 2, "n_res_blocks": 1, "mid_attention": False}


@pytest.mark.parametrize("factors", [(4, 4, 4), (4, 4, 2), (8, 2, 1), (1, 1, 1), (2, 16)])
def test_strides_multiply_to_the_factors_and_never_part_axes_again(factors: tuple[int, ...]) -> None:
    left = list(factors)
    for strides in strides_of(factors):
        # Axes with most left to halve are halved, so that what is left becomes equal and stays so.
        assert [stride == 2 for stride in strides] == [n == max(left) for n in left]
        left = [n // stride for n, stride in zip(left, strides, strict=True)]
    assert left == [1] * len(factors)


@pytest.mark.parametrize("factors", [(4, 4, 4), (4, 4, 2), (4, 1, 2)])
@pytest.mark.parametrize("kind", ["vae", "vqvae", "transposed"])
def test_each_axis_shrinks_by_its_own_factor_and_odd_sizes_come_back(
    kind: str, factors: tuple[int, ...], generator: torch.Generator
) -> None:
    options = {**TINY, "down_channels": [4, 4, 6], "downsampling": factors}
    network = VQVAE(n_codes=8, **options) if kind == "vqvae" else VAE(**options)
    if kind == "transposed":
        network = VAE(upsampling="transposed", **options)
    volume = torch.randn(1, 1, 13, 9, 7, generator=generator)
    mean, _ = network.encode_moments(volume)
    assert mean.shape[2:] == latent_size((13, 9, 7), factors)
    assert network.downsampling == network.config.downsampling == factors
    assert network(volume, generator=generator).reconstruction.shape == volume.shape
    whole = [n * factor for n, factor in zip(mean.shape[2:], factors, strict=True)]
    assert list(network.decode(mean).shape[2:]) == whole


def test_an_axis_of_factor_one_is_not_mixed_by_padding(generator: torch.Generator) -> None:
    volume = torch.randn(1, 1, 6, 7, 5, generator=generator)
    padded = pad_to_multiple(volume, (4, 2, 1))
    assert padded.shape[2:] == (8, 8, 5)
    assert torch.equal(padded[:, :, :6, :7], volume)
    assert torch.equal(padded[:, :, 6:, :7], volume[:, :, -1:].expand(1, 1, 2, 7, 5))


@pytest.mark.parametrize("strides", [(2, 2, 1), (1, 2, 2), (2, 1, 1), (1, 2)])
@pytest.mark.parametrize("is_asymmetric", [True, False])
def test_halving_takes_every_second_plane_of_the_halved_axes(
    strides: tuple[int, ...], is_asymmetric: bool, generator: torch.Generator
) -> None:
    layer = Downsample(2, strides=strides, asymmetric=is_asymmetric)
    x = torch.randn(1, 2, *(4, 6, 8)[: len(strides)], generator=generator)
    starts = [0 if is_asymmetric and stride == 2 else 1 for stride in strides]
    padding = [width for start in starts[::-1] for width in (start, 1)]
    convolve = nn.functional.conv3d if len(strides) == 3 else nn.functional.conv2d
    everywhere = convolve(nn.functional.pad(x, padding), layer.conv.weight, layer.conv.bias)
    taken = everywhere[(..., *(slice(None, None, stride) for stride in strides))]
    for axis, stride in enumerate(strides, start=2):
        taken = taken.narrow(axis, 0, x.shape[axis] // stride)
    torch.testing.assert_close(layer(x), taken, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("strides", [(2, 2, 1), (1, 2, 2), (2, 1, 1), (1, 2)])
def test_doubling_repeats_the_voxels_of_the_doubled_axes(
    strides: tuple[int, ...], generator: torch.Generator
) -> None:
    layer = Upsample(2, strides=strides)
    x = repeated = torch.randn(1, 2, *(3, 4, 5)[: len(strides)], generator=generator)
    for axis, stride in enumerate(strides, start=2):
        repeated = repeated.repeat_interleave(stride, axis)
    torch.testing.assert_close(layer(x), layer.conv(repeated), rtol=1e-4, atol=1e-5)
    layer.eval()
    with torch.no_grad():
        found = layer(x)
        with plain_form():
            torch.testing.assert_close(found, layer(x), rtol=1e-4, atol=1e-5)


def test_transposed_doubling_gives_each_voxel_its_own_kernel(generator: torch.Generator) -> None:
    layer = TransposedUpsample(1, strides=(2, 1, 2))
    x = torch.randn(1, 1, 2, 3, 4, generator=generator)
    expected = torch.kron(x[0, 0], layer.conv.weight[0, 0]) + layer.conv.bias
    torch.testing.assert_close(layer(x)[0, 0], expected)


@pytest.mark.parametrize("make_config", [VAEConfig, VQVAEConfig])
def test_equal_factors_follow_from_the_levels_and_go_on_to_follow(make_config: Any) -> None:
    config = make_config(down_channels=[8, 8], n_groups=4, downsampling=[2, 2, 2])
    assert config == make_config(down_channels=[8, 8], n_groups=4)
    config.down_channels = [8, 8, 8]
    assert config.downsampling == (4, 4, 4)
    assert make_config.from_dict(config.to_dict()) == config


def test_a_configuration_without_the_field_is_that_of_equal_factors() -> None:
    plain = VAEConfig(down_channels=[8, 8, 8], n_groups=4).to_dict()
    assert plain.pop("downsampling") == [4, 4, 4]
    assert VAEConfig.from_dict(plain).downsampling == (4, 4, 4)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"downsampling": [4, 4]}, "give a power of two for each of the 3 axes"),
        ({"downsampling": [4, 4, 3]}, "give a power of two for each"),
        ({"downsampling": [4, 4, 0]}, "give a power of two for each"),
        ({"downsampling": [2, 2, 1]}, "the levels of down_channels give 4 on the axis"),
        ({"downsampling": [8, 4, 4]}, "make the largest factor 4"),
        ({"downsampling": [4, 4, 2], "trunk": "strided"}, "take trunk: residual"),
    ],
)
def test_wrong_factors_are_refused(wrong: dict[str, Any], message: str) -> None:
    channels = [4, 4] if "trunk" in wrong else [4, 4, 4]
    with pytest.raises(ValueError, match=message):
        VQVAEConfig(**{"down_channels": channels, "n_groups": 2, **wrong})


@pytest.mark.parametrize(
    ("spacing", "largest", "expected"),
    [
        ((0.4, 0.4, 5.0), 4, (4, 4, 1)),
        ((1.0, 1.0, 2.0), 4, (4, 4, 2)),
        ((5.0, 0.4, 0.4), 8, (1, 8, 8)),
        ((1.0, 1.0, 1.4), 4, (4, 4, 4)),
        ((1.0, 1.0, 1.5), 4, (4, 4, 2)),
    ],
)
def test_factors_follow_the_spacing_and_latents_are_nearest_to_cubes(spacing, largest, expected) -> None:
    found = factors_for_spacing(spacing, largest)
    assert found == expected and max(found) == largest

    def stretch(factors):
        edges = [edge * factor for edge, factor in zip(spacing, factors, strict=True)]
        return max(edges) / min(edges)

    powers = [2**k for k in range(largest.bit_length())]
    assert stretch(found) == pytest.approx(min(map(stretch, itertools.product(powers, repeat=3))))
