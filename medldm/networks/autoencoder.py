"""What the autoencoders of the first stage share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from medldm.networks.autoencoder_config import AutoencoderConfig
from medldm.networks.blocks import crop_to, pad_to_multiple
from medldm.networks.config_checks import check_shape
from medldm.runtime.batch_shard import BatchShard, whole_batch


class AutoencoderOutput(NamedTuple):
    """The result of one forward pass of an autoencoder.

    Attributes:
        reconstruction: of the shape of the volume.
        regularisation: scalar that the training adds, weighted, to the reconstruction loss.
        metrics: scalars worth logging, by name.
    """

    reconstruction: Tensor
    regularisation: Tensor
    metrics: dict[str, Tensor]

    @property
    def shape(self) -> torch.Size:
        """Shape of the reconstruction; MONAI's `verify_net_in_out` reads it."""
        return self.reconstruction.shape

    @property
    def dtype(self) -> torch.dtype:
        """Type of the reconstruction; MONAI's `verify_net_in_out` reads it."""
        return self.reconstruction.dtype


class Autoencoder(nn.Module, ABC):
    """Encode volumes to a small latent grid and decode them.

    A subclass makes `encoder` and `decoder` and says what stands between them. Latents and their moments are
    (B, latent_channels, x, y, z) with x = ceil(X / downsampling): sizes that are no multiple of the
    downsampling are padded at their end with the edge voxels.
    """

    config: AutoencoderConfig
    encoder: Any
    decoder: Any

    @property
    def downsampling(self) -> int:
        """How many voxels of an axis become one latent voxel."""
        return self.config.downsampling

    @property
    def latent_channels(self) -> int:
        """Channels of the latent grid."""
        return self.config.latent_channels

    @abstractmethod
    def moments_of(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Turn the encoder's output into mean and standard deviation of the latents."""

    @abstractmethod
    def decoder_input(self, latents: Tensor) -> Tensor:
        """Turn latents into what the decoder takes."""

    @abstractmethod
    def bottleneck(
        self, features: Tensor, *, n_voxels: int, generator: torch.Generator | None, shard: BatchShard
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Turn the encoder's output for volumes of `n_voxels` into decoder input, regularisation, metrics."""

    def features(self, volume: Tensor) -> Tensor:
        """Run the encoder on volumes (B, in_channels, X, Y, Z) of any size."""
        self._check("volume", volume, channels=self.config.in_channels)
        return self.encoder(pad_to_multiple(volume, self.downsampling))

    def encode_moments(self, volume: Tensor) -> tuple[Tensor, Tensor]:
        """Encode volumes (B, in_channels, X, Y, Z) to mean and standard deviation of their latents."""
        return self.moments_of(self.features(volume))

    def decode(self, latents: Tensor) -> Tensor:
        """Decode latents (B, latent_channels, x, y, z) to volumes (B, out_channels, x f, y f, z f)."""
        self._check("latents", latents, channels=self.config.latent_channels)
        return self.decoder(self.decoder_input(latents))

    def reconstruct(self, volume: Tensor) -> Tensor:
        """Encode volumes to the mean of their latents and decode it, in the size of the volumes."""
        return crop_to(self.decode(self.encode_moments(volume)[0]), volume.shape[2:])

    def forward(
        self, volume: Tensor, *, generator: torch.Generator | None = None, shard: BatchShard | None = None
    ) -> AutoencoderOutput:
        """Encode, regularise and decode, as a training does.

        Args:
            volume: (B, in_channels, X, Y, Z).
            generator: of all randomness.
            shard: the rows of a training's batch that `volume` is; None for a batch of its own.
        """
        shard = shard or whole_batch(len(volume))
        size = volume.shape[2:]
        h, regularisation, metrics = self.bottleneck(
            self.features(volume), n_voxels=size.numel(), generator=generator, shard=shard
        )
        return AutoencoderOutput(crop_to(self.decoder(h), size), regularisation, metrics)

    def _check(self, what: str, x: Tensor, *, channels: int) -> None:
        owner = f"{type(self).__name__}: {what} {'has' if what == 'volume' else 'have'}"
        check_shape(owner, x, channels=channels, spatial_dims=self.config.spatial_dims)
