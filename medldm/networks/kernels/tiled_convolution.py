"""Convolutions of tiled maps, with exactly the halo that each needs."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medldm.networks.kernels import dispatch
from medldm.networks.kernels.tiled_maps import CHANNELS_LAST, TiledMap

CONVOLVE: dict[int, Callable[..., Tensor]] = {4: F.conv2d, 5: F.conv3d}
CONVOLVE_TRANSPOSED: dict[int, Callable[..., Tensor]] = {4: F.conv_transpose2d, 5: F.conv_transpose3d}


def _ranges(length: int, thickness: int) -> Iterator[tuple[int, int]]:
    return pairwise([*range(0, length, thickness), length])


def _windows(x: TiledMap, ranges: list[tuple[int, int]]) -> Iterator[Tensor]:
    """Yield copies of the planes [start, stop) for ranges that never go back; planes outside are zero.

    No more is held between two windows than the planes of the next one that have been read already.
    """
    tiles, held, first, end = x.read(), deque[Tensor](), 0, 0
    for (start, stop), (next_start, _) in pairwise([*ranges, (x.length - 1, x.length)]):
        while end < min(stop, x.length):
            held.append(next(tiles))
            end += held[-1].shape[x.axis]
        window = deque([_join(held, start - first, stop - first, axis=x.axis)])
        while len(held) > 1 and first + held[0].shape[x.axis] <= next_start:
            first += held.popleft().shape[x.axis]
        spare = min(next_start, end - 1) - first
        if spare > 0:
            held[0] = held[0].narrow(x.axis, spare, held[0].shape[x.axis] - spare).clone()
            first += spare
        yield window.pop()


def _join(held: deque[Tensor], start: int, stop: int, *, axis: int) -> Tensor:
    """Copy the planes [start, stop) of consecutive tiles, counted from the first, into one tensor."""
    shape = list(held[0].shape)
    layout = CHANNELS_LAST[len(shape)]
    pieces, position = [], 0

    def add_zeros(number: int) -> None:
        shape[axis] = number
        if number > 0:
            pieces.append(held[0].new_zeros(shape).contiguous(memory_format=layout))

    add_zeros(min(stop, 0) - start)
    for tile in held:
        low, high = max(start - position, 0), min(stop - position, tile.shape[axis])
        if low < high:
            pieces.append(tile.narrow(axis, low, high - low))
        position += tile.shape[axis]
    add_zeros(stop - max(start, position))
    return torch.cat(pieces, dim=axis).contiguous(memory_format=layout)


def convolved(
    x: TiledMap, conv: nn.Conv2d | nn.Conv3d, *, end_padding: Sequence[int] | None = None
) -> TiledMap:
    """Apply a convolution: output plane i takes the input planes i stride - before, ..., + reach.

    Args:
        x: its input.
        conv: of any stride, zero padding and dilation.
        end_padding: zeros added at the ends, as `F.pad` has them; None for none. An axis with one has no
            padding of the convolution's own.
    """
    cut, n_axes = x.axis - 2, len(conv.kernel_size)
    padding = [int(width) for width in conv.padding]
    ends = list(end_padding or (0, 0) * n_axes)
    # F.pad has the last axis first: (start, end) of the axis that is cut stands here.
    of_cut = 2 * (n_axes - 1 - cut)
    before, after = padding[cut], padding[cut] + ends[of_cut + 1]
    ends[of_cut + 1] = 0
    stride, reach = conv.stride[cut], conv.dilation[cut] * (conv.kernel_size[cut] - 1)
    length = (x.length + before + after - reach - 1) // stride + 1
    ranges = [
        (low * stride - before, (high - 1) * stride - before + reach + 1)
        for low, high in _ranges(length, x.thickness)
    ]
    padding[cut] = 0

    def run(window: Tensor) -> Tensor:
        return _convolve(F.pad(window, ends) if any(ends) else window, conv, padding)

    return x.then(lambda: map(run, _windows(x, ranges)), length=length)


def _convolve(window: Tensor, conv: nn.Conv2d | nn.Conv3d, padding: list[int]) -> Tensor:
    """Convolve with another padding than the layer's own, the fastest way for thin tiles too."""

    def compute(window: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if not dispatch.use_onednn(window, weight):
            return CONVOLVE[window.ndim](window, weight, bias, conv.stride, padding, conv.dilation)
        dtype = dispatch.compute_dtype(window)
        weight, bias = weight.to(dtype), None if bias is None else bias.to(dtype)
        window = window.to(dtype)
        return torch.mkldnn_convolution(window, weight, bias, padding, conv.stride, conv.dilation, 1)

    return dispatch.in_native_dtype(compute, window, conv.weight, conv.bias)


def convolved_transposed(
    x: TiledMap,
    weight: Tensor,
    bias: Tensor | None,
    *,
    stride: int | Sequence[int],
    padding: int,
    output_padding: int = 0,
    dilation: int = 1,
) -> TiledMap:
    """Apply a transposed convolution: output plane o takes input planes i with o = i stride - padding + k.

    Args:
        x: its input.
        weight: (in, out, k, k, k).
        bias: (out,).
        stride: of all axes, or one for each.
        padding: of all axes, like the arguments below: planes that are cut from both ends of the full result.
        output_padding: planes added at the end.
        dilation: k in the formula above is a multiple of it.
    """
    cut, n_axes = x.axis - 2, weight.ndim - 2
    strides = (stride,) * n_axes if isinstance(stride, int) else tuple(stride)
    stride = strides[cut]
    reach = dilation * (weight.shape[2 + cut] - 1)
    length = (x.length - 1) * stride - 2 * padding + reach + output_padding + 1
    outputs = list(_ranges(length, x.thickness))
    inputs = [_contributors(low, high, stride=stride, padding=padding, reach=reach) for low, high in outputs]
    others = [0 if axis == cut else output_padding for axis in range(n_axes)]

    def convolve(window: Tensor, paddings: list[int]) -> Tensor:
        def compute(window: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            layer = CONVOLVE_TRANSPOSED[window.ndim]
            return layer(window, weight, bias, strides, paddings, others, 1, dilation)

        return dispatch.in_native_dtype(compute, window, weight, bias)

    def run(window: Tensor, output: tuple[int, int], start: int) -> Tensor:
        """Cut as much as possible inside the convolution: from both ends alike, then the rest."""
        left = output[0] - (start * stride - padding)
        size = output[1] - output[0]
        full = (window.shape[x.axis] - 1) * stride + reach + 1
        both = min(left, full - left - size)
        paddings = [both if axis == cut else padding for axis in range(n_axes)]
        y = convolve(window, paddings)
        return y if y.shape[x.axis] == size else y.narrow(x.axis, left - both, size).clone()

    starts = [start for start, _ in inputs]
    return x.then(lambda: map(run, _windows(x, inputs), outputs, starts), length=length)


def interpolated(
    x: TiledMap, interpolate: Callable[[Tensor, Sequence[int]], Tensor], strides: Sequence[int]
) -> TiledMap:
    """Interpolate linearly: output planes 2i and 2i + 1 take the input planes i - 1, i and i + 1.

    Args:
        x: its input; at its ends the edge planes are repeated, as `interpolate` does.
        interpolate: the same for a whole map, told the strides.
        strides: 2 for each axis that is doubled, 1 for the others.
    """
    if strides[x.axis - 2] == 1:
        return x.map(lambda tile: interpolate(tile, strides))
    length = 2 * x.length
    outputs = list(_ranges(length, x.thickness))
    inputs = [(max((low - 1) // 2, 0), min(high // 2 + 1, x.length)) for low, high in outputs]

    def run(window: Tensor, output: tuple[int, int], start: int) -> Tensor:
        low, high = output
        return interpolate(window, strides).narrow(x.axis, low - 2 * start, high - low).clone()

    starts = [start for start, _ in inputs]
    return x.then(lambda: map(run, _windows(x, inputs), outputs, starts), length=length)


def _contributors(low: int, high: int, *, stride: int, padding: int, reach: int) -> tuple[int, int]:
    """The input planes [start, stop) on which the output planes [low, high) depend.

    A stride beyond the kernel leaves output planes that no input reaches; the range then takes in the inputs
    before and after them, so that its result covers them too.
    """
    first = min((low + padding) // stride, -((reach - low - padding) // stride))
    last = max((high - 1 + padding) // stride, -((reach - high + 1 - padding) // stride))
    return first, last + 1
