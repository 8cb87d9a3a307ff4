"""A convolutional discriminator that judges overlapping patches.

Source: Isola et al. 2017, "Image-to-Image Translation with Conditional Adversarial Networks", Section 3.2.2;
features as in Wang et al. 2018, pix2pixHD, Eq. 4; Miyato et al. 2018 for the spectral norm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from medldm.configs import Config
from medldm.errors import ConfigError
from medldm.networks.layers import conv


@dataclass(kw_only=True)
class PatchDiscriminatorConfig(Config):
    """Describe a patch discriminator.

    Args:
        in_channels: of the volume.
        channels: of the first layer; each further layer doubles them.
        n_layers: layers after the first; all but the last of them halve the size.
        norm: "instance", "batch" or "none". Instance norm treats real and synthetic batches alike; batch norm
            couples the samples of a batch.
        spectral_norm: whether the weights are divided by their largest singular value.
        kernel_size: of all layers.
        out_channels: logits for each patch.
        spatial_dims: 2 or 3.

    Raises:
        ValueError: if a value is outside its range.
    """

    in_channels: int = 1
    channels: int = 32
    n_layers: int = 3
    norm: Literal["instance", "batch", "none"] = "instance"
    spectral_norm: bool = False
    kernel_size: int = 4
    out_channels: int = 1
    spatial_dims: Literal[2, 3] = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("[1, inf)", "in_channels", "channels", "n_layers", "kernel_size", "out_channels")


class PatchLayer(nn.Module):
    """Convolution, norm and leaky ReLU."""

    def __init__(
        self, config: PatchDiscriminatorConfig, n_in: int, n_out: int, *, stride: int, norm: str
    ) -> None:
        super().__init__()
        self.conv = _make_conv(config, n_in, n_out, stride=stride)
        self.norm = _make_norm(norm, n_out, spatial_dims=config.spatial_dims)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in, X, Y, Z) to (B, out, X', Y', Z')."""
        return F.leaky_relu(self.norm(self.conv(x)), 0.2)


class PatchDiscriminator(nn.Module):
    """Tell real from reconstructed patches; the features of all layers are returned for feature matching.

    Args:
        config: of the network, or a mapping of its fields; None for the defaults. A copy is kept.
        **options: fields to set.

    Examples:
        >>> import torch
        >>> discriminator = PatchDiscriminator(PatchDiscriminatorConfig(channels=8, n_layers=2))
        >>> features = discriminator(torch.zeros(1, 1, 32, 32, 32))
        >>> features[-1].shape
        torch.Size([1, 1, 6, 6, 6])
    """

    def __init__(
        self, config: PatchDiscriminatorConfig | Mapping[str, Any] | None = None, **options: Any
    ) -> None:
        super().__init__()
        self.config = config = PatchDiscriminatorConfig.coerce(config, **options)
        width = config.channels
        self.layers = nn.ModuleList([PatchLayer(config, config.in_channels, width, stride=2, norm="none")])
        for i in range(config.n_layers):
            stride = 2 if i < config.n_layers - 1 else 1
            self.layers.append(PatchLayer(config, width, 2 * width, stride=stride, norm=config.norm))
            width *= 2
        self.to_logits = _make_conv(config, width, config.out_channels, stride=1)

    @property
    def min_size(self) -> int:
        """The smallest axis that leaves a feature map for every layer."""
        size = 1
        kernel = self.config.kernel_size
        for stride in (1, 1, *[2] * self.config.n_layers):
            size = (size - 1) * stride + kernel - 2 * half_padding(kernel)
        return size

    def forward(self, volume: Tensor) -> list[Tensor]:
        """Judge volumes (B, in_channels, X, Y, Z).

        Returns:
            The feature maps of all layers, fine to coarse; the last one holds the logits of the patches.

        Raises:
            ConfigError: if an axis is too short for the number of layers.
        """
        if min(volume.shape[2:]) < self.min_size:
            raise ConfigError(
                f"PatchDiscriminator: the volume is {tuple(volume.shape[2:])} voxels, at least "
                f"{self.min_size} per axis are needed for n_layers = {self.config.n_layers}: "
                "take fewer layers or larger volumes"
            )
        features = [volume]
        for layer in (*self.layers, self.to_logits):
            features.append(layer(features[-1]))
        return features[1:]


def fit_discriminator(
    in_channels: int, *, size: Sequence[int], patch_size: Sequence[int] | None = None
) -> PatchDiscriminator:
    """Build a discriminator with as many of its usual three layers as volumes have room for.

    Args:
        in_channels: of the volumes.
        size: of the volumes.
        patch_size: of the patches that are judged in their place; None for whole volumes.

    Examples:
        >>> [len(fit_discriminator(1, size=(n, 64, 64)).layers) - 1 for n in (24, 23, 8)]
        [3, 2, 1]
    """
    shortest = min(size if patch_size is None else patch_size)
    for n_layers in (3, 2):
        discriminator = PatchDiscriminator(in_channels=in_channels, n_layers=n_layers)
        if discriminator.min_size <= shortest:
            return discriminator
    return PatchDiscriminator(in_channels=in_channels, n_layers=1)


def half_padding(kernel_size: int) -> int:
    """Padding that makes a strided layer of an even kernel halve even sizes."""
    return (kernel_size - 1) // 2


def _make_conv(config: PatchDiscriminatorConfig, n_in: int, n_out: int, *, stride: int) -> nn.Module:
    """Make a convolution with weights from N(0, 0.02) as Isola et al. 2017, Appendix 6.2."""
    layer = conv(
        n_in,
        n_out,
        spatial_dims=config.spatial_dims,
        kernel_size=config.kernel_size,
        stride=stride,
        padding=half_padding(config.kernel_size),
    )
    nn.init.normal_(layer.weight, 0.0, 0.02)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return spectral_norm(layer) if config.spectral_norm else layer


def _make_norm(norm: str, channels: int, *, spatial_dims: int) -> nn.Module:
    if norm == "none":
        return nn.Identity()
    layer: type[nn.Module] = getattr(nn, f"{norm.capitalize()}Norm{spatial_dims}d")
    return layer(channels, affine=True)
