"""Feature maps that are read, computed and stored tile by tile along one axis, with exact halos.

A `TiledMap` hands out consecutive tiles; operations on it are lazy and pull the planes they need from the map
below, so that a chain of convolutions holds a few planes of each map. What must be known whole before the
next layer can start is written to a tensor by `stored`, which gathers its moments on the way.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medldm.networks.kernels.dispatch import Rules, compute_dtype, in_native_dtype

CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
CONVOLVE: dict[int, Callable[..., Tensor]] = {4: F.conv2d, 5: F.conv3d}
CONVOLVE_TRANSPOSED: dict[int, Callable[..., Tensor]] = {4: F.conv_transpose2d, 5: F.conv_transpose3d}

_PART = 2**14
"""About as many voxels have their moments taken in float32 at a time."""


@dataclass(frozen=True, kw_only=True)
class TiledMap:
    """A feature map (B, C, X, Y, Z) as tiles along one axis; all maps have tiles of equal thickness.

    Args:
        read: makes an iterator over the tiles, first to last, as often as asked.
        length: planes along the axis.
        axis: the axis of the tensors, 2 or more, that is cut.
        thickness: planes of a tile; the last one may have fewer.
    """

    read: Callable[[], Iterator[Tensor]]
    length: int
    axis: int
    thickness: int

    def then(self, read: Callable[[], Iterator[Tensor]], *, length: int | None = None) -> TiledMap:
        """Make a map computed from this one."""
        length = self.length if length is None else length
        return TiledMap(read=read, length=length, axis=self.axis, thickness=self.thickness)

    def map(self, function: Callable[[Tensor], Tensor]) -> TiledMap:
        """Apply a function that works voxel by voxel to each tile, when it is read."""
        return self.then(lambda: map(function, self.read()))


class Moments:
    """Mean and variance of each channel over all tiles seen: of planes in float32, joined in float64."""

    def __init__(self) -> None:
        self._parts: list[tuple[int, Tensor, Tensor]] = []

    def see(self, tile: Tensor) -> Tensor:
        """Add a tile (B, C, X, Y, Z) to the moments and return it."""
        n_planes = max(1, _PART // tile[0, 0, 0].numel())
        for part in tile.split(n_planes, dim=2):
            of_samples = [
                torch.batch_norm_update_stats(each, *_no_moments(each), 0.0) for each in part.split(1)
            ]
            means, variances = (torch.stack(each).double() for each in zip(*of_samples, strict=True))
            self._parts.append((part[0, 0].numel(), means, variances))
        return tile

    def normaliser(self, norm: nn.GroupNorm, *, silu: bool) -> Callable[[Tensor], Tensor]:
        """Make the function that normalises tiles as `norm` normalises the whole map, and applies SiLU.

        A variance over parts is the mean of their variances and of the squares by which their means differ.
        Once they are known, normalisation by groups is one by channels, which PyTorch computes in one pass.
        """
        counts, means, variances = zip(*self._parts, strict=True)
        shares = torch.tensor(counts, dtype=torch.float64) / sum(counts)
        # (parts, B, groups, channels of a group)
        means, variances = (
            torch.stack(each).unflatten(2, (norm.num_groups, -1)) for each in (means, variances)
        )
        shares = shares.to(means.device).view(-1, 1, 1, 1) / means.shape[3]
        mean = (shares * means).sum((0, 3), keepdim=True)
        variance = (shares * (variances + (means - mean).square())).sum((0, 3))
        moments = [each.repeat_interleave(means.shape[3], dim=1) for each in (mean[0, ..., 0], variance)]

        def normalise(x: Tensor) -> Tensor:
            dtype = _dtype_of_moments(x)
            weight, bias = norm.weight.to(dtype), norm.bias.to(dtype)
            samples = [
                F.batch_norm(each, m.to(dtype), v.to(dtype), weight, bias, eps=norm.eps)
                for each, m, v in zip(x.split(1), *moments, strict=True)
            ]
            y = samples[0] if len(samples) == 1 else torch.cat(samples)
            return F.silu(y, inplace=True) if silu else y

        return normalise


def _dtype_of_moments(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _no_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Running moments that are not used; their dtype is that in which PyTorch computes and returns others."""
    zeros = torch.zeros(x.shape[1], dtype=_dtype_of_moments(x), device=x.device)
    return zeros, zeros.clone()


@dataclass(frozen=True, kw_only=True)
class StoredMap(TiledMap):
    """A map that exists whole.

    Args:
        tensor: (B, C, X, Y, Z), of which `read` hands out views.
        moments: of its channels.
    """

    tensor: Tensor
    moments: Moments


def from_tensor(x: Tensor, *, axis: int, thickness: int, device: torch.device | None = None) -> TiledMap:
    """Hand out tiles of an existing tensor, on `device` if given."""
    return TiledMap(
        read=lambda: (tile.to(device) for tile in x.split(thickness, dim=axis)),
        length=x.shape[axis],
        axis=axis,
        thickness=thickness,
    )


def held(x: Tensor, *, axis: int, thickness: int) -> StoredMap:
    """Measure an existing tensor and hand out its tiles."""
    tiles = from_tensor(x, axis=axis, thickness=thickness)
    return _whole(tiles, x, measure(tiles))


