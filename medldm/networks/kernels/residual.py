"""A residual block in few passes over memory, or tile by tile; its equation is in `ResidualBlock.forward`.

Tile by tile it stores one map besides its input and output. Streaming runs all of a network's blocks so; on
CPUs inference runs those on large maps so, where the block's plain form would hold its normalised input and
the inner maps whole.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn

from medldm.networks.kernels import dispatch, tiled_maps
from medldm.networks.kernels.convolution import double_and_convolve
from medldm.networks.kernels.fused_norm_conv import normalise, normalise_and_convolve
from medldm.networks.kernels.tiled_convolution import convolved
from medldm.networks.kernels.tiled_maps import StoredMap, TiledMap


def may_run_residual(block: Any) -> bool:
    """Whether a `ResidualBlock` has only layers that may be passed by."""
    layers = block.norm1, block.conv1, block.norm2, block.conv2
    return dispatch.may_fuse(*layers) and dispatch.may_fuse(block.shortcut, also=(nn.Identity,))


def compute_residual(x: Tensor, block: Any, time: Tensor | None) -> Tensor:
    """Compute a `ResidualBlock` of (B, in, X, Y, Z), to which `time` (B, out, 1, 1, 1) is added inside."""
    runs_whole = time is not None or block.resample is not None or block.drops
    if not runs_whole and dispatch.run_in_tiles(x, *block.parameters()):
        x = dispatch.channels_last(x)
        tiles = tiled_maps.from_stored(x, axis=2, thickness=dispatch.planes_of_tile(x))
        return run_residual(tiles, block).tensor
    if block.resample is None:
        h = normalise_and_convolve(x, block.norm1, block.conv1, silu=True)
    else:
        h, x = normalise(x, block.norm1, silu=True), block.change_size(x)
        up = block.resample == "up"
        h = double_and_convolve(h, block.conv1) if up else block.conv1(block.change_size(h))
    if time is not None:
        h = _add(h, time)
    if block.drops:
        h = block.conv2(block.dropout(normalise(h, block.norm2, silu=True)))
        return _add(h, block.shortcut(x))
    return _add(normalise_and_convolve(h, block.norm2, block.conv2, silu=True), block.shortcut(x))


def _add(h: Tensor, x: Tensor) -> Tensor:
    """Add `x` to the fresh result `h` of a layer, in its memory if they have the same dtype."""
    return h.add_(x) if h.dtype == x.dtype else h + x


def run_residual(x: TiledMap, block: Any, *, recompute: bool = False) -> StoredMap:
    """y = shortcut(x) + conv2(silu(norm2(h))), h = conv1(silu(norm1(x))).

    Three readings of x: for its moments, for h and for the shortcut. The first one stores x, or shortcut(x)
    where that is narrower and x not stored yet. The second one stores h, and y takes its place; with
    `recompute` it gathers only the moments of h, the third one computes h again and y takes the place of x.

    Args:
        x: the input, (B, in, X, Y, Z).
        block: a `ResidualBlock` that is told no time and does not resample.
        recompute: store one map in place of two and run the first convolution twice; x may be overwritten.
    """
    stores_shortcut = block.conv1.out_channels < block.conv1.in_channels and not isinstance(x, StoredMap)

    def first_half(x: TiledMap) -> TiledMap:
        return convolved(x.map(of_x.normaliser(block.norm1, silu=True)), block.conv1)

    def second_half(h: TiledMap, of_h: tiled_maps.Moments) -> TiledMap:
        return convolved(h.map(of_h.normaliser(block.norm2, silu=True)), block.conv2)

    place = None
    if not stores_shortcut:
        x = tiled_maps.as_stored(x)
        of_x, shortcut = x.moments, x.map(block.shortcut)
        place = x.tensor if isinstance(block.shortcut, nn.Identity) else None
    elif recompute:
        of_x = tiled_maps.measure(x)
    else:
        of_x = tiled_maps.Moments()
        shortcut = tiled_maps.stored(x.map(of_x.see).map(block.shortcut))
    if recompute:
        of_h = tiled_maps.measure(first_half(x))
        y = add_to_branch(x, lambda x: second_half(first_half(x), of_h), block.shortcut)
        return tiled_maps.stored(y, into=place)
    h = tiled_maps.stored(first_half(x))
    branch = second_half(h, h.moments)
    return tiled_maps.stored(
        branch.then(lambda: map(Tensor.add_, branch.read(), shortcut.read())), into=h.tensor
    )


def add_to_branch(
    x: TiledMap, branch: Callable[[TiledMap], TiledMap], shortcut: Callable[[Tensor], Tensor]
) -> TiledMap:
    """branch(x) + shortcut(x), of which x is read once; its tiles wait for the branch, which lags behind."""

    def read() -> Iterator[Tensor]:
        waiting: deque[Tensor] = deque()

        def keep(tile: Tensor) -> Tensor:
            waiting.append(tile)
            return tile

        return map(lambda y: y.add_(shortcut(waiting.popleft())), branch(x.map(keep)).read())

    return x.then(read)
