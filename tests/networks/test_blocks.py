from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from medldm.networks.blocks import (
    Downsample,
    LinearUpsample,
    ResidualBlock,
    TransposedUpsample,
    Upsample,
    crop_to,
    pad_to_multiple,
    run_block,
)
from medldm.networks.kernels.fused_norm_conv import normalise
from medldm.networks.layers import Norm, conv

Randomise = Callable[[nn.Module], nn.Module]


@pytest.mark.parametrize("size", [(1, 1, 1), (5, 8, 7), (4, 4, 4), (9, 3, 2), (6, 11)])
@pytest.mark.parametrize("multiple", [1, 2, 4, 8])
def test_padding_repeats_the_edge_and_cropping_inverts_it(
    size: tuple[int, ...], multiple: int, generator: torch.Generator
) -> None:
    x = torch.randn(2, 3, *size, generator=generator)
    padded = pad_to_multiple(x, multiple)
    assert all(
        length % multiple == 0 and length - n < multiple
        for length, n in zip(padded.shape[2:], size, strict=True)
    )
    for axis, (length, n) in enumerate(zip(padded.shape[2:], size, strict=True), start=2):
        edge = padded.narrow(axis, n - 1, 1).expand_as(padded.narrow(axis, n - 1, length - n + 1))
        assert torch.equal(padded.narrow(axis, n - 1, length - n + 1), edge)
    assert torch.equal(crop_to(padded, size), x)


def test_padding_leaves_a_multiple_untouched() -> None:
    x = torch.zeros(1, 1, 8, 4, 12)
    assert pad_to_multiple(x, 4) is x


def test_norm_is_group_norm_and_may_be_followed_by_silu(generator: torch.Generator) -> None:
    layer = Norm(2, 6, eps=1e-6)
    nn.init.normal_(layer.weight, generator=generator)
    nn.init.normal_(layer.bias, generator=generator)
    x = torch.randn(2, 6, 3, 4, 5, generator=generator)
    groups = x.view(2, 2, -1)
    normalised = (groups - groups.mean(-1, keepdim=True)) / (
        groups.var(-1, keepdim=True, unbiased=False) + 1e-6
    ).sqrt()
    affine = normalised.view_as(x) * layer.weight.view(1, 6, 1, 1, 1) + layer.bias.view(1, 6, 1, 1, 1)
    torch.testing.assert_close(layer(x), affine, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        normalise(x, layer, silu=True), affine * affine.sigmoid(), rtol=1e-5, atol=1e-5
    )


def test_block_with_time_starts_as_its_shortcut(generator: torch.Generator) -> None:
    block = ResidualBlock(4, 4, n_groups=2, norm_eps=1e-6, spatial_dims=3, embedding_dim=5)
    x = torch.randn(2, 4, 4, 4, 4, generator=generator)
    assert torch.equal(block(x, torch.randn(2, 5, generator=generator)), x)


def test_block_with_time_depends_on_the_time_of_its_own_sample(
    randomise: Randomise, generator: torch.Generator
) -> None:
    block = randomise(ResidualBlock(4, 6, n_groups=2, norm_eps=1e-6, spatial_dims=3, embedding_dim=5))
    x = torch.randn(2, 4, 4, 4, 4, generator=generator)
    embedding = torch.randn(2, 5, generator=generator)
    changed = embedding.clone()
    changed[1] += 1
    first, second = block(x, embedding), block(x, changed)
    assert torch.equal(first[0], second[0])
    assert not torch.allclose(first[1], second[1])


def test_block_with_time_asks_for_it() -> None:
    block = ResidualBlock(4, 4, n_groups=2, norm_eps=1e-6, spatial_dims=3, embedding_dim=5)
    with pytest.raises(ValueError, match="pass the time embedding"):
        block(torch.zeros(1, 4, 4, 4, 4))


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_resampling_block_changes_the_size_by_two(spatial_dims: int) -> None:
    x = torch.zeros(1, 4, *(4, 6, 8)[:spatial_dims])
    for direction, factor in (("up", 2), ("down", 0.5)):
        block = ResidualBlock(4, 4, n_groups=2, norm_eps=1e-6, spatial_dims=spatial_dims, resample=direction)
        assert block(x).shape[2:] == tuple(int(n * factor) for n in x.shape[2:])


