"""MONAI's AutoencoderKL behind the interface of medldm's first stage, for side-by-side trainings."""

from __future__ import annotations

import math
from typing import Any

import torch
from monai.networks.nets import AutoencoderKL
from torch import Tensor, nn

from medldm.networks import AutoencoderOutput, DiagonalGaussian, VAEConfig


class MonaiAutoencoder(nn.Module):
    """Wrap an AutoencoderKL of the channels, blocks and groups that a VAEConfig describes.

    Args:
        options: fields of `VAEConfig`.
    """

    def __init__(self, options: dict[str, Any]) -> None:
        super().__init__()
        self.config = VAEConfig.from_dict(options)
        channels = self.config.down_channels
        self.network = AutoencoderKL(
            spatial_dims=3,
            in_channels=1,
            out_channels=1,
            channels=channels,
            num_res_blocks=self.config.n_res_blocks,
            attention_levels=(False,) * len(channels),
            latent_channels=self.config.latent_channels,
            norm_num_groups=self.config.n_groups,
            with_encoder_nonlocal_attn=False,
            with_decoder_nonlocal_attn=False,
        )

    def encode_moments(self, volume: Tensor) -> tuple[Tensor, Tensor]:
        """Encode volumes (B, 1, X, Y, Z), sizes multiples of the downsampling, to mean and deviation."""
        return self.network.encode(volume)

    def decode(self, latents: Tensor) -> Tensor:
        """Decode latents."""
        return self.network.decode(latents)

    def reconstruct(self, volume: Tensor) -> Tensor:
        """Encode to the mean and decode."""
        return self.decode(self.encode_moments(volume)[0])

    def forward(self, volume: Tensor, **_: Any) -> AutoencoderOutput:
        """Encode, sample, decode; the divergence in nats per voxel as medldm's VAE gives it."""
        mean, std = (moment.float() for moment in self.encode_moments(volume))
        posterior = DiagonalGaussian(mean, 2 * torch.log(std))
        reconstruction = self.decode(posterior.sample())
        kl = posterior.kl().mean() / math.prod(volume.shape[2:])
        return AutoencoderOutput(reconstruction, kl, {"kl": kl.detach()})
