"""The vector-quantised autoencoder of the first stage.

Source: van den Oord et al. 2017, "Neural Discrete Representation Learning", Section 3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from medldm.networks.autoencoder import Autoencoder, Bottleneck
from medldm.networks.encoder_decoder import Decoder, Encoder
from medldm.networks.quantiser import Quantised, VectorQuantiser
from medldm.networks.strided_encoder_decoder import StridedDecoder, StridedEncoder
from medldm.networks.vqvae_config import VQVAEConfig
from medldm.runtime.batch_shard import BatchShard


class VQVAE(Autoencoder):
    """Encode volumes to a small latent grid of codes and decode them.

    Only a forward pass in training mode changes the codebook; encoding, quantising and decoding never do. Its
    regularisation is the commitment (and codebook) loss, its metric the "perplexity".

    Args:
        config: of the network, or a mapping of its fields; None for the defaults. A copy is kept.
        **options: fields to set.

    Examples:
        >>> vqvae = VQVAE(in_channels=1, down_channels=[8, 16], n_groups=4, n_codes=32)
        >>> output = vqvae(torch.zeros(1, 1, 15, 16, 17))
        >>> output.reconstruction.shape
        torch.Size([1, 1, 15, 16, 17])
    """

    config: VQVAEConfig

    def __init__(self, config: VQVAEConfig | Mapping[str, Any] | None = None, **options: Any) -> None:
        super().__init__()
        self.config = config = VQVAEConfig.coerce(config, **options)
        self.encoder = StridedEncoder(config) if config.is_strided else Encoder(config)
        self.decoder = StridedDecoder(config) if config.is_strided else Decoder(config)
        self.quantiser = VectorQuantiser(
            config.n_codes,
            config.latent_channels,
            commitment_weight=config.commitment_weight,
            learning=config.codebook_learning,
            decay=config.decay,
            restart_after=config.restart_after,
            is_initialised=config.codebook_init == "normal",
        )

    def encode(self, volume: Tensor) -> Tensor:
        """Encode volumes (B, in_channels, X, Y, Z) to latents that are not yet quantised."""
        return self.features(volume)

    def moments_of(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return the encoder's output and a standard deviation of zero, as a VAE gives mean and deviation."""
        return features, torch.zeros_like(features)

    def quantise(self, latents: Tensor) -> Quantised:
        """Replace latents (B, latent_channels, x, y, z) by their nearest codes."""
        self.check_latents(latents)
        return self.quantiser(latents)

    def decoder_input(self, latents: Tensor) -> Tensor:
        """Replace latents by their nearest codes."""
        return self.quantiser(latents).latents

    def decode_indices(self, indices: Tensor) -> Tensor:
        """Decode indices of codes (B, x, y, z) to volumes (B, out_channels, x f, y f, z f)."""
        return self.decoder(self.quantiser.embed(indices))

    def decoding_modules(self) -> Sequence[nn.Module]:
        """Return the decoder: the codebook belongs to the latents."""
        return (self.decoder,)

    def bottleneck(
        self, features: Tensor, *, n_voxels: int, generator: torch.Generator | None, shard: BatchShard
    ) -> Bottleneck:
        """Quantise; in training mode the codebook learns from the batch."""
        if not self.training:
            quantised = self.quantiser(features)
        else:
            self.quantiser.initialise(features, generator=generator, shard=shard)
            quantised = self.quantiser(features, shard=shard)
            self.quantiser.update(features, quantised.indices, generator=generator, shard=shard)
        metrics = {"perplexity": quantised.perplexity}
        return Bottleneck(features, quantised.latents, quantised.loss, metrics)
