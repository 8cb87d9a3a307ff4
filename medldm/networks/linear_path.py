"""The linear path of an autoencoder, around which its networks learn what is left.

    mean of z = A T (x - c) + encoder(s(x)),        x' = c + T^T A^+ z + s^-1(decoder(z))

A are the principal components of blocks (`medldm.networks.block_transform`), divided by their standard
deviations so that latents have unit variance; A^+ is the way back. In the lapped form T turns the voxels on
both sides of block borders (`medldm.networks.lapped_transform`) and c is a constant, in the blocked form T is
the identity and c is 0. T is orthogonal on whole volumes, for it leaves their outer borders alone.

s makes blocks of two voxels on each axis channels (one on an axis that is not compressed), so that the finest
maps have half the size. The last layers of both networks start at zero: an untrained autoencoder is the
linear path, an orthogonal projection.

A is fitted to all blocks of the volumes turned by T, those at outer borders included. Over these the mean
energy lost in a block is therefore exactly the sum of the variances of the components left out.

Kin: Chen et al. 2025, "Deep Compression Autoencoder" (DC-AE), Section 3.2: space-to-channel shortcuts; Li et
al. 2024, "WF-VAE", Section 3: a Haar transform before the network.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from medldm.networks.autoencoder_config import AutoencoderConfig
from medldm.networks.block_transform import (
    BlockMoments,
    BlockTransform,
    cosine_transform,
    depth_to_space,
    space_to_depth,
)
from medldm.networks.blocks import pad_to_multiple
from medldm.networks.lapped_transform import BorderMoments, turn_borders

SMALLEST_SD = 1e-3
"""Least standard deviation that components are divided by, as a share of the first one's."""


def start_at_zero(layer: Any, *, n_channels: int | None = None) -> None:
    """Let the first output channels of a convolution, all if None, start at zero; bias included."""
    for parameter in (layer.weight, layer.bias):
        nn.init.zeros_(parameter.data[:n_channels])


class LinearPath(nn.Module):
    """Encode volumes to the first principal components of their blocks, and back.

    Until `set_transform` it is the cosine transform of blocks. Nothing of it is trained.

    Args:
        config: of the autoencoder.
    """

    mean: Tensor
    basis: Tensor
    variances: Tensor
    is_fitted: Tensor
    angles: Tensor | None
    level: Tensor | None

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.channels, self.n_components = config.in_channels, config.latent_channels
        self.factors = config.downsampling or ()
        self.halves = config.halves
        transform = cosine_transform(self.channels, self.factors)
        self.register_buffer("mean", transform.mean.float())
        self.register_buffer("basis", transform.basis[: self.n_components].float())
        self.register_buffer("variances", transform.variances[: self.n_components].float())
        self.register_buffer("is_fitted", torch.zeros((), dtype=torch.bool))
        self.register_buffer("angles", torch.zeros(len(self.factors)) if config.is_lapped else None)
        self.register_buffer("level", torch.zeros(self.channels) if config.is_lapped else None)

    def set_transform(self, transform: BlockTransform) -> None:
        """Take over the principal components of a cohort."""
        self.mean.copy_(transform.mean)
        self.basis.copy_(transform.basis[: self.n_components])
        self.variances.copy_(transform.variances[: self.n_components])
        self.is_fitted.fill_(True)

    def make_moments(self) -> BlockMoments:
        """Return what gathers the moments for `set_transform`, see `count`."""
        return BlockMoments(self.channels, self.factors)

    def count(self, volumes: Tensor, moments: BlockMoments) -> None:
        """Add volumes (B, C, X, Y, Z) of any size to moments, padded and turned as for encoding."""
        moments.add(self._turn(pad_to_multiple(volumes, self.factors)))

    def make_border_moments(self) -> BorderMoments:
        """Return what gathers the moments for `set_borders`, see `count_borders`."""
        return BorderMoments(self.channels, self.factors)

    def count_borders(self, volumes: Tensor, moments: BorderMoments) -> None:
        """Add volumes (B, C, X, Y, Z) of any size to moments, padded as for encoding."""
        moments.add(pad_to_multiple(volumes, self.factors))

    def set_borders(self, moments: BorderMoments) -> None:
        """Choose the angles of the lapped form; moments for `set_transform` are counted after it."""
        if self.angles is not None and self.level is not None:
            self.angles.copy_(moments.fit(self.n_components))
            self.level.copy_(moments.fit_level())

    def halo(self, axis: int) -> int:
        """Return the latents on each side of a slab that it depends on, along an axis of (B, C, X, Y, Z)."""
        return int(self.angles is not None and self.factors[axis - 2] > 1)

    @property
    def deviations(self) -> Tensor:
        """What components are divided by, (latent_channels,): 1 where nothing varies at all."""
        sd = self.variances.sqrt()
        sd = sd.clamp(min=float(SMALLEST_SD) * sd[0])
        return torch.where(sd > 0, sd, torch.ones_like(sd))

    def encode(self, x: Tensor) -> Tensor:
        """Return the latents (B, latent_channels, x, y, z) of padded volumes (B, C, X, Y, Z)."""
        with torch.autocast(x.device.type, enabled=False):
            blocks = space_to_depth(self._turn(x.to(self.basis.dtype)), self.factors)
            weight = self.basis / self.deviations[:, None]
            latents = weight @ blocks.flatten(2) - (weight @ self.mean)[:, None]
            return latents.unflatten(2, blocks.shape[2:])

    def decode(self, latents: Tensor) -> Tensor:
        """Return volumes (B, C, X, Y, Z) from latents (B, latent_channels, x, y, z)."""
        with torch.autocast(latents.device.type, enabled=False):
            z = latents.to(self.basis.dtype)
            weight = (self.basis * self.deviations[:, None]).mT
            blocks = weight @ z.flatten(2) + self.mean[:, None]
            volume = depth_to_space(blocks.unflatten(2, z.shape[2:]), self.factors)
            del blocks
            return self._turn(volume, is_back=True)

    def _turn(self, x: Tensor, *, is_back: bool = False) -> Tensor:
        """Turn voxels beside block borders, in the lapped form."""
        if self.angles is None:
            return x
        return turn_borders(x, self.factors, angles=self.angles, level=self.level, is_back=is_back)

    def to_half_size(self, x: Tensor) -> Tensor:
        """Return what the encoder beside the path is given: pairs of voxels as channels."""
        return space_to_depth(x, self.halves)

    def to_full_size(self, x: Tensor) -> Tensor:
        """Invert `to_half_size`, for what the decoder beside the path gives."""
        return depth_to_space(x, self.halves)
