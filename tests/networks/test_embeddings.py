from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from medldm.networks import LatentUNet, LatentUNetConfig
from medldm.networks.embeddings import TimeEmbedding, sinusoidal_embedding, with_position


def test_embedding_is_cosines_then_sines_of_falling_frequencies() -> None:
    embedding = sinusoidal_embedding(torch.tensor([0, 7]), 8)
    frequencies = [10_000 ** (-i / 4) for i in range(4)]
    expected = [math.cos(7 * f) for f in frequencies] + [math.sin(7 * f) for f in frequencies]
    torch.testing.assert_close(embedding[1], torch.tensor(expected), rtol=0, atol=1e-6)
    assert embedding[0].tolist() == [1.0] * 4 + [0.0] * 4


def test_times_need_not_be_whole() -> None:
    whole, between = sinusoidal_embedding(torch.tensor([2.0, 2.5]), 8)
    assert torch.equal(whole, sinusoidal_embedding(torch.tensor([2]), 8)[0])
    assert not torch.allclose(whole, between)


@pytest.mark.parametrize("dim", [1, 5])
def test_odd_width_ends_with_zero(dim: int) -> None:
    embedding = sinusoidal_embedding(torch.tensor([3, 4]), dim)
    assert embedding.shape == (2, dim)
    assert embedding[:, -1].tolist() == [0.0, 0.0]


def test_layers_make_it_four_times_as_wide() -> None:
    layer = TimeEmbedding(6)
    assert layer(torch.tensor([1, 2, 3]), dtype=torch.float32).shape == (3, layer.out_dim) == (3, 24)


SMALL = LatentUNetConfig(
    in_channels=2, out_channels=2, down_channels=(8, 16), n_groups=4, n_heads=2, cross_attention=False
)


def test_channels_are_the_sines_and_cosines_of_the_formula() -> None:
    x = torch.zeros(2, 1, 3, 4, 5, dtype=torch.float64)
    y = with_position(x, 2)
    assert y.shape == (2, 1 + 2 * 3 * 2, 3, 4, 5)
    for axis, n in enumerate(x.shape[2:]):
        for i in range(n):
            u = (i + 0.5) / n
            expected = [math.sin(math.pi * u), math.sin(2 * math.pi * u)]
            expected += [math.cos(math.pi * u), math.cos(2 * math.pi * u)]
            found = y[:, 1 + 4 * axis : 5 + 4 * axis].select(2 + axis, i)
            wanted = torch.tensor(expected, dtype=torch.float64).view(1, 4, 1, 1).expand_as(found)
            torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)


def test_no_two_voxels_have_the_same_position() -> None:
    y = with_position(torch.zeros(1, 1, 6, 7, 8), 1)[0, 1:].flatten(1)
    assert len(torch.unique(y, dim=1).T) == 6 * 7 * 8


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_input_comes_first_and_keeps_its_dtype(dtype: torch.dtype, generator: torch.Generator) -> None:
    x = torch.randn(2, 3, 4, 5, generator=generator).to(dtype)
    y = with_position(x, 3)
    assert y.dtype == dtype and y.shape == (2, 3 + 2 * 2 * 3, 4, 5)
    assert torch.equal(y[:, :3], x)
    assert with_position(x, 0) is x


@pytest.mark.parametrize("n_frequencies", [0, 2])
@torch.no_grad()
def test_only_a_denoiser_with_positions_tells_inner_voxels_apart(
    n_frequencies: int, generator: torch.Generator
) -> None:
    config = replace(
        SMALL,
        down_channels=(8,),
        attention_levels=(False,),
        mid_attention=False,
        n_res_blocks=1,
        position_frequencies=n_frequencies,
    )
    unet = LatentUNet(config)
    for parameter in unet.parameters():
        torch.nn.init.normal_(parameter, std=0.2, generator=generator)
    y = unet(torch.zeros(1, 2, 24, 24, 24), torch.tensor([500]))
    # Ten convolutions see ten voxels far: the edges, but not from here.
    inner = y[0, 0, 11:13, 11:13, 11:13]
    assert (inner.std() > 1e-3) == (n_frequencies > 0)


def test_fewer_than_no_frequencies_are_refused() -> None:
    with pytest.raises(ValueError, match="position_frequencies is -1"):
        replace(SMALL, position_frequencies=-1)
