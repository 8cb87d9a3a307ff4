"""How the blocks compute faster or in less memory than their plain form, with equal results.

The plain weights stay the parameters. What is derived from them is kept for inference only and forgotten as
soon as a weight changes. All rules of where a lever pays stand in `Rules`. Under torch.compile and while a
graph is traced the plain form runs, and the compiler chooses.

A nearest-neighbour doubling followed by a 3^3 convolution reads each voxel of the small grid several times:
along an axis, output 2i + p is sum_k w_k x[(2i + p + k - 1) // 2]. Adding up the taps that meet the same
voxel gives a transposed convolution of stride 2 whose kernel is w times `TAPS` along each axis: 8 products in
place of 27 for an output voxel and a pair of channels.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import cache
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TAPS = ((0.0, 0.0, 1.0), (0.0, 1.0, 1.0), (1.0, 1.0, 0.0), (1.0, 0.0, 0.0))
"""`TAPS[j][k]` is 1 where tap k of the convolution becomes part of tap j of the transposed one."""

_ROWS = 256
"""Queries whose products with all keys exist at a time."""

_CHANNELS_LAST = torch.channels_last_3d

_Kept: TypeAlias = tuple["weakref.ref[Tensor]", tuple[Any, ...], Tensor]
_KEPT: weakref.WeakKeyDictionary[nn.Module, _Kept] = weakref.WeakKeyDictionary()


class Rules:
    """Say where each lever pays; every choice between two equal computations asks here."""

    @staticmethod
    def use_onednn(x: Tensor, weight: Tensor) -> bool:
        """Whether a 3D convolution runs through oneDNN with channels last: on CPUs with vector units.

        PyTorch's own choice falls back to an unfolded matrix product for one sample of a small grid, 3 to 4
        times slower, and reorders every input and output that has its channels first.
        """
        return (
            not is_traced()
            and x.ndim == 5
            and x.device.type == "cpu"
            and x.dtype in (torch.float32, torch.bfloat16)
            and (compute_dtype(x) == torch.float32 or (compute_dtype(x) == torch.bfloat16 and has_bfloat16()))
            and (x.dtype == weight.dtype or torch.is_autocast_enabled("cpu"))
            and torch.backends.mkldnn.is_available()
            and bool(torch.backends.mkldnn.enabled)
            and torch.backends.cpu.get_cpu_capability().startswith("AVX")
        )

    @staticmethod
    def widens(x: Tensor, weight: Tensor) -> bool:
        """Whether products in bfloat16 are computed in float32 and rounded: on CPUs that have none.

        oneDNN refuses them there, and PyTorch's own loops take 50 (matrix products) to 500 times
        (convolutions) as long as float32 on AVX2.
        """
        return (
            not is_traced()
            and x.device.type == "cpu"
            and compute_dtype(x) == torch.bfloat16
            and (x.dtype == weight.dtype or torch.is_autocast_enabled("cpu"))
            and not has_bfloat16()
        )

    @staticmethod
    def is_fine(x: Tensor, weight: Tensor) -> bool:
        """Whether a grid has many voxels for each weight, so that reordering the weights costs little.

        Fine grids are computed with channels last. On coarse ones an inference keeps the weights in oneDNN's
        order, a copy as large as the weights; a training, where they change in each step, keeps channels
        first.
        """
        n_voxels = x.numel() // x.shape[1]
        return 27 * n_voxels > 4 * (weight.numel() // weight.shape[1])

    @staticmethod
    def would_unfold(x: Tensor) -> bool:
        """Whether the backward pass of a 3^3 convolution would unfold its input and not use oneDNN.

        It does so for one float32 sample of up to this size, and is then slower than oneDNN on two samples;
        with AVX2 not on the coarsest grids.
        """
        is_small = x.dtype == torch.float32 and len(x) == 1 and x.shape[:4].numel() <= 20480
        has_wide_vectors = "AVX512" in torch.backends.cpu.get_cpu_capability()
        return is_small and (has_wide_vectors or x.shape[2:].numel() >= 512)

    @staticmethod
    def can_halve(x: Tensor, layer: nn.Conv3d) -> bool:
        """Whether that sample is made two by cutting it in half; else by adding one of zeros.

        On two AVX2 cores a training step of an autoencoder (16, 32, 64 channels, 32^3) took 0.47 of the time
        that unfolding took, and 0.74 of that with zeros.
        """
        geometry = (layer.kernel_size, layer.stride, layer.padding)
        return geometry == ((3, 3, 3), (1, 1, 1), (1, 1, 1)) and x.shape[2] >= 4

    @staticmethod
    def splits_backward(h: Tensor, normalised: Tensor) -> bool:
        """Whether a convolution's two gradients are computed one after the other: of large maps, for memory.

        `h` is what it convolves and `normalised` of the same shape; one can stand for the other in one dtype.
        """
        is_large = h.numel() * h.element_size() >= 2**24
        return is_large and h.dtype == normalised.dtype and h is not normalised

    @staticmethod
    def run_in_tiles(x: Tensor, weight: Tensor, *others: Tensor) -> bool:
        """Whether a residual block runs tile by tile: inference on large maps, on CPUs, for memory.

        An autoencoder's pass over 64^3 voxels (32, 64, 128 channels) then takes 0.6 of the memory and 1.01 of
        the time. `weight` and `others` are those of the block.
        """
        is_large = x.numel() * x.element_size() >= 2**24
        return (
            is_large
            and Rules.use_onednn(x, weight)
            and x.dtype == compute_dtype(x)
            and not needs_graph(x, weight, *others)
        )

    @staticmethod
    def planes_of_tile(x: Tensor) -> int:
        """How many planes (B, C, 1, Y, Z) such a tile has: about 4 MB, which stay in the cache."""
        return max(4, 2**22 // (x[:, :, 0].numel() * x.element_size()))

    @staticmethod
    def use_transposed(x: Tensor, weight: Tensor) -> bool:
        """Whether doubling and convolving is one transposed convolution: not where the kernel outweighs x."""
        return not is_traced() and x.ndim == 5 and x.numel() // x.shape[1] > weight.shape[0] // 2

    @staticmethod
    def use_onednn_linear(x: Tensor, layer: nn.Linear) -> bool:
        """Whether a linear layer runs as a 1^3 convolution of oneDNN: float32 inference on CPUs.

        Twice as fast as PyTorch's matrix product where that is MKL's and the processor AMD's.
        """
        if is_traced() or compute_dtype(x) != torch.float32 or x.numel() < 16 * x.shape[-1]:
            return False
        volume = x[(None,) * (5 - x.ndim)]
        return Rules.use_onednn(volume, layer.weight) and not needs_graph(x, layer.weight, layer.bias)

    @staticmethod
    def use_products(queries: Tensor, keys: Tensor) -> bool:
        """Whether attention (B, heads, N, d) is computed by matrix products: in bfloat16 on CPUs.

        PyTorch's fused attention is 2 to 3 times slower there. A training keeps the products of small grids
        only. CPUs without bfloat16 take the fused attention in float32.
        """
        if is_traced() or queries.device.type != "cpu" or queries.dtype != torch.bfloat16:
            return False
        if Rules.widens(queries, keys):
            return False
        is_small = queries.shape[:3].numel() * keys.shape[2] <= 2**20
        return is_small or not needs_graph(queries, keys)


def is_traced() -> bool:
    """Whether the computation is being compiled, exported or traced."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


