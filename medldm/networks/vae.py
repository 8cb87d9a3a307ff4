"""The variational autoencoder of the first stage.

Source: Rombach et al. 2022, Section 3.1 and Appendix G; Kingma and Welling 2014.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from medldm.networks.blocks import conv, crop_to, pad_to_multiple
from medldm.networks.config_checks import check_shape
from medldm.networks.encoder_decoder import AutoencoderConfig, Decoder, Encoder
from medldm.networks.posterior import AutoencoderOutput, DiagonalGaussian
from medldm.runtime.distributed import BatchShard, equal_shard

FIRST_LOGVAR = -4.0
"""Bias of the posterior's log-variance at the start of a training: a standard deviation of about 0.14."""


@dataclass(kw_only=True)
class VAEConfig(AutoencoderConfig):
    """Describe a VAE; the fields are those of its trunk.

    Example:
        >>> VAEConfig(down_channels=[64, 128, 256, 512], latent_channels=4, n_groups=32).downsampling
        8
    """


class VAE(nn.Module):
    """Encode volumes to a Gaussian over a small latent grid and decode them.

    Args:
        config: of the network, or a mapping of its fields; None for the defaults. A copy is kept.
        **options: fields to set.

    Example:
        >>> vae = VAE(VAEConfig(down_channels=[8, 16], n_groups=4))
        >>> output = vae(torch.zeros(1, 1, 15, 16, 17))
        >>> output.reconstruction.shape
        torch.Size([1, 1, 15, 16, 17])
    """

    def __init__(self, config: VAEConfig | Mapping[str, Any] | None = None, **options: Any) -> None:
        super().__init__()
        self.config = config = VAEConfig.coerce(config, **options)
        channels, dims = config.latent_channels, config.spatial_dims
        self.encoder = Encoder(config)
        self.to_moments = conv(channels, 2 * channels, spatial_dims=dims, kernel_size=1)
        # With a spread near 1 the first steps would have to learn through noise that drowns the mean.
        if self.to_moments.bias is not None:
            nn.init.constant_(self.to_moments.bias[channels:], FIRST_LOGVAR)
        self.from_latents = conv(channels, channels, spatial_dims=dims, kernel_size=1)
        self.decoder = Decoder(config)

    @property
    def downsampling(self) -> int:
        """How many voxels of an axis become one latent voxel."""
        return self.config.downsampling

    @property
    def latent_channels(self) -> int:
        """Channels of the latent grid."""
        return self.config.latent_channels

    def encode(self, volume: Tensor) -> DiagonalGaussian:
        """Encode volumes.

        Args:
            volume: (B, in_channels, X, Y, Z); sizes that are no multiple of the downsampling are padded at
                their end with the edge voxels.

        Returns:
            The posterior over (B, latent_channels, ceil(X/f), ceil(Y/f), ceil(Z/f)).
        """
        config = self.config
        check_shape("VAE: volume has", volume, channels=config.in_channels, spatial_dims=config.spatial_dims)
        h = self.encoder(pad_to_multiple(volume, self.downsampling))
        mean, logvar = self.to_moments(h).contiguous().chunk(2, dim=1)
        return DiagonalGaussian(mean, logvar)

    def encode_moments(self, volume: Tensor) -> tuple[Tensor, Tensor]:
        """Encode volumes to mean and standard deviation of the posterior."""
        posterior = self.encode(volume)
        return posterior.mean, posterior.std

    def decode(self, latents: Tensor) -> Tensor:
        """Decode latents (B, latent_channels, x, y, z) to volumes (B, out_channels, x f, y f, z f)."""
        config = self.config
        check_shape(
            "VAE: latents have", latents, channels=config.latent_channels, spatial_dims=config.spatial_dims
        )
        return self.decoder(self.from_latents(latents))

    def forward(
        self, volume: Tensor, *, generator: torch.Generator | None = None, shard: BatchShard | None = None
    ) -> AutoencoderOutput:
        """Encode, sample the posterior and decode.

        Args:
            volume: (B, in_channels, X, Y, Z).
            generator: of the posterior's noise.
            shard: the rows of a training's batch that `volume` is; None for as many rows in every process.

        Returns:
            The reconstruction; as regularisation and as metric "kl" the divergence in nats per input voxel,
            mean over the batch.
        """
        posterior = self.encode(volume)
        shard = shard or equal_shard(len(volume))
        latents = posterior.sample(generator, shard=shard)
        reconstruction = crop_to(self.decode(latents), volume.shape[2:])
        kl = posterior.kl().mean() / math.prod(volume.shape[2:])
        return AutoencoderOutput(reconstruction, kl, {"kl": kl.detach()})
