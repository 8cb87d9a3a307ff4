"""Blocks shared by the autoencoders and the denoiser: residual block, resampling, padding.

Everything is written for 2 or 3 spatial dimensions, (B, C, X, Y[, Z]).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from medldm.networks.dropout import SeededDropout
from medldm.networks.kernels import dispatch
from medldm.networks.kernels.convolution import double_and_convolve
from medldm.networks.kernels.dispatch import fusable
from medldm.networks.kernels.residual import compute_residual, may_run_residual
from medldm.networks.layers import CONVOLUTIONS, TRANSPOSED_CONVOLUTIONS, Norm, conv, zero_init

Direction: TypeAlias = Literal["up", "down"]


def run_block(block: nn.Module, *inputs: Any, checkpointing: bool) -> Any:
    """Run a block; with `checkpointing`, keep only its inputs and recompute the rest in the backward pass.

    Source: Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost".
    """
    if checkpointing and torch.is_grad_enabled():
        return checkpoint(block, *inputs, use_reentrant=False, preserve_rng_state=False)
    return block(*inputs)


@fusable
class ResidualBlock(nn.Module):
    """Two convolutions with pre-activation around a shortcut, optionally told the time and resampling by 2.

    y = shortcut(x) + conv2(dropout(silu(norm2(conv1(silu(norm1(x))) + W silu(embedding)))))

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        n_groups: groups of the normalisations; divides both channel numbers.
        norm_eps: added to the variance.
        spatial_dims: 2 or 3.
        embedding_dim: width of the time embedding; None for a block without one.
        resample: "up" or "down" doubles or halves the size, between norm1 and conv1 and on the shortcut.
        dropout: before the second convolution; None for none.

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
        dropout: SeededDropout | None = None,
    ) -> None:
        super().__init__()
        self.resample = resample
        self.dropout = dropout
        self.norm1 = Norm(n_groups, in_channels, eps=norm_eps)
        self.conv1 = conv(in_channels, out_channels, spatial_dims=spatial_dims)
        self.norm2 = Norm(n_groups, out_channels, eps=norm_eps)
        self.conv2 = zero_init(conv(out_channels, out_channels, spatial_dims=spatial_dims))
        self.shortcut: nn.Module = nn.Identity()
        if in_channels != out_channels:
            self.shortcut = conv(in_channels, out_channels, spatial_dims=spatial_dims, kernel_size=1)
        self.time_projection: nn.Linear | None = None
        if embedding_dim is not None:
            self.time_projection = nn.Linear(embedding_dim, out_channels)

    def forward(self, x: Tensor, embedding: Tensor | None = None) -> Tensor:
        """Transform (B, in, X, Y, Z), told the embedding (B, embedding_dim), to (B, out, X', Y', Z')."""
        time = None if self.time_projection is None else self._project(embedding, n_axes=x.ndim - 2)
        if may_run_residual(self):
            return compute_residual(x, self, time)
        x, h = self.change_size(x), self.conv1(self.change_size(F.silu(self.norm1(x))))
        h = h if time is None else h + time
        h = F.silu(self.norm2(h))
        return self.shortcut(x) + self.conv2(h if self.dropout is None else self.dropout(h))

    @property
    def drops(self) -> bool:
        """Whether values are dropped now: in a training of a network with dropout."""
        return self.dropout is not None and self.dropout.training

    def change_size(self, x: Tensor) -> Tensor:
        """Double or halve the size, if the block does."""
        return x if self.resample is None else resize_by_two(x, self.resample)

    def _project(self, embedding: Tensor | None, *, n_axes: int) -> Tensor:
        """Project the embedding to (B, out, 1, 1, 1)."""
        if embedding is None or self.time_projection is None:
            raise ValueError("this residual block was made with an embedding_dim: pass the time embedding")
        return self.time_projection(F.silu(embedding)).unflatten(1, (-1, *[1] * n_axes))


def resize_by_two(x: Tensor, direction: Direction) -> Tensor:
    """Double the size by repetition or halve it by averaging, without weights."""
    if direction == "up":
        return F.interpolate(x, scale_factor=2.0, mode="nearest")
    return F.avg_pool3d(x, 2) if x.ndim == 5 else F.avg_pool2d(x, 2)


