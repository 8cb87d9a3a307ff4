"""Blocks shared by the autoencoders and the denoiser: convolution, norm, residual block, resampling, padding.

Everything is written for 2 or 3 spatial dimensions, (B, C, X, Y[, Z]).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from medldm.networks.kernels.dispatch import (
    Rules,
    channels_last,
    convolve,
    convolve_transposed,
    double_and_convolve,
    forget,
    project,
)
from medldm.networks.kernels.fused_norm_conv import normalise, normalise_and_convolve
from medldm.networks.kernels.tiled_maps import held
from medldm.networks.kernels.tiled_residual import run_residual

Direction: TypeAlias = Literal["up", "down"]


class Convolution(nn.Conv3d):
    """A 3D convolution that is computed the fastest way that is equal."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in, X, Y, Z) to (B, out, X', Y', Z')."""
        return convolve(x, self)

    def train(self, mode: bool = True) -> Convolution:
        """Set the mode, and forget what was derived from the weight."""
        forget(self)
        return super().train(mode)


class PlaneConvolution(nn.Conv2d):
    """A 2D convolution that is computed the fastest way that is equal."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in, X, Y) to (B, out, X', Y')."""
        return convolve(x, self)


class TransposedConvolution(nn.ConvTranspose3d):
    """A transposed 3D convolution that is computed the fastest way that is equal."""

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Map (B, in, X, Y, Z) to (B, out, X', Y', Z')."""
        return convolve_transposed(x, self)


class PlaneTransposedConvolution(nn.ConvTranspose2d):
    """A transposed 2D convolution that is computed the fastest way that is equal."""

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Map (B, in, X, Y) to (B, out, X', Y')."""
        return convolve_transposed(x, self)


class Linear(nn.Linear):
    """A linear layer that is computed the fastest way that is equal."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in) to (..., out)."""
        return project(x, self)


CONVOLUTIONS: dict[int, type[nn.Conv2d] | type[nn.Conv3d]] = {2: PlaneConvolution, 3: Convolution}
TRANSPOSED_CONVOLUTIONS: dict[int, type[nn.ConvTranspose2d] | type[nn.ConvTranspose3d]] = {
    2: PlaneTransposedConvolution,
    3: TransposedConvolution,
}


def conv(
    in_channels: int,
    out_channels: int,
    *,
    spatial_dims: int,
    kernel_size: int = 3,
    stride: int = 1,
    padding: int | None = None,
) -> nn.Conv2d | nn.Conv3d:
    """Make a convolution that keeps the size at stride 1: padding is half the kernel unless given."""
    padding = kernel_size // 2 if padding is None else padding
    layer = CONVOLUTIONS[spatial_dims]
    return layer(in_channels, out_channels, kernel_size, stride=stride, padding=padding)


def zero_init(module: nn.Module) -> nn.Module:
    """Set all parameters of `module` to zero, so that its residual branch starts as the identity."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def run_block(block: nn.Module, *inputs: Any, checkpointing: bool) -> Any:
    """Run a block; with `checkpointing`, keep only its inputs and recompute the rest in the backward pass.

    Source: Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost".
    """
    if checkpointing and torch.is_grad_enabled():
        return checkpoint(block, *inputs, use_reentrant=False, preserve_rng_state=False)
    return block(*inputs)


class Norm(nn.GroupNorm):
    """Group normalisation, (B, C, ...) -> (B, C, ...)."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise."""
        return normalise(x, self, silu=False)


class NormActivation(nn.GroupNorm):
    """Group normalisation followed by SiLU, (B, C, ...) -> (B, C, ...)."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise and activate."""
        return normalise(x, self, silu=True)


class ResidualBlock(nn.Module):
    """Two convolutions with pre-activation around a shortcut, optionally told the time and resampling by 2.

    y = shortcut(x) + conv2(silu(norm2(conv1(silu(norm1(x))) + W silu(embedding))))

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        n_groups: groups of the normalisations; divides both channel numbers.
        norm_eps: added to the variance.
        spatial_dims: 2 or 3.
        embedding_dim: width of the time embedding; None for a block without one.
        resample: "up" or "down" doubles or halves the size, between norm1 and conv1 and on the shortcut.

    The second convolution starts at zero, so that every block starts as its shortcut.

    Source: Ho et al. 2020, Appendix B; Dhariwal and Nichol 2021, Section 3 for the resampling form; Zhang et
    al. 2019, "Fixup Initialization", Section 3 for the start.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        n_groups: int,
        norm_eps: float,
        spatial_dims: int,
        embedding_dim: int | None = None,
        resample: Direction | None = None,
    ) -> None:
        super().__init__()
        self.resample = resample
        self.norm1 = NormActivation(n_groups, in_channels, eps=norm_eps)
        self.conv1 = conv(in_channels, out_channels, spatial_dims=spatial_dims)
        self.norm2 = NormActivation(n_groups, out_channels, eps=norm_eps)
        self.conv2 = zero_init(conv(out_channels, out_channels, spatial_dims=spatial_dims))
        self.shortcut: nn.Module = nn.Identity()
        if in_channels != out_channels:
            self.shortcut = conv(in_channels, out_channels, spatial_dims=spatial_dims, kernel_size=1)
        self.time_projection: nn.Linear | None = None
        if embedding_dim is not None:
            self.time_projection = nn.Linear(embedding_dim, out_channels)

    def forward(self, x: Tensor, embedding: Tensor | None = None) -> Tensor:
        """Transform (B, in, X, Y, Z), told the embedding (B, embedding_dim), to (B, out, X', Y', Z')."""
        is_plain = self.time_projection is None and self.resample is None
        if is_plain and Rules.run_in_tiles(x, self.conv1.weight, *self.parameters()):
            tiles = held(channels_last(x), axis=2, thickness=Rules.planes_of_tile(x))
            return run_residual(tiles, self).tensor
        if self.resample is None:
            h = normalise_and_convolve(x, self.norm1, self.conv1, silu=True)
        elif self.resample == "up":
            x, h = resample_by_two(x, "up"), double_and_convolve(self.norm1(x), self.conv1)
        else:
            x, h = resample_by_two(x, "down"), self.conv1(resample_by_two(self.norm1(x), "down"))
        if self.time_projection is not None:
            if embedding is None:
                raise ValueError(
                    "this residual block was made with an embedding_dim: pass the time embedding"
                )
            h = add_to(h, add_spatial_axes(self.time_projection(F.silu(embedding)), h))
        return add_to(normalise_and_convolve(h, self.norm2, self.conv2, silu=True), self.shortcut(x))


def resample_by_two(x: Tensor, direction: Direction) -> Tensor:
    """Double the size by repetition or halve it by averaging, without weights."""
    if direction == "up":
        return F.interpolate(x, scale_factor=2.0, mode="nearest")
    return F.avg_pool3d(x, 2) if x.ndim == 5 else F.avg_pool2d(x, 2)


def add_to(h: Tensor, x: Tensor) -> Tensor:
    """Add `x` to the fresh result `h` of a layer, in its memory if they share the dtype."""
    return h.add_(x) if h.dtype == x.dtype else h + x


def add_spatial_axes(values: Tensor, like: Tensor) -> Tensor:
    """Give (B, C) as many trailing axes of length one as `like` (B, C, X, Y, Z) has."""
    return values.reshape(*values.shape, *[1] * (like.ndim - values.ndim))


class Downsample(nn.Module):
    """Halve even sizes by a strided convolution.

    Args:
        channels: of input and output.
        spatial_dims: 2 or 3.
        asymmetric: pad one zero at the end of each axis (autoencoders of Rombach et al. 2022) in place of one
            at both ends (denoisers).
    """

    def __init__(self, channels: int, *, spatial_dims: int, asymmetric: bool) -> None:
        super().__init__()
        self.end_padding = (0, 1) * spatial_dims if asymmetric else None
        padding = 0 if asymmetric else 1
        self.conv = conv(channels, channels, spatial_dims=spatial_dims, stride=2, padding=padding)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, X, Y, Z) to (B, C, X/2, Y/2, Z/2)."""
        return self.conv(x if self.end_padding is None else F.pad(x, self.end_padding))


class Upsample(nn.Module):
    """Double the size: nearest neighbours and a convolution, (B, C, X, Y, Z) -> (B, C, 2X, 2Y, 2Z).

    Args:
        channels: of input and output.
        spatial_dims: 2 or 3.
    """

    def __init__(self, channels: int, *, spatial_dims: int) -> None:
        super().__init__()
        self.conv = conv(channels, channels, spatial_dims=spatial_dims)

    def forward(self, x: Tensor) -> Tensor:
        """Repeat each voxel, then convolve."""
        return double_and_convolve(x, self.conv)


class TransposedUpsample(nn.Module):
    """Double the size by a transposed convolution of kernel 2 and stride 2.

    Args:
        channels: of input and output.
        spatial_dims: 2 or 3.
    """

    def __init__(self, channels: int, *, spatial_dims: int) -> None:
        super().__init__()
        self.conv = TRANSPOSED_CONVOLUTIONS[spatial_dims](channels, channels, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, X, Y, Z) to (B, C, 2X, 2Y, 2Z)."""
        return self.conv(x)


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Pad (B, C, X, Y, Z) at the end of each spatial axis to a multiple, repeating the edge voxels."""
    missing = [-size % multiple for size in x.shape[2:]]
    if not any(missing):
        return x
    padding = [amount for size in reversed(missing) for amount in (0, size)]
    return F.pad(x, padding, mode="replicate")


def crop_to(x: Tensor, size: Sequence[int]) -> Tensor:
    """Crop (B, C, X', Y', Z') to the first `size` voxels of each axis; the inverse of `pad_to_multiple`."""
    if tuple(x.shape[2:]) == tuple(size):
        return x
    for axis, length in enumerate(size, start=2):
        x = x.narrow(axis, 0, length)
    return x
