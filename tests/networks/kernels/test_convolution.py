from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medldm.networks.blocks import Upsample
from medldm.networks.kernels import dispatch
from medldm.networks.kernels.convolution import convolve, double_and_convolve, transposed_kernel
from medldm.networks.layers import (
    Convolution,
)

SIZES = [(1, 1, 1), (3, 5, 4), (2, 1, 7), (9, 8, 10)]


def upsample_plainly(x: Tensor, layer: nn.Conv3d) -> Tensor:
    """Repeat each voxel, then convolve, in float64."""
    doubled = x.double()
    for axis in (2, 3, 4):
        doubled = doubled.repeat_interleave(2, axis)
    bias = None if layer.bias is None else layer.bias.double()
    return F.conv3d(doubled, layer.weight.double(), bias, padding=1)


def assert_equal_gradients(output: Tensor, expected: Tensor, inputs: list[Tensor]) -> None:
    """Compare the gradients of one weighted sum of either output."""
    weights = torch.linspace(-1, 1, expected.numel(), dtype=expected.dtype).view(expected.shape)
    found, wanted = (torch.autograd.grad((weights.to(y.dtype) * y).sum(), inputs) for y in (output, expected))
    for first, second in zip(found, wanted, strict=True):
        torch.testing.assert_close(
            first, second.to(first.dtype), rtol=1e-4, atol=1e-5 * float(second.abs().max())
        )


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("batch", [1, 2])
def test_one_transposed_convolution_doubles_and_convolves(
    size: tuple[int, ...], batch: int, generator: torch.Generator
) -> None:
    layer = Convolution(3, 5, 3, padding=1).double()
    x = torch.randn(batch, 3, *size, generator=generator, dtype=torch.float64)
    kernel = transposed_kernel(layer.weight)
    found = F.conv_transpose3d(x, kernel, layer.bias, stride=2, padding=1)
    torch.testing.assert_close(found, upsample_plainly(x, layer), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("has_bias", [True, False])
def test_doubling_is_equal_in_training_and_inference(
    size: tuple[int, ...], has_bias: bool, generator: torch.Generator
) -> None:
    layer = Convolution(4, 4, 3, padding=1, bias=has_bias).eval()
    x = torch.randn(2, 4, *size, generator=generator, requires_grad=True)
    expected = upsample_plainly(x, layer)
    trained = double_and_convolve(x, layer)
    torch.testing.assert_close(trained.double(), expected, rtol=1e-5, atol=1e-5)
    assert_equal_gradients(trained, expected, [x, *layer.parameters()])
    with torch.no_grad():
        for _ in range(2):
            torch.testing.assert_close(double_and_convolve(x, layer).double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("kernel_size", "stride"), [(1, 1), (3, 1), (3, 2)])
@pytest.mark.parametrize("size", [(3, 3, 3), (8, 9, 10)])
@pytest.mark.parametrize("channels", [(1, 8), (32, 24), (96, 4)])
@pytest.mark.parametrize("has_bias", [True, False])
def test_convolution_is_equal_in_training_and_inference(
    kernel_size: int,
    stride: int,
    size: tuple[int, ...],
    channels: tuple[int, int],
    has_bias: bool,
    generator: torch.Generator,
) -> None:
    padding = kernel_size // 2
    layer = Convolution(*channels, kernel_size, stride=stride, padding=padding, bias=has_bias).eval()
    x = torch.randn(1, channels[0], *size, generator=generator)
    bias = None if layer.bias is None else layer.bias.double()
    expected = F.conv3d(x.double(), layer.weight.double(), bias, stride=stride, padding=padding).float()
    for given in (x, x.contiguous(memory_format=torch.channels_last_3d)):
        torch.testing.assert_close(layer(given), expected, rtol=1e-5, atol=1e-5)
        with torch.no_grad():
            torch.testing.assert_close(layer(given), expected, rtol=1e-5, atol=1e-5)


def test_what_pytorch_computes_alone_is_left_to_it(generator: torch.Generator) -> None:
    x = torch.randn(1, 4, 3, 3, 3, generator=generator)
    layer = Convolution(4, 4, 3, padding=1)
    assert not dispatch.use_onednn(x.double(), layer.weight.double())
    assert not dispatch.use_onednn(x[0], layer.weight)
    with pytest.raises(RuntimeError, match=r"dtype|type"), torch.no_grad():
        convolve(x.bfloat16(), layer)
    with torch.no_grad():
        assert layer.double()(x.double()).dtype == torch.float64


def test_upsampling_block_doubles_and_convolves(generator: torch.Generator) -> None:
    block = Upsample(4, strides=(2, 2, 2))
    x = torch.randn(1, 4, 5, 6, 7, generator=generator)
    torch.testing.assert_close(block(x), upsample_plainly(x, block.conv).float(), rtol=1e-5, atol=1e-5)