def measure(x: TiledMap) -> Moments:
    """Compute a map for its moments only."""
    moments = Moments()
    deque(map(moments.see, x.read()), maxlen=0)
    return moments


def stored(x: TiledMap, *, into: Tensor | None = None) -> StoredMap:
    """Compute a map now, gather its moments and keep it in one tensor, its channels innermost.

    Args:
        x: the map.
        into: takes the values, on any device; may be the tensor of a map that `x` is computed from, since a
            tile is overwritten only when all that depends on it has read it.
    """
    moments, position = Moments(), 0
    for tile in x.read():
        moments.see(tile)
        if into is None:
            shape = [x.length if axis == x.axis else size for axis, size in enumerate(tile.shape)]
            layout = CHANNELS_LAST[tile.ndim]
            into = torch.empty(shape, dtype=tile.dtype, device=tile.device, memory_format=layout)
        into.narrow(x.axis, position, tile.shape[x.axis]).copy_(tile)
        position += tile.shape[x.axis]
        del tile
    if into is None:
        raise ValueError("the map to store has no planes: give a volume with at least one voxel")
    return _whole(from_tensor(into, axis=x.axis, thickness=x.thickness), into, moments)


def _whole(tiles: TiledMap, x: Tensor, moments: Moments) -> StoredMap:
    return StoredMap(
        read=tiles.read,
        length=tiles.length,
        axis=tiles.axis,
        thickness=tiles.thickness,
        tensor=x,
        moments=moments,
    )


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


def convolved(x: TiledMap, conv: nn.Conv2d | nn.Conv3d, *, end_padding: bool = False) -> TiledMap:
    """Apply a convolution: output plane i takes the input planes i stride - before, ..., + reach.

    Args:
        x: its input.
        conv: of any stride, zero padding and dilation.
        end_padding: pad one zero at the end of each axis in place of the convolution's own padding.
    """
    cut, n_axes = x.axis - 2, len(conv.kernel_size)
    padding = [int(width) for width in conv.padding]
    before, after = (0, 1) if end_padding else (padding[cut], padding[cut])
    stride, reach = conv.stride[cut], conv.dilation[cut] * (conv.kernel_size[cut] - 1)
    length = (x.length + before + after - reach - 1) // stride + 1
    ranges = [
        (low * stride - before, (high - 1) * stride - before + reach + 1)
        for low, high in _ranges(length, x.thickness)
    ]
    padding[cut] = 0
    ends = [width for axis in reversed(range(n_axes)) for width in (0, int(axis != cut))]

    def run(window: Tensor) -> Tensor:
        return _convolve(F.pad(window, ends) if end_padding else window, conv, padding)

    return x.then(lambda: map(run, _windows(x, ranges)), length=length)


def _convolve(window: Tensor, conv: nn.Conv2d | nn.Conv3d, padding: list[int]) -> Tensor:
    """Convolve with another padding than the layer's own, the fastest way for thin tiles too."""

    def compute(window: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if not Rules.use_onednn(window, weight):
            return CONVOLVE[window.ndim](window, weight, bias, conv.stride, padding, conv.dilation)
        dtype = compute_dtype(window)
        weight, bias = weight.to(dtype), None if bias is None else bias.to(dtype)
        window = window.to(dtype)
        return torch.mkldnn_convolution(window, weight, bias, padding, conv.stride, conv.dilation, 1)

    return in_native_dtype(compute, window, conv.weight, conv.bias)


def convolved_transposed(
    x: TiledMap,
    weight: Tensor,
    bias: Tensor | None,
    *,
    stride: int,
    padding: int,
    output_padding: int = 0,
    dilation: int = 1,
) -> TiledMap:
    """Apply a transposed convolution: output plane o takes input planes i with o = i stride - padding + k.

    Args:
        x: its input.
        weight: (in, out, k, k, k).
        bias: (out,).
        stride: of all axes, like the arguments below.
        padding: planes that are cut from both ends of the full result.
        output_padding: planes added at the end.
        dilation: k in the formula above is a multiple of it.
    """
    cut, n_axes = x.axis - 2, weight.ndim - 2
    reach = dilation * (weight.shape[2 + cut] - 1)
    length = (x.length - 1) * stride - 2 * padding + reach + output_padding + 1
    outputs = list(_ranges(length, x.thickness))
    inputs = [_contributors(low, high, stride=stride, padding=padding, reach=reach) for low, high in outputs]
    others = [0 if axis == cut else output_padding for axis in range(n_axes)]

    def convolve(window: Tensor, paddings: list[int]) -> Tensor:
        def compute(window: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            layer = CONVOLVE_TRANSPOSED[window.ndim]
            return layer(window, weight, bias, stride, paddings, others, 1, dilation)

        return in_native_dtype(compute, window, weight, bias)

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


def _contributors(low: int, high: int, *, stride: int, padding: int, reach: int) -> tuple[int, int]:
    """The input planes [start, stop) on which the output planes [low, high) depend.

    A stride beyond the kernel leaves output planes that no input reaches; the range then takes in the inputs
    before and after them, so that its result covers them too.
    """
    first = min((low + padding) // stride, -((reach - low - padding) // stride))
    last = max((high - 1 + padding) // stride, -((reach - high + 1 - padding) // stride))
    return first, last + 1
