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
from medldm.networks.linear_path import LinearPath, start_at_zero
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
        networks = config.of_networks()
        self.encoder = StridedEncoder(config) if config.is_strided else Encoder(networks)
        self.decoder = StridedDecoder(config) if config.is_strided else Decoder(networks)
        self.linear_path = LinearPath(config) if config.linear_path else None
        if config.linear_path:
            start_at_zero(self.encoder.conv_out)
            start_at_zero(self.decoder.conv_out)
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
        return self._latents(self.features(volume))

    def moments_of(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return the latents and a standard deviation of zero, as a VAE gives mean and deviation."""
        latents = self._latents(features)
        return latents, torch.zeros_like(latents)

    def _latents(self, features: Tensor) -> Tensor:
        """Add what the encoder found to the latents of the linear path, where there is one."""
        return features if self.linear_path is None else torch.stack(features.chunk(2, dim=1)).sum(dim=0)

    def quantise(self, latents: Tensor) -> Quantised:
        """Replace latents (B, latent_channels, x, y, z) by their nearest codes."""
        self.check_latents(latents)
        return self.quantiser(latents)

    def decoder_input(self, latents: Tensor) -> Tensor:
        """Replace latents by their nearest codes."""
        return self.quantiser(latents).latents

    def decode_indices(self, indices: Tensor) -> Tensor:
        """Decode indices of codes (B, x, y, z) to volumes (B, out_channels, x f, y f, z f)."""
        return self.run_decoder(self.quantiser.embed(indices))

    def decoding_modules(self) -> Sequence[nn.Module]:
        """Return the decoder: the codebook belongs to the latents."""
        return (self.decoder,)

    def bottleneck(
        self, features: Tensor, *, n_voxels: int, generator: torch.Generator | None, shard: BatchShard
    ) -> Bottleneck:
        """Quantise; in training mode the codebook learns from the batch."""
        latents = self._latents(features)
        if not self.training:
            quantised = self.quantiser(latents)
        else:
            self.quantiser.initialise(latents, generator=generator, shard=shard)
            quantised = self.quantiser(latents, shard=shard)
            self.quantiser.update(latents, quantised.indices, generator=generator, shard=shard)
        metrics = {"perplexity": quantised.perplexity}
        return Bottleneck(latents, quantised.latents, quantised.loss, metrics)
