"""Which of two equal computations is taken: the plain form, or one that is faster or needs less memory.

The plain form stands in the blocks and layers; it runs under torch.compile, while a graph is traced, in
`plain_form()`, and wherever a layer has hooks or was wrapped or replaced (`may_fuse`). All rules of where a
faster form pays stand here. Weights are never changed: what is derived from them is kept by
`kernels.cached_weights`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import cache
from typing import TypeVar

import torch
from torch import Tensor, nn

Layer = TypeVar("Layer", bound=type[nn.Module])

_CHANNELS_LAST = torch.channels_last_3d
_FUSABLE: set[type[nn.Module]] = set()
_plain_forms = 0


def fusable(layer: Layer) -> Layer:
    """Mark a class of layers whose `forward` a kernel may pass by and compute in another way."""
    _FUSABLE.add(layer)
    return layer


def may_fuse(*layers: nn.Module, also: Collection[type[nn.Module]] = ()) -> bool:
    """Whether layers may be computed past their own `forward`: each is of a fusable class and has no hooks.

    A layer that was wrapped or parametrised is of another class. Hooks that PyTorch has on all modules at
    once, which its profilers use, do not count.

    Args:
        layers: parts of a network.
        also: classes of PyTorch that may be passed by too.
    """
    return not runs_plainly() and all(
        (type(layer) in _FUSABLE or type(layer) in also) and not has_hooks(layer) for layer in layers
    )


def has_hooks(layer: nn.Module) -> bool:
    """Whether something is called before or after a layer's `forward`, or in its place."""
    hooks = layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks
    return any(hooks) or "forward" in vars(layer)


@contextmanager
def plain_form() -> Iterator[None]:
    """Compute everything in the plain form of PyTorch's own layers, as the tests compare it."""
    global _plain_forms
    _plain_forms += 1
    try:
        yield
    finally:
        _plain_forms -= 1


