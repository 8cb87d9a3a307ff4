"""What the autoencoders of the first stage share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from medldm.networks import config_checks as checks
from medldm.networks.autoencoder_config import AutoencoderConfig
from medldm.networks.blocks import crop_to, pad_to_multiple
from medldm.networks.linear_path import LinearPath
from medldm.runtime.batch_shard import BatchShard, whole_batch


class AutoencoderOutput(NamedTuple):
    """The result of one forward pass of an autoencoder.

    Attributes:
        reconstruction: of the shape of the volume.
        regularisation: scalar that the training adds, weighted, to the reconstruction loss.
        metrics: scalars worth logging, by name.
        latents: (B, C, x, y, z) that were decoded, before noise and codebook; None where none are known.
    """

    reconstruction: Tensor
    regularisation: Tensor
    metrics: dict[str, Tensor]
    latents: Tensor | None = None

    @property
    def shape(self) -> torch.Size:
        """Shape of the reconstruction; MONAI's `verify_net_in_out` reads it."""
        return self.reconstruction.shape

    @property
    def dtype(self) -> torch.dtype:
        """Type of the reconstruction; MONAI's `verify_net_in_out` reads it."""
        return self.reconstruction.dtype


class Bottleneck(NamedTuple):
    """What stands between encoder and decoder in a training.

    Attributes:
        latents: (B, C, x, y, z), not quantised.
        decoder_input: what the decoder takes.
        regularisation: scalar.
        metrics: scalars worth logging, by name.
    """

    latents: Tensor
    decoder_input: Tensor
    regularisation: Tensor
    metrics: dict[str, Tensor]


class Autoencoder(nn.Module, ABC):
    """Encode volumes to a small latent grid and decode them.

    A subclass makes `encoder` and `decoder` and says what stands between them. Latents and their moments are
    (B, latent_channels, x, y, z) with x = ceil(X / f) for the factor f of the axis in
    `downsampling`: sizes that are no multiple are padded at their end with the edge voxels.

    With a `linear_path` encoder and decoder stand beside it, and the encoder's output follows, along the
    channels, that of the path.
    """

    config: AutoencoderConfig
    encoder: Any
    decoder: Any
    linear_path: LinearPath | None

    @property
    def downsampling(self) -> tuple[int, ...]:
        """How many voxels of each axis become one latent voxel."""
        return self.config.downsampling or ()

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

    @property
    def last_layer(self) -> Tensor:
        """Weights of the decoder's last layer."""
        return self.decoder.last_layer

    @abstractmethod
    def decoding_modules(self) -> Sequence[nn.Module]:
        """Return the parts that decoding takes and encoding does not, without a codebook."""

    @abstractmethod
    def bottleneck(
        self, features: Tensor, *, n_voxels: int, generator: torch.Generator | None, shard: BatchShard
    ) -> Bottleneck:
        """Turn the encoder's output for volumes of `n_voxels` into latents, with their regularisation."""

    def features(self, volume: Tensor) -> Tensor:
        """Run the encoder on volumes (B, in_channels, X, Y, Z) of any size; linear latents go first."""
        self.check_volume(volume)
        volume, path = pad_to_multiple(volume, self.downsampling), self.linear_path
        if path is None:
            return self.encoder(self.to_network_range(volume))
        return torch.cat([path.encode(volume), self.encoder(path.to_half_size(volume))], dim=1)

    def run_decoder(self, x: Tensor) -> Tensor:
        """Run the decoder on what `decoder_input` gives, and add what the linear path makes of it."""
        path = self.linear_path
        if path is None:
            return self.from_network_range(self.decoder(x))
        return path.decode(x) + path.to_full_size(self.decoder(x))

    def to_network_range(self, volume: Tensor) -> Tensor:
        """Bring values from [-1, 1] to the range that the encoder takes."""
        low, high = self.config.value_range
        return volume * ((high - low) / 2) + (high + low) / 2 if self.config.has_own_range else volume

    def from_network_range(self, volume: Tensor) -> Tensor:
        """Invert `to_network_range` for what the decoder gives."""
        low, high = self.config.value_range
        return (volume - (high + low) / 2) * (2 / (high - low)) if self.config.has_own_range else volume

    def encode_moments(self, volume: Tensor) -> tuple[Tensor, Tensor]:
        """Encode volumes (B, in_channels, X, Y, Z) to mean and standard deviation of their latents."""
        return self.moments_of(self.features(volume))

    def decode(self, latents: Tensor) -> Tensor:
        """Decode latents (B, latent_channels, x, y, z) to volumes (B, out_channels, x f, y f, z f)."""
        self.check_latents(latents)
        return self.run_decoder(self.decoder_input(latents))

    def reconstruct(self, volume: Tensor) -> Tensor:
        """Encode volumes to the mean of their latents and decode it, in the size of the volumes."""
        return crop_to(self.decode(self.encode_moments(volume)[0]), volume.shape[2:])

    def forward(
        self,
        volume: Tensor,
        *,
        generator: torch.Generator | None = None,
        shard: BatchShard | None = None,
        noise_sd: Tensor | None = None,
    ) -> AutoencoderOutput:
        """Encode, regularise and decode, as a training does.

        Args:
            volume: (B, in_channels, X, Y, Z).
            generator: of all randomness.
            shard: the rows of a training's batch that `volume` is; None for a batch of its own.
            noise_sd: (B, latent_channels), standard deviation of noise that is put on the latents before they
                are decoded (and quantised); None for none.
        """
        shard = shard or whole_batch(len(volume))
        size = volume.shape[2:]
        latents, decoder_input, regularisation, metrics = self.bottleneck(
            self.features(volume), n_voxels=size.numel(), generator=generator, shard=shard
        )
        if noise_sd is not None:
            noise = shard.draw_normal(latents, generator=generator)
            spread = noise_sd.to(latents).view(*noise_sd.shape, *[1] * len(size))
            decoder_input = self.decoder_input(latents + spread * noise)
        volume = crop_to(self.run_decoder(decoder_input), size)
        return AutoencoderOutput(volume, regularisation, metrics, latents)

    def check_volume(self, x: Tensor) -> None:
        """Raise ValueError unless `x` is (B, in_channels, X, Y, Z)."""
        what, config = f"{type(self).__name__}: volume has", self.config
        checks.check_shape(what, x, channels=config.in_channels, spatial_dims=config.spatial_dims)

    def check_latents(self, x: Tensor) -> None:
        """Raise ValueError unless `x` is (B, latent_channels, x, y, z)."""
        what, config = f"{type(self).__name__}: latents have", self.config
        checks.check_shape(what, x, channels=config.latent_channels, spatial_dims=config.spatial_dims)
