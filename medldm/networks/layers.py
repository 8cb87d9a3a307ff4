"""PyTorch's layers, computed the fastest way that is equal."""

from __future__ import annotations

from torch import Tensor, nn

from medldm.networks.kernels.cached_weights import clear_cached_weight
from medldm.networks.kernels.convolution import convolve, convolve_transposed
from medldm.networks.kernels.dispatch import fusable
from medldm.networks.kernels.fused_norm_conv import normalise
from medldm.networks.kernels.products import project


@fusable
class Convolution(nn.Conv3d):
    """A 3D convolution that is computed the fastest way that is equal."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in, X, Y, Z) to (B, out, X', Y', Z')."""
        return convolve(x, self)

    def train(self, mode: bool = True) -> Convolution:
        """Set the mode, and let go what was derived from the weight."""
        clear_cached_weight(self)
        return super().train(mode)


@fusable
class PlaneConvolution(nn.Conv2d):
    """A 2D convolution that is computed the fastest way that is equal."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in, X, Y) to (B, out, X', Y')."""
        return convolve(x, self)


@fusable
class TransposedConvolution(nn.ConvTranspose3d):
    """A transposed 3D convolution that is computed the fastest way that is equal."""

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Map (B, in, X, Y, Z) to (B, out, X', Y', Z')."""
        return convolve_transposed(x, self)


@fusable
class PlaneTransposedConvolution(nn.ConvTranspose2d):
    """A transposed 2D convolution that is computed the fastest way that is equal."""

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Map (B, in, X, Y) to (B, out, X', Y')."""
        return convolve_transposed(x, self)


@fusable
class Linear(nn.Linear):
    """A linear layer that is computed the fastest way that is equal."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in) to (..., out)."""
        return project(x, self)


@fusable
class Norm(nn.GroupNorm):
    """Group normalisation, (B, C, ...) -> (B, C, ...)."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise."""
        return normalise(x, self, silu=False)


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