@fusable
class Downsample(nn.Module):
    """Halve even sizes by a strided convolution.

    Args:
        channels: of the input and of the output.
        strides: 2 for each axis that is halved, 1 for the others.
        asymmetric: pad one zero at the end of each axis (autoencoders of Rombach et al. 2022) in place of one
            at both ends (denoisers).
    """

    def __init__(self, channels: int, *, strides: Sequence[int], asymmetric: bool) -> None:
        super().__init__()
        # One zero at the end of the axes that are halved, the last axis first, as F.pad has them.
        self.end_padding: tuple[int, ...] | None = None
        padding = (1,) * len(strides)
        if asymmetric:
            self.end_padding = tuple(width for stride in strides[::-1] for width in (0, stride - 1))
            padding = tuple(2 - stride for stride in strides)
        layer: Any = CONVOLUTIONS[len(strides)]
        self.conv = layer(channels, channels, 3, stride=tuple(strides), padding=padding)

    def forward(self, x: Tensor, embedding: Tensor | None = None) -> Tensor:
        """Map (B, C, X, Y, Z) to half the size; an embedding is not looked at."""
        return self.conv(x if self.end_padding is None else F.pad(x, self.end_padding))


@fusable
class Upsample(nn.Module):
    """Double the size: nearest neighbours and a convolution, (B, C, X, Y, Z) -> (B, C, 2X, 2Y, 2Z).

    Args:
        channels: of the input and of the output.
        strides: 2 for each axis that is doubled, 1 for the others.
    """

    def __init__(self, channels: int, *, strides: Sequence[int]) -> None:
        super().__init__()
        self.strides = tuple(strides)
        self.conv = conv(channels, channels, spatial_dims=len(strides))

    def forward(self, x: Tensor, embedding: Tensor | None = None) -> Tensor:
        """Repeat each voxel, then convolve; an embedding is not looked at."""
        if dispatch.may_fuse(self.conv) and min(self.strides) == 2:
            return double_and_convolve(x, self.conv)
        return self.conv(F.interpolate(x, scale_factor=[float(n) for n in self.strides], mode="nearest"))


@fusable
class LinearUpsample(nn.Module):
    """Double the size: linear interpolation between voxels and a convolution, as MAISI's autoencoder does.

    Along an axis, out[2i] = (x[i - 1] + 3 x[i]) / 4 and out[2i + 1] = (3 x[i] + x[i + 1]) / 4, where the edge
    voxels are repeated.

    Args:
        channels: of the input and of the output.
        strides: 2 for each axis that is doubled, 1 for the others.
    """

    def __init__(self, channels: int, *, strides: Sequence[int]) -> None:
        super().__init__()
        self.strides = tuple(strides)
        self.conv = conv(channels, channels, spatial_dims=len(strides))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, X, Y, Z) to (B, C, 2X, 2Y, 2Z)."""
        return self.conv(interpolate_linearly(x, self.strides))


def interpolate_linearly(x: Tensor, strides: Sequence[int]) -> Tensor:
    """Double (B, C, X, Y[, Z]) along the axes of stride 2, linearly between the centres of its voxels."""
    mode = "trilinear" if x.ndim == 5 else "bilinear"
    return F.interpolate(x, scale_factor=[float(n) for n in strides], mode=mode)


@fusable
class TransposedUpsample(nn.Module):
    """Double the size by a transposed convolution whose kernel is its stride: 2, or 1 for an axis to keep."""

    def __init__(self, channels: int, *, strides: Sequence[int]) -> None:
        super().__init__()
        kernel = tuple(strides)
        layer: Any = TRANSPOSED_CONVOLUTIONS[len(kernel)]
        self.conv = layer(channels, channels, kernel, stride=kernel)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, X, Y, Z) to (B, C, 2X, 2Y, 2Z)."""
        return self.conv(x)


def pad_to_multiple(x: Tensor, multiple: int | Sequence[int]) -> Tensor:
    """Pad (B, C, X, Y, Z) at the end of each spatial axis to a multiple, repeating the edge voxels.

    Args:
        x: to pad.
        multiple: of all axes, or one for each.
    """
    multiples = (multiple,) * (x.ndim - 2) if isinstance(multiple, int) else multiple
    missing = [-size % each for size, each in zip(x.shape[2:], multiples, strict=True)]
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
