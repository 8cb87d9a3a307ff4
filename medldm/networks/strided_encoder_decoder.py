"""The strided encoder and decoder of a VQ-VAE: ReLU residual units without normalisation.

Source: Tudosiu et al. 2022, "Morphology-Preserving Autoregressive 3D Generative Modelling of the Brain"; van
den Oord et al. 2017, Section 4.1.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from medldm.networks.blocks import run_block
from medldm.networks.kernels.dispatch import fusable
from medldm.networks.layers import CONVOLUTIONS, TRANSPOSED_CONVOLUTIONS, conv
from medldm.networks.vqvae_config import ACTIVATIONS, VQVAEConfig


@fusable
class ResidualUnit(nn.Module):
    """relu(x + conv2(activation(conv1(x)))), with the activation of that name in `ACTIVATIONS`."""

    def __init__(self, channels: int, hidden_channels: int, *, activation: str, spatial_dims: int) -> None:
        super().__init__()
        self.conv1 = conv(channels, hidden_channels, spatial_dims=spatial_dims)
        self.activation = ACTIVATIONS[activation]()
        self.conv2 = conv(hidden_channels, channels, spatial_dims=spatial_dims)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, X, Y, Z) to the same shape."""
        return F.relu(x + self.conv2(self.activation(self.conv1(x))))


@fusable
class StridedEncoder(nn.Module):
    """Bring a volume to the latent grid: a strided convolution and residual units at each level."""

    def __init__(self, config: VQVAEConfig) -> None:
        super().__init__()
        self.checkpointing = config.checkpointing
        layer, channels = CONVOLUTIONS[config.spatial_dims], config.down_channels
        self.levels = nn.ModuleList()
        for i, (n_in, n_out) in enumerate(zip((config.in_channels, *channels), channels, strict=False)):
            stride, kernel, dilation, padding = config.down_rows[i]
            down = layer(n_in, n_out, kernel, stride=stride, padding=padding, dilation=dilation)
            activation = ACTIVATIONS[config.activation]()
            self.levels.append(nn.Sequential(down, activation, *make_units(config, i)))
        self.conv_out = conv(channels[-1], config.latent_channels, spatial_dims=config.spatial_dims)

    def forward(self, volume: Tensor) -> Tensor:
        """Map (B, in, X, Y, Z) to (B, latent, X/f, Y/f, Z/f)."""
        h = volume
        for level in self.levels:
            h = run_block(level, h, checkpointing=self.checkpointing)
        return self.conv_out(h).contiguous()


@fusable
class StridedDecoder(nn.Module):
    """Bring a latent grid back to a volume: residual units and a transposed convolution at each level."""

    def __init__(self, config: VQVAEConfig) -> None:
        super().__init__()
        self.checkpointing = config.checkpointing
        layer, channels = TRANSPOSED_CONVOLUTIONS[config.spatial_dims], config.down_channels[::-1]
        self.conv_in = conv(config.latent_channels, channels[0], spatial_dims=config.spatial_dims)
        self.levels = nn.ModuleList()
        for i, (n_in, n_out) in enumerate(zip(channels, (*channels[1:], config.out_channels), strict=True)):
            stride, kernel, dilation, padding, output_padding = config.up_rows[i]
            up = layer(
                n_in,
                n_out,
                kernel,
                stride=stride,
                padding=padding,
                output_padding=output_padding,
                dilation=dilation,
            )
            is_last = i == len(channels) - 1
            activation = ACTIVATIONS[config.output_activation if is_last else config.activation]()
            units = make_units(config, len(channels) - 1 - i)
            self.levels.append(nn.Sequential(*units, up, activation))

    @property
    def last_layer(self) -> Tensor:
        """Weights of the layer that makes the volume."""
        *_, up, _ = self.levels[-1].children()
        return up.weight  # type: ignore[return-value]

    def forward(self, latents: Tensor) -> Tensor:
        """Map (B, latent, x, y, z) to (B, out, x f, y f, z f)."""
        h = self.conv_in(latents)
        for level in self.levels:
            h = run_block(level, h, checkpointing=self.checkpointing)
        return h.contiguous()


def make_units(config: VQVAEConfig, level: int) -> list[ResidualUnit]:
    """The residual units of a level; level 0 is the finest."""
    return [
        ResidualUnit(
            config.down_channels[level],
            config.hidden_channels[level],
            activation=config.activation,
            spatial_dims=config.spatial_dims,
        )
        for _ in range(config.blocks_of_level(level))
    ]
