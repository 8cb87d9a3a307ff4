"""Feature maps that are read, computed and stored tile by tile along one axis.

A tile is a number of consecutive planes. A `TiledMap` hands out its tiles one after the other; operations on
it are lazy and pull the planes they need from the map below, so that a chain of convolutions holds a few
planes of each map. What must be known whole before the next layer can start is written to a tensor by
`stored`, which gathers its moments on the way.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}

_PART = 2**14
"""About as many voxels have their moments taken in float32 at a time."""


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


def from_stored(x: Tensor, *, axis: int, thickness: int) -> StoredMap:
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
    return StoredMap(**vars(tiles), tensor=x, moments=moments)


def as_stored(x: TiledMap) -> StoredMap:
    """Return a map that exists whole, computed now if it did not."""
    return x if isinstance(x, StoredMap) else stored(x)
