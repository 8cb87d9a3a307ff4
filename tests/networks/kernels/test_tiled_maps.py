from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from medldm.networks.kernels import tiled_convolution
from medldm.networks.kernels.tiled_convolution import convolved, convolved_transposed
from medldm.networks.kernels.tiled_maps import (
    TiledMap,
    from_tensor,
    measure,
    stored,
)

SIZE = (7, 5, 6)


def cut(x: torch.Tensor, *, axis: int = 2, thickness: int = 2) -> TiledMap:
    return from_tensor(x, axis=axis, thickness=thickness)


@pytest.mark.parametrize("thickness", [1, 2, 3, 16])
@pytest.mark.parametrize("axis", [2, 3, 4])
@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": 1},
        {"kernel_size": 4, "stride": 2, "padding": 1},
        {"kernel_size": 3, "stride": 3, "padding": 0},
        {"kernel_size": 3, "padding": 3, "dilation": 2},
    ],
)
@torch.no_grad()
def test_convolution_of_tiles_is_that_of_the_whole(
    options: dict[str, int], axis: int, thickness: int, generator: torch.Generator
) -> None:
    conv = nn.Conv3d(3, 4, **options)
    x = torch.randn(2, 3, *SIZE, generator=generator)
    found = stored(convolved(cut(x, axis=axis, thickness=thickness), conv)).tensor
    torch.testing.assert_close(found, conv(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("thickness", [1, 3, 8])
@pytest.mark.parametrize("size", [(6, 4, 4), (8, 6, 2)])
@torch.no_grad()
def test_padding_at_the_end_is_that_of_the_whole(
    size: tuple[int, ...], thickness: int, generator: torch.Generator
) -> None:
    conv = nn.Conv3d(2, 3, 3, stride=2)
    x = torch.randn(1, 2, *size, generator=generator)
    found = stored(convolved(cut(x, thickness=thickness), conv, end_padding=(0, 1) * 3)).tensor
    torch.testing.assert_close(found, conv(F.pad(x, (0, 1) * 3)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("thickness", [1, 3, 4, 16])
@pytest.mark.parametrize("axis", [2, 4])
@pytest.mark.parametrize(
    ("kernel", "options"),
    [
        (4, {"stride": 2, "padding": 1}),
        (2, {"stride": 2, "padding": 0}),
        (3, {"stride": 2, "padding": 1, "output_padding": 1}),
        (2, {"stride": 3, "padding": 0, "output_padding": 2}),
        (3, {"stride": 2, "padding": 2, "dilation": 2}),
        (3, {"stride": 1, "padding": 1}),
    ],
)
@torch.no_grad()
def test_transposed_convolution_of_tiles_is_that_of_the_whole(
    kernel: int, options: dict[str, int], axis: int, thickness: int, generator: torch.Generator
) -> None:
    weight = torch.randn(3, 2, kernel, kernel, kernel, generator=generator)
    bias = torch.randn(2, generator=generator)
    x = torch.randn(2, 3, *SIZE, generator=generator)
    map_ = convolved_transposed(cut(x, axis=axis, thickness=thickness), weight, bias, **options)
    expected = F.conv_transpose3d(x, weight, bias, **options)
    torch.testing.assert_close(stored(map_).tensor, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("silu", [False, True])
@torch.no_grad()
def test_moments_of_tiles_normalise_as_those_of_the_whole(silu: bool, generator: torch.Generator) -> None:
    norm = nn.GroupNorm(2, 6, eps=1e-6)
    nn.init.normal_(norm.weight, generator=generator)
    nn.init.normal_(norm.bias, generator=generator)
    x = torch.randn(2, 6, *SIZE, generator=generator) * torch.arange(1, 7).view(6, 1, 1, 1)
    normalise = measure(cut(x, thickness=3)).normaliser(norm, silu=silu)
    expected = F.silu(norm(x)) if silu else norm(x)
    torch.testing.assert_close(normalise(x), expected, rtol=1e-5, atol=1e-5)


def test_moments_stand_a_mean_far_above_the_deviation(generator: torch.Generator) -> None:
    norm = nn.GroupNorm(1, 2, affine=True)
    x = torch.randn(1, 2, 40, 30, 30, generator=generator) + 1000
    expected = norm.double()(x.double())
    found = measure(cut(x, thickness=7)).normaliser(norm, silu=False)(x)
    assert (found - expected).abs().max() < 1e-3


def test_tiles_are_computed_once_for_each_reading_and_in_order(generator: torch.Generator) -> None:
    seen: list[int] = []

    def note(tile: torch.Tensor) -> torch.Tensor:
        seen.append(tile.shape[2])
        return tile

    conv = nn.Conv3d(1, 1, 3, padding=1)
    chain = convolved(convolved(cut(torch.zeros(1, 1, *SIZE)).map(note), conv), conv)
    with torch.no_grad():
        for _ in chain.read():
            pass
    assert seen == [2, 2, 2, 1]


@torch.no_grad()
def test_a_convolution_may_take_the_place_of_its_input(generator: torch.Generator) -> None:
    conv = nn.Conv3d(3, 3, 3, padding=1)
    x = torch.randn(1, 3, *SIZE, generator=generator)
    expected = conv(x)
    for thickness in (1, 2, 3):
        place = x.clone()
        stored(convolved(cut(place, thickness=thickness).map(torch.clone), conv), into=place)
        torch.testing.assert_close(place, expected, rtol=1e-5, atol=1e-5)


def test_windows_are_padded_with_zeros_on_both_sides() -> None:
    x = torch.arange(1.0, 4.0).view(1, 1, 3, 1, 1)
    ranges: list[Any] = [(-2, 1), (0, 2), (2, 6)]
    found = [w.flatten().tolist() for w in tiled_convolution._windows(cut(x, thickness=1), ranges)]
    assert found == [[0, 0, 1], [1, 2], [3, 0, 0, 0]]


def test_an_empty_map_is_refused() -> None:
    with pytest.raises(ValueError, match="no planes"):
        stored(TiledMap(read=lambda: itertools.chain(), length=0, axis=2, thickness=2))