@cache
def has_bfloat16() -> bool:
    """Whether oneDNN computes bfloat16 on this CPU."""
    return bool(torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def in_native_dtype(
    compute: Callable[..., Tensor], x: Tensor, weight: Tensor, bias: Tensor | None = None
) -> Tensor:
    """Compute with `x`, `weight` and `bias`; where `Rules.widens`, in float32, and round the result."""
    if not Rules.widens(x, weight):
        return compute(x, weight, bias)
    with torch.autocast("cpu", enabled=False):
        y = compute(x.float(), weight.float(), None if bias is None else bias.float())
    return y.to(torch.bfloat16)


def needs_graph(*tensors: Tensor | None) -> bool:
    """Whether a gradient may be asked of what is computed from these tensors."""
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def convolve(x: Tensor, layer: nn.Conv2d | nn.Conv3d) -> Tensor:
    """Convolve (B, in, X, Y[, Z]) as `layer` says, the fastest way that is equal.

    Args:
        x: any memory format; where channels last pays the result has it.
        layer: zero padding, no dilation or groups.
    """

    def compute(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if not Rules.use_onednn(x, weight):
            return layer._conv_forward(x, weight, bias)
        is_fine = Rules.is_fine(x, weight)
        if needs_graph(x, weight, bias):
            return layer._conv_forward(channels_last(x) if is_fine else x, weight, bias)
        x = channels_last(x).to(compute_dtype(x))
        return convolve_with_onednn(x, layer.weight, layer, keep=not is_fine and can_keep(layer))

    return in_native_dtype(compute, x, layer.weight, layer.bias)


def double_and_convolve(x: Tensor, layer: nn.Conv2d | nn.Conv3d) -> Tensor:
    """Repeat each voxel of (B, in, X, Y, Z) twice along each axis, then convolve with a kernel of 3^3."""
    if not Rules.use_transposed(x, layer.weight):
        return layer(F.interpolate(x, scale_factor=2.0, mode="nearest"))

    def compute(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if Rules.use_onednn(x, weight) and Rules.is_fine(x, weight):
            x = channels_last(x)
        dtype = compute_dtype(x)
        if needs_graph(weight) or not can_keep(layer):
            kernel = transposed_kernel(weight)
        else:
            kernel = _keep(layer, (dtype,), lambda: transposed_kernel(weight.detach()).to(dtype))
        return F.conv_transpose3d(x, kernel, bias, stride=2, padding=1)

    return in_native_dtype(compute, x, layer.weight, layer.bias)


def convolve_transposed(x: Tensor, layer: nn.ConvTranspose2d | nn.ConvTranspose3d) -> Tensor:
    """Apply a transposed convolution to (B, in, X, Y[, Z])."""
    run: Callable[..., Tensor] = F.conv_transpose3d if x.ndim == 5 else F.conv_transpose2d

    def compute(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        geometry: Any = layer.stride, layer.padding, layer.output_padding, layer.groups, layer.dilation
        return run(x, weight, bias, *geometry)

    return in_native_dtype(compute, x, layer.weight, layer.bias)


def project(x: Tensor, layer: nn.Linear) -> Tensor:
    """Map (..., in) to (..., out) as `layer` says."""
    if not Rules.use_onednn_linear(x, layer):
        return in_native_dtype(F.linear, x, layer.weight, layer.bias)
    volume = x.reshape(1, -1, 1, 1, x.shape[-1]).movedim(-1, 1)
    kernel = layer.weight.detach()[..., None, None, None]
    bias = None if layer.bias is None else layer.bias.detach()
    y = torch.mkldnn_convolution(volume, kernel, bias, [0] * 3, [1] * 3, [1] * 3, 1)
    return y.movedim(1, -1).reshape(*x.shape[:-1], len(kernel))


def attend_to(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Compute softmax(q k^T / sqrt(d)) v for heads (B, heads, N, d) and (B, heads, M, d)."""
    if not Rules.use_products(queries, keys):
        return in_native_dtype(F.scaled_dot_product_attention, queries, keys, values)
    transposed = keys.transpose(2, 3) * keys.shape[3] ** -0.5
    rows = [torch.softmax(part @ transposed, dim=-1) @ values for part in queries.split(_ROWS, dim=2)]
    return rows[0] if len(rows) == 1 else torch.cat(rows, dim=2)


def transposed_kernel(weight: Tensor) -> Tensor:
    """Turn (out, in, 3, 3, 3) into the kernel (in, out, 4, 4, 4) that doubles the size on its own."""
    with torch.autocast(weight.device.type, enabled=False):
        taps = torch.tensor(TAPS, dtype=weight.dtype, device=weight.device)
        kernel = weight.transpose(0, 1)
        for _ in range(3):
            kernel = torch.tensordot(kernel, taps, dims=([2], [1]))
        return kernel


def compute_dtype(x: Tensor) -> torch.dtype:
    """What autocast makes of the inputs of a convolution, the dtype of `x` without it."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def is_channels_last(x: Tensor) -> bool:
    """Whether channels are last in the memory of (B, C, X, Y, Z) on a CPU."""
    return x.ndim == 5 and x.device.type == "cpu" and x.is_contiguous(memory_format=_CHANNELS_LAST)


def channels_last(x: Tensor) -> Tensor:
    """Return (B, C, X, Y, Z) with channels last in memory."""
    return x.contiguous(memory_format=_CHANNELS_LAST)


def convolve_with_onednn(
    x: Tensor, weight: Tensor, layer: nn.Conv2d | nn.Conv3d, *, keep: bool = False
) -> Tensor:
    """Convolve (B, in, X, Y, Z) in the dtype of `x`, without a gradient; the result has its memory format.

    Args:
        x: the input.
        weight: of the layer.
        layer: gives the bias and the geometry.
        keep: whether the weight is kept in oneDNN's order; `x` then has channels last.
    """
    weight, dtype = weight.detach(), x.dtype
    bias = None if layer.bias is None else layer.bias.detach().to(dtype)
    geometry: Any = (list(layer.padding), list(layer.stride), list(layer.dilation), layer.groups)
    if not keep:
        return torch.mkldnn_convolution(x, weight.to(dtype), bias, *geometry)
    reorder: Any = torch._C._nn.mkldnn_reorder_conv3d_weight
    shape = list(x.shape)
    kept = _keep(layer, (dtype, *shape), lambda: reorder(weight.to(dtype).to_mkldnn(), *geometry, shape))
    return torch.ops.mkldnn._convolution_pointwise(x, kept, bias, *geometry, "none", [], "")


def can_keep(layer: nn.Conv2d | nn.Conv3d) -> bool:
    """Whether what is derived from a weight may be kept: not while it is trained or computed itself.

    A tensor of inference mode does not count its changes.
    """
    is_parameter = isinstance(layer._parameters.get("weight"), nn.Parameter)
    return is_parameter and not layer.training and not layer.weight.is_inference()


def forget(layer: nn.Module) -> None:
    """Forget what inference has kept for a layer."""
    _KEPT.pop(layer, None)


def clear_cached_weights(network: nn.Module) -> None:
    """Forget what inference has kept for the layers of a network, a copy of many of its weights."""
    for layer in network.modules():
        forget(layer)


def _keep(layer: nn.Conv2d | nn.Conv3d, key: tuple[Any, ...], make: Callable[[], Tensor]) -> Tensor:
    """Return what `make` derives from the weight of a layer, made anew when weight or key have changed.

    Changes that PyTorch does not count, such as those of `weight.data`, are seen at the next `train()` or
    `eval()`, which forget what was kept.
    """
    weight = layer.weight
    key = (weight.data_ptr(), weight._version, *key)
    kept = _KEPT.get(layer)
    if kept is None or kept[0]() is not weight or kept[1] != key:
        kept = _KEPT[layer] = (weakref.ref(weight), key, make())
    return kept[2]