@pytest.mark.parametrize("is_asymmetric", [True, False])
def test_downsampling_is_a_strided_convolution_with_zeros_outside(
    is_asymmetric: bool, generator: torch.Generator
) -> None:
    layer = Downsample(2, strides=(2, 2, 2), asymmetric=is_asymmetric)
    x = torch.randn(1, 2, 4, 6, 8, generator=generator)
    start = 0 if is_asymmetric else 1
    everywhere = F.conv3d(F.pad(x, (start, 1) * 3), layer.conv.weight, layer.conv.bias)
    torch.testing.assert_close(
        layer(x), everywhere[..., ::2, ::2, ::2][..., :2, :3, :4], rtol=1e-4, atol=1e-5
    )


def test_upsampling_repeats_voxels_then_convolves(generator: torch.Generator) -> None:
    layer = Upsample(2, strides=(2, 2, 2))
    x = torch.randn(1, 2, 3, 4, 5, generator=generator)
    repeated = x.repeat_interleave(2, 2).repeat_interleave(2, 3).repeat_interleave(2, 4)
    torch.testing.assert_close(layer(x), layer.conv(repeated))


@pytest.mark.parametrize("strides", [(2, 2, 2), (2, 1, 2), (2, 2)])
def test_linear_upsampling_lies_between_the_centres_of_voxels(
    strides: tuple[int, ...], generator: torch.Generator
) -> None:
    layer = LinearUpsample(2, strides=strides)
    x = torch.randn(1, 2, *(3, 4, 5)[: len(strides)], generator=generator)
    between = x
    for axis, stride in enumerate(strides, start=2):
        if stride == 2:
            n = between.shape[axis]
            before, after = (
                between.index_select(axis, (torch.arange(n) + step).clamp(0, n - 1)) for step in (-1, 1)
            )
            pairs = torch.stack([0.25 * before + 0.75 * between, 0.75 * between + 0.25 * after], axis + 1)
            between = pairs.flatten(axis, axis + 1)
    torch.testing.assert_close(layer(x), layer.conv(between), rtol=1e-5, atol=1e-5)


def test_transposed_upsampling_gives_each_voxel_its_own_kernel(generator: torch.Generator) -> None:
    layer = TransposedUpsample(1, strides=(2, 2, 2))
    x = torch.randn(1, 1, 2, 3, 4, generator=generator)
    expected = torch.kron(x[0, 0], layer.conv.weight[0, 0]) + layer.conv.bias
    torch.testing.assert_close(layer(x)[0, 0], expected)


@pytest.mark.parametrize(("kernel_size", "expected"), [(1, (5, 4, 3)), (3, (5, 4, 3)), (5, (5, 4, 3))])
def test_convolution_keeps_the_size(kernel_size: int, expected: tuple[int, ...]) -> None:
    assert (
        conv(1, 2, spatial_dims=3, kernel_size=kernel_size)(torch.zeros(1, 1, 5, 4, 3)).shape[2:] == expected
    )


def test_checkpointed_block_recomputes_and_gives_equal_gradients(generator: torch.Generator) -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 3)
            self.n_calls = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.n_calls += 1
            return torch.tanh(self.layer(x))

    block, x = Counting(), torch.randn(2, 3, generator=generator, requires_grad=True)
    gradients = []
    for checkpointing in (False, True):
        block.n_calls = 0
        gradients.append(torch.autograd.grad(run_block(block, x, checkpointing=checkpointing).sum(), x)[0])
        assert block.n_calls == (2 if checkpointing else 1)
    assert torch.equal(*gradients)
    with torch.no_grad():
        block.n_calls = 0
        run_block(block, x, checkpointing=True)
    assert block.n_calls == 1
