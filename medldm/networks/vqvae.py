"""The vector-quantised autoencoder of the first stage.

Source: van den Oord et al. 2017, "Neural Discrete Representation Learning", Section 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from medldm.networks.blocks import crop_to, pad_to_multiple
from medldm.networks.config_checks import check_shape
from medldm.networks.encoder_decoder import Decoder, Encoder
from medldm.networks.posterior import AutoencoderOutput
from medldm.networks.quantiser import Quantised, VectorQuantiser
from medldm.networks.strided_encoder_decoder import StridedDecoder, StridedEncoder
from medldm.networks.vqvae_config import VQVAEConfig
from medldm.runtime.distributed import BatchShard, equal_shard

__all__ = ["VQVAE", "VQVAEConfig"]


class VQVAE(nn.Module):
    """Encode volumes to a small latent grid of codes and decode them.

    Only a forward pass in training mode changes the codebook; encoding, quantising and decoding never do.

    Args:
        config: of the network, or a mapping of its fields; None for the defaults. A copy is kept.
        **options: fields to set.

    Example:
        >>> vqvae = VQVAE(VQVAEConfig(down_channels=[8, 16], n_groups=4, n_codes=32))
        >>> output = vqvae(torch.zeros(1, 1, 15, 16, 17))
        >>> output.reconstruction.shape
        torch.Size([1, 1, 15, 16, 17])
    """

    def __init__(self, config: VQVAEConfig | Mapping[str, Any] | None = None, **options: Any) -> None:
        super().__init__()
        self.config = config = VQVAEConfig.coerce(config, **options)
        is_strided = config.trunk == "strided"
        self.encoder: nn.Module = StridedEncoder(config) if is_strided else Encoder(config)
        self.decoder: nn.Module = StridedDecoder(config) if is_strided else Decoder(config)
        self.quantiser = VectorQuantiser(
            config.n_codes,
            config.latent_channels,
            commitment_weight=config.commitment_weight,
            learning=config.codebook_learning,
            decay=config.decay,
            restart_after=config.restart_after,
            is_initialised=config.codebook_init == "normal",
        )

    @property
    def downsampling(self) -> int:
        """How many voxels of an axis become one latent voxel."""
        return self.config.downsampling

    @property
    def latent_channels(self) -> int:
        """Channels of the latent grid."""
        return self.config.latent_channels

    def encode(self, volume: Tensor) -> Tensor:
        """Encode volumes to latents that are not yet quantised.

        Args:
            volume: (B, in_channels, X, Y, Z); sizes that are no multiple of the downsampling are padded at
                their end with the edge voxels.

        Returns:
            (B, latent_channels, ceil(X/f), ceil(Y/f), ceil(Z/f)).
        """
        config = self.config
        check_shape(
            "VQVAE: volume has", volume, channels=config.in_channels, spatial_dims=config.spatial_dims
        )
        return self.encoder(pad_to_multiple(volume, self.downsampling))

    def encode_moments(self, volume: Tensor) -> tuple[Tensor, Tensor]:
        """Encode volumes to latents and a standard deviation of zero, as a VAE gives mean and deviation."""
        latents = self.encode(volume)
        return latents, torch.zeros_like(latents)

    def quantise(self, latents: Tensor) -> Quantised:
        """Replace latents (B, latent_channels, x, y, z) by their nearest codes."""
        config = self.config
        check_shape(
            "VQVAE: latents have", latents, channels=config.latent_channels, spatial_dims=config.spatial_dims
        )
        return self.quantiser(latents)

    def decode(self, latents: Tensor) -> Tensor:
        """Quantise latents (B, latent_channels, x, y, z) and decode to (B, out_channels, x f, y f, z f)."""
        return self.decoder(self.quantise(latents).latents)

    def decode_indices(self, indices: Tensor) -> Tensor:
        """Decode indices of codes (B, x, y, z) to volumes (B, out_channels, x f, y f, z f)."""
        return self.decoder(self.quantiser.embed(indices))

    def forward(
        self, volume: Tensor, *, generator: torch.Generator | None = None, shard: BatchShard | None = None
    ) -> AutoencoderOutput:
        """Encode, quantise and decode; in training mode the codebook learns from the batch.

        Args:
            volume: (B, in_channels, X, Y, Z).
            generator: of the choice of vectors that replace codes.
            shard: the rows of a training's batch that `volume` is; None for as many rows in every process.

        Returns:
            The reconstruction, the commitment (and codebook) loss and the metric "perplexity".
        """
        latents = self.encode(volume)
        if not self.training:
            quantised = self.quantise(latents)
        else:
            shard = shard or equal_shard(len(volume))
            self.quantiser.initialise(latents, generator=generator, shard=shard)
            quantised = self.quantiser(latents, shard=shard)
            self.quantiser.update(latents, quantised.indices, generator=generator, shard=shard)
        reconstruction = crop_to(self.decoder(quantised.latents), volume.shape[2:])
        return AutoencoderOutput(reconstruction, quantised.loss, {"perplexity": quantised.perplexity})
