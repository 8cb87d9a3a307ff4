"""Convolutions of one layer, the fastest way that is equal.

A nearest-neighbour doubling followed by a 3^3 convolution reads each voxel of the small grid several times:
along an axis, output 2i + p is sum_k w_k x[(2i + p + k - 1) // 2]. Adding up the taps that meet the same
voxel gives a transposed convolution of stride 2 whose kernel is w times `TAPS` along each axis: 8 products in
place of 27 for an output voxel and a pair of channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medldm.networks.kernels import dispatch
from medldm.networks.kernels.cached_weights import cached_weight, may_cache

TAPS = {
    1: ((0.0, 0.0, 1.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0)),
    2: ((0.0, 0.0, 1.0), (0.0, 1.0, 1.0), (1.0, 1.0, 0.0), (1.0, 0.0, 0.0)),
}
"""`TAPS[s][j][k]` is 1 where tap k of the convolution is part of tap j of the transposed one of stride s."""


def convolve(x: Tensor, layer: nn.Conv2d | nn.Conv3d) -> Tensor:
    """Convolve (B, in, X, Y[, Z]) as `layer` says, the fastest way that is equal.

    `layer` has zero padding, no dilation and no groups; where channels last pays the result has it.
    """

    def compute(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if not dispatch.use_onednn(x, weight):
            return layer._conv_forward(x, weight, bias)
        is_fine = dispatch.is_fine_grid(x, weight)
        if dispatch.needs_graph(x, weight, bias):
            return layer._conv_forward(dispatch.channels_last(x) if is_fine else x, weight, bias)
        x = dispatch.channels_last(x).to(dispatch.compute_dtype(x))
        return convolve_with_onednn(x, layer.weight, layer, cache=not is_fine and may_cache(layer))

    return dispatch.in_native_dtype(compute, x, layer.weight, layer.bias)


def double_and_convolve(x: Tensor, layer: nn.Conv2d | nn.Conv3d) -> Tensor:
    """Repeat each voxel of (B, in, X, Y, Z) twice along each axis, then convolve with a kernel of 3^3."""
    if not dispatch.use_transposed(x, layer.weight):
        return layer(F.interpolate(x, scale_factor=2.0, mode="nearest"))

    def compute(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if dispatch.use_onednn(x, weight) and dispatch.is_fine_grid(x, weight):
            x = dispatch.channels_last(x)
        dtype = dispatch.compute_dtype(x)
        if dispatch.needs_graph(weight) or not may_cache(layer):
            kernel = transposed_kernel(weight)
        else:
            kernel = cached_weight(layer, (dtype,), lambda: transposed_kernel(weight.detach()).to(dtype))
        return F.conv_transpose3d(x, kernel, bias, stride=2, padding=1)

    return dispatch.in_native_dtype(compute, x, layer.weight, layer.bias)


def convolve_transposed(x: Tensor, layer: nn.ConvTranspose2d | nn.ConvTranspose3d) -> Tensor:
    """Apply a transposed convolution to (B, in, X, Y[, Z])."""
    run: Callable[..., Tensor] = F.conv_transpose3d if x.ndim == 5 else F.conv_transpose2d

    def compute(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        geometry: Any = layer.stride, layer.padding, layer.output_padding, layer.groups, layer.dilation
        return run(x, weight, bias, *geometry)

    return dispatch.in_native_dtype(compute, x, layer.weight, layer.bias)


def transposed_kernel(weight: Tensor, strides: Sequence[int] = (2, 2, 2)) -> Tensor:
    """Turn (out, in, 3, 3[, 3]) into the kernel (in, out, 4, 4[, 4]) that doubles the size on its own.

    Along an axis of stride 1 the kernel keeps its 3 taps, in reverse. The transposed convolution has these
    strides and a padding of 1.
    """
    with torch.autocast(weight.device.type, enabled=False):
        kernel = weight.transpose(0, 1)
        for stride in strides:
            taps = torch.tensor(TAPS[stride], dtype=weight.dtype, device=weight.device)
            kernel = torch.tensordot(kernel, taps, dims=([2], [1]))
        return kernel


def convolve_with_onednn(
    x: Tensor, weight: Tensor, layer: nn.Conv2d | nn.Conv3d, *, cache: bool = False
) -> Tensor:
    """Convolve (B, in, X, Y, Z) in the dtype of `x`, without a gradient; the result has its memory format.

    With `cache` the weight is kept in oneDNN's order; `x` then has channels last.
    """
    weight, dtype = weight.detach(), x.dtype
    bias = None if layer.bias is None else layer.bias.detach().to(dtype)
    geometry: Any = (list(layer.padding), list(layer.stride), list(layer.dilation), layer.groups)
    if not cache:
        return torch.mkldnn_convolution(x, weight.to(dtype), bias, *geometry)
    reorder: Any = torch._C._nn.mkldnn_reorder_conv3d_weight
    shape = list(x.shape)
    reordered = cached_weight(
        layer, (dtype, *shape), lambda: reorder(weight.to(dtype).to_mkldnn(), *geometry, shape)
    )
    return torch.ops.mkldnn._convolution_pointwise(x, reordered, bias, *geometry, "none", [], "")
