"""A residual block in few passes over memory; its equation stands in `ResidualBlock.forward`."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from medldm.networks.kernels import dispatch
from medldm.networks.kernels.convolution import double_and_convolve
from medldm.networks.kernels.fused_norm_conv import normalise, normalise_and_convolve
from medldm.networks.kernels.tiled_maps import from_stored
from medldm.networks.kernels.tiled_residual import run_residual


def may_run_residual(block: Any) -> bool:
    """Whether a `ResidualBlock` has only layers that may be passed by."""
    layers = block.norm1, block.conv1, block.norm2, block.conv2
    return dispatch.may_fuse(*layers) and dispatch.may_fuse(block.shortcut, also=(nn.Identity,))


def compute_residual(x: Tensor, block: Any, time: Tensor | None) -> Tensor:
    """Compute a `ResidualBlock` of (B, in, X, Y, Z), to which `time` (B, out, 1, 1, 1) is added inside."""
    if time is None and block.resample is None and dispatch.run_in_tiles(x, *block.parameters()):
        x = dispatch.channels_last(x)
        tiles = from_stored(x, axis=2, thickness=dispatch.planes_of_tile(x))
        return run_residual(tiles, block).tensor
    if block.resample is None:
        h = normalise_and_convolve(x, block.norm1, block.conv1, silu=True)
    else:
        h, x = normalise(x, block.norm1, silu=True), block.change_size(x)
        up = block.resample == "up"
        h = double_and_convolve(h, block.conv1) if up else block.conv1(block.change_size(h))
    if time is not None:
        h = _add(h, time)
    return _add(normalise_and_convolve(h, block.norm2, block.conv2, silu=True), block.shortcut(x))


def _add(h: Tensor, x: Tensor) -> Tensor:
    """Add `x` to the fresh result `h` of a layer, in its memory if they have the same dtype."""
    return h.add_(x) if h.dtype == x.dtype else h + x