def runs_plainly() -> bool:
    """Whether the plain form is asked for, or the computation is being compiled, exported or traced."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing() or _plain_forms > 0


def use_onednn(x: Tensor, weight: Tensor) -> bool:
    """Whether a 3D convolution runs through oneDNN with channels last: on CPUs with vector units.

    PyTorch's own choice falls back to an unfolded matrix product for one sample of a small grid, 3 to 4
    times slower, and reorders every input and output that has its channels first.
    """
    return (
        not runs_plainly()
        and x.ndim == 5
        and x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.bfloat16)
        and (compute_dtype(x) == torch.float32 or (compute_dtype(x) == torch.bfloat16 and has_bfloat16()))
        and (x.dtype == weight.dtype or torch.is_autocast_enabled("cpu"))
        and torch.backends.mkldnn.is_available()
        and bool(torch.backends.mkldnn.enabled)
        and torch.backends.cpu.get_cpu_capability().startswith("AVX")
    )


def computes_in_float32(x: Tensor, weight: Tensor) -> bool:
    """Whether products in bfloat16 are computed in float32 and rounded: on CPUs that have none.

    oneDNN refuses them there, and PyTorch's own loops take 50 (matrix products) to 500 times
    (convolutions) as long as float32 on AVX2.
    """
    return (
        not runs_plainly()
        and x.device.type == "cpu"
        and compute_dtype(x) == torch.bfloat16
        and (x.dtype == weight.dtype or torch.is_autocast_enabled("cpu"))
        and not has_bfloat16()
    )


def is_fine_grid(x: Tensor, weight: Tensor) -> bool:
    """Whether a grid has many voxels for each weight, so that reordering the weights costs little.

    Fine grids are computed with channels last. On coarse ones an inference keeps the weights in oneDNN's
    order, a copy as large as the weights; a training, where they change in each step, keeps channels
    first.
    """
    n_voxels = x.numel() // x.shape[1]
    return 27 * n_voxels > 4 * (weight.numel() // weight.shape[1])


def would_unfold(x: Tensor) -> bool:
    """Whether the backward pass of a 3^3 convolution would unfold its input and not use oneDNN.

    It does so for one float32 sample of up to this size, and is then slower than oneDNN on two samples;
    with AVX2 not on the coarsest grids.
    """
    is_small = x.dtype == torch.float32 and len(x) == 1 and x.shape[:4].numel() <= 20480
    has_wide_vectors = "AVX512" in torch.backends.cpu.get_cpu_capability()
    return is_small and (has_wide_vectors or x.shape[2:].numel() >= 512)


def can_halve(x: Tensor, layer: nn.Conv3d) -> bool:
    """Whether that sample is made two by cutting it in half; else by adding one of zeros.

    On two AVX2 cores a training step of an autoencoder (16, 32, 64 channels, 32^3) took 0.47 of the time
    that unfolding took, and 0.74 of that with zeros.
    """
    geometry = (layer.kernel_size, layer.stride, layer.padding)
    return geometry == ((3, 3, 3), (1, 1, 1), (1, 1, 1)) and x.shape[2] >= 4


def splits_backward(h: Tensor, normalised: Tensor) -> bool:
    """Whether a convolution's two gradients are computed one after the other: of large maps, for memory.

    `h` is what it convolves and `normalised` of the same shape; one can stand for the other in one dtype.
    """
    is_large = h.numel() * h.element_size() >= 2**24
    return is_large and h.dtype == normalised.dtype and h is not normalised


def run_in_tiles(x: Tensor, weight: Tensor, *others: Tensor) -> bool:
    """Whether a residual block runs tile by tile: inference on large maps, on CPUs, for memory.

    An autoencoder's pass over 64^3 voxels (32, 64, 128 channels) then takes 0.6 of the memory and 1.01 of
    the time. `weight` and `others` are those of the block.
    """
    is_large = x.numel() * x.element_size() >= 2**24
    return (
        is_large
        and use_onednn(x, weight)
        and x.dtype == compute_dtype(x)
        and not needs_graph(x, weight, *others)
    )


def planes_of_tile(x: Tensor) -> int:
    """How many planes (B, C, 1, Y, Z) such a tile has: about 4 MB, which stay in the cache."""
    return max(4, 2**22 // (x[:, :, 0].numel() * x.element_size()))


def use_transposed(x: Tensor, weight: Tensor) -> bool:
    """Whether doubling and convolving is one transposed convolution: not where the kernel outweighs x."""
    return not runs_plainly() and x.ndim == 5 and x.numel() // x.shape[1] > weight.shape[0] // 2


def use_onednn_linear(x: Tensor, layer: nn.Linear) -> bool:
    """Whether a linear layer runs as a 1^3 convolution of oneDNN: float32 inference on CPUs.

    Twice as fast as PyTorch's matrix product where that is MKL's and the processor AMD's.
    """
    if runs_plainly() or compute_dtype(x) != torch.float32 or x.numel() < 16 * x.shape[-1]:
        return False
    volume = x[(None,) * (5 - x.ndim)]
    return use_onednn(volume, layer.weight) and not needs_graph(x, layer.weight, layer.bias)


def use_matrix_products(queries: Tensor, keys: Tensor) -> bool:
    """Whether attention (B, heads, N, d) is computed by matrix products: in bfloat16 on CPUs.

    PyTorch's fused attention is 2 to 3 times slower there. A training keeps the products of small grids
    only. CPUs without bfloat16 take the fused attention in float32.
    """
    if runs_plainly() or queries.device.type != "cpu" or queries.dtype != torch.bfloat16:
        return False
    if computes_in_float32(queries, keys):
        return False
    is_small = queries.shape[:3].numel() * keys.shape[2] <= 2**20
    return is_small or not needs_graph(queries, keys)


@cache
def has_bfloat16() -> bool:
    """Whether oneDNN computes bfloat16 on this CPU."""
    return bool(torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def in_native_dtype(
    compute: Callable[..., Tensor], x: Tensor, weight: Tensor, bias: Tensor | None = None
) -> Tensor:
    """Compute with `x`, `weight` and `bias`; where `computes_in_float32` says so, in float32, and round."""
    if not computes_in_float32(x, weight):
        return compute(x, weight, bias)
    with torch.autocast("cpu", enabled=False):
        y = compute(x.float(), weight.float(), None if bias is None else bias.float())
    return y.to(torch.bfloat16)


def needs_graph(*tensors: Tensor | None) -> bool:
    """Whether a gradient may be asked of what is computed from these tensors."""
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


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
