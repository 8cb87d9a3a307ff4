"""What the autoencoders of the first stage and their configurations share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from medldm.networks import config_checks as checks
from medldm.networks.blocks import crop_to, pad_to_multiple
from medldm.networks.downsampling import check_factors, strides_of
from medldm.runtime.batch_shard import BatchShard, whole_batch


@dataclass(kw_only=True)
class AutoencoderConfig(checks.LevelsConfig):
    """Describe an encoder and a decoder of residual blocks; the levels are the encoder's.

    Args:
        up_channels: channels of the decoder's levels, coarsest first; None for the encoder's reversed.
        latent_channels: channels of the latent grid.
        in_channels: of the volume.
        out_channels: of the reconstruction.
        attention_levels: the encoder's levels with self-attention; None for none.
        mid_attention: whether a middle block (residual, self-attention, residual) stands at the coarsest
            level.
        decoder_mid_attention: the same in the decoder; None for as in the encoder.
        upsampling: "nearest" (and a convolution) or "transposed" (convolution, kernel 2, stride 2).
        downsampling: how many voxels of each axis become one latent, powers of two, such as (4, 4, 2); None
            for what the levels give, on all axes alike. The largest must be that; the finest levels halve
            the axes of larger factors alone, see `medldm.networks.downsampling`.
    """

    follows: ClassVar[tuple[str, ...]] = ("up_channels", "downsampling")

    down_channels: tuple[int, ...] = (64, 128, 256, 512)
    up_channels: tuple[int, ...] | None = None
    latent_channels: int = 4
    in_channels: int = 1
    out_channels: int = 1
    decoder_mid_attention: bool | None = None
    upsampling: Literal["nearest", "transposed"] = "nearest"
    downsampling: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        owner = type(self).__name__
        channels: Any = self.down_channels[::-1] if self.up_channels is None else self.up_channels
        checks.check_channels(owner, "up_channels", channels, self._divisor_of_channels)
        self.up_channels = checks.per_level(owner, "up_channels", channels, len(self.down_channels))
        if self.decoder_mid_attention is None:
            self.decoder_mid_attention = self.mid_attention
        self.require("[1, inf)", "latent_channels", "in_channels", "out_channels")
        if not self.is_strided:
            self._check_downsampling(owner)

    def _check_downsampling(self, owner: str) -> None:
        largest = 2 ** (len(self.down_channels) - 1)
        if self.downsampling is None:
            self.downsampling = (largest,) * self.spatial_dims
        check_factors(owner, self.downsampling, spatial_dims=self.spatial_dims, largest=largest)

    @property
    def strides(self) -> tuple[tuple[int, ...], ...]:
        """Strides per axis between the levels of residual blocks, finest first."""
        return strides_of(self.downsampling or ())

    @property
    def is_strided(self) -> bool:
        """Whether encoder and decoder are strided convolutions, in place of residual blocks."""
        return False


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
    """

    config: AutoencoderConfig
    encoder: Any
    decoder: Any

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
        """Run the encoder on volumes (B, in_channels, X, Y, Z) of any size."""
        self.check_volume(volume)
        return self.encoder(pad_to_multiple(volume, self.downsampling))

    def encode_moments(self, volume: Tensor) -> tuple[Tensor, Tensor]:
        """Encode volumes (B, in_channels, X, Y, Z) to mean and standard deviation of their latents."""
        return self.moments_of(self.features(volume))

    def decode(self, latents: Tensor) -> Tensor:
        """Decode latents (B, latent_channels, x, y, z) to volumes (B, out_channels, x f, y f, z f)."""
        self.check_latents(latents)
        return self.decoder(self.decoder_input(latents))

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
        volume = crop_to(self.decoder(decoder_input), size)
        return AutoencoderOutput(volume, regularisation, metrics, latents)

    def check_volume(self, x: Tensor) -> None:
        """Raise ValueError unless `x` is (B, in_channels, X, Y, Z)."""
        what, config = f"{type(self).__name__}: volume has", self.config
        checks.check_shape(what, x, channels=config.in_channels, spatial_dims=config.spatial_dims)

    def check_latents(self, x: Tensor) -> None:
        """Raise ValueError unless `x` is (B, latent_channels, x, y, z)."""
        what, config = f"{type(self).__name__}: latents have", self.config
        checks.check_shape(what, x, channels=config.latent_channels, spatial_dims=config.spatial_dims)
