"""The variational autoencoder of the first stage.

Source: Rombach et al. 2022, Section 3.1 and Appendix G; Kingma and Welling 2014.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from medldm.networks.autoencoder import Autoencoder, Bottleneck
from medldm.networks.autoencoder_config import AutoencoderConfig
from medldm.networks.encoder_decoder import Decoder, Encoder
from medldm.networks.layers import conv
from medldm.networks.linear_path import LinearPath, start_at_zero
from medldm.runtime.batch_shard import BatchShard, whole_batch

MIN_LOGVAR, MAX_LOGVAR = -30.0, 20.0
FIRST_LOGVAR = -4.0
"""Bias of the posterior's log-variance at the start of a training: a standard deviation of about 0.14."""


@dataclass(kw_only=True)
class VAEConfig(AutoencoderConfig):
    """Describe a VAE; the fields are those of its encoder and decoder.

    Examples:
        >>> VAEConfig(down_channels=[64, 128, 256, 512], latent_channels=4, n_groups=32).downsampling
        (8, 8, 8)
    """


class DiagonalGaussian:
    """A Gaussian with independent components, N(mean, exp(logvar)), in at least float32.

    Args:
        mean: (B, C, x, y, z).
        logvar: of the same shape; clamped to [-30, 20] so that neither the deviation nor its inverse
            overflows.

    Examples:
        >>> posterior = DiagonalGaussian(torch.zeros(2, 4, 8, 8, 8), torch.zeros(2, 4, 8, 8, 8))
        >>> posterior.kl()
        tensor([0., 0.])

    Source: Kingma and Welling 2014, "Auto-Encoding Variational Bayes", Appendix B.
    """

    def __init__(self, mean: Tensor, logvar: Tensor) -> None:
        dtype = torch.promote_types(mean.dtype, torch.float32)
        self.mean = mean.to(dtype)
        self.logvar = logvar.to(dtype).clamp(MIN_LOGVAR, MAX_LOGVAR)
        self.std = torch.exp(self.logvar / 2)

    def sample(self, generator: torch.Generator | None = None, *, shard: BatchShard | None = None) -> Tensor:
        """Draw mean + std * noise; the noise is drawn on the generator's device.

        Args:
            generator: of the noise.
            shard: the rows of a batch that the posterior is of; None for a batch of its own.
        """
        shard = shard or whole_batch(len(self.mean))
        return self.mean + self.std * shard.draw_normal(self.mean, generator=generator)

    def kl(self) -> Tensor:
        """Compute the divergence from N(0, 1), (B,) in nats, summed over channels and voxels."""
        divergence = 0.5 * (self.mean.square() + self.logvar.exp() - 1 - self.logvar)
        return divergence.flatten(1).sum(1)


class VAE(Autoencoder):
    """Encode volumes to a Gaussian over a small latent grid and decode them.

    The regularisation of a forward pass, and its metric "kl", is the divergence from N(0, 1) in nats per
    input voxel, mean over the batch.

    Args:
        config: of the network, or a mapping of its fields; None for the defaults. A copy is kept.
        **options: fields to set.

    Examples:
        >>> vae = VAE(in_channels=1, down_channels=[8, 16], n_groups=4)
        >>> output = vae(torch.zeros(1, 1, 15, 16, 17))
        >>> output.reconstruction.shape
        torch.Size([1, 1, 15, 16, 17])
    """

    config: VAEConfig

    def __init__(self, config: VAEConfig | Mapping[str, Any] | None = None, **options: Any) -> None:
        super().__init__()
        self.config = config = VAEConfig.coerce(config, **options)
        channels, dims = config.latent_channels, config.spatial_dims
        networks = config.of_networks()
        self.encoder = Encoder(networks)
        self.to_moments = conv(channels, 2 * channels, spatial_dims=dims, kernel_size=1)
        # With a spread near 1 the first steps would have to learn through noise that drowns the mean.
        if self.to_moments.bias is not None:
            nn.init.constant_(self.to_moments.bias[channels:], FIRST_LOGVAR)
        self.from_latents: nn.Module = nn.Identity()
        if not config.linear_path:
            self.from_latents = conv(channels, channels, spatial_dims=dims, kernel_size=1)
        self.decoder = Decoder(networks)
        self.linear_path = LinearPath(config) if config.linear_path else None
        if config.linear_path:
            start_at_zero(self.to_moments, n_channels=channels)
            start_at_zero(self.decoder.conv_out)

    def encode(self, volume: Tensor) -> DiagonalGaussian:
        """Encode volumes (B, in_channels, X, Y, Z) to the posterior over their latents."""
        return self._posterior(self.features(volume))

    def moments_of(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Turn the encoder's output into mean and standard deviation of the posterior."""
        posterior = self._posterior(features)
        return posterior.mean, posterior.std

    def decoder_input(self, latents: Tensor) -> Tensor:
        """Turn latents into what the decoder takes."""
        return self.from_latents(latents)

    def decoding_modules(self) -> Sequence[nn.Module]:
        """Return the parts that decoding takes and encoding does not."""
        return self.from_latents, self.decoder

    def bottleneck(
        self, features: Tensor, *, n_voxels: int, generator: torch.Generator | None, shard: BatchShard
    ) -> Bottleneck:
        """Sample the posterior; its divergence from N(0, 1) is the regularisation."""
        posterior = self._posterior(features)
        latents = posterior.sample(generator, shard=shard)
        kl = posterior.kl().mean() / n_voxels
        return Bottleneck(latents, self.from_latents(latents), kl, {"kl": kl.detach()})

    def _posterior(self, features: Tensor) -> DiagonalGaussian:
        if self.linear_path is None:
            return DiagonalGaussian(*self.to_moments(features).contiguous().chunk(2, dim=1))
        linear, rest = features.chunk(2, dim=1)
        mean, logvar = self.to_moments(rest).contiguous().chunk(2, dim=1)
        return DiagonalGaussian(linear + mean, logvar)
