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
from torch import Tensor

from medldm.networks.kernels.moments import Moments

CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


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
    return StoredMap(
        read=tiles.read,
        length=tiles.length,
        axis=tiles.axis,
        thickness=tiles.thickness,
        tensor=x,
        moments=moments,
    )


def as_stored(x: TiledMap) -> StoredMap:
    """Return a map that exists whole, computed now if it did not."""
    return x if isinstance(x, StoredMap) else stored(x)
