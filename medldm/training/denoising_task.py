"""What the denoiser learns, from cached latents to a loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from medldm.conditioning import Conditions
from medldm.diffusion import denoising_losses
from medldm.latent_diffusion.config import LatentDiffusionConfig
from medldm.latent_diffusion.model import ConditionalDenoiser, LatentDiffusionModel
from medldm.runtime.batch_shard import BatchShard, whole_batch
from medldm.training.augmented_cases import VECTOR
from medldm.training.region_weights import region_weights_of


class DenoisingTask:
    """What the denoiser learns: from latents to the loss of one random time each.

    Args:
        model: standardises the latents.
        config: noise path and prediction type.

    Source: Ho et al. 2020, Algorithm 1 and Eq. 14.
    """

    def __init__(self, model: LatentDiffusionModel, config: LatentDiffusionConfig) -> None:
        self.model = model
        self.path = config.noise_path()
        self.prediction_type = config.prediction_type
        self.weighting = config.loss_weighting
        self.regions = region_weights_of(config, model)

    def draw_latents(
        self, batch: dict[str, Any], *, generator: torch.Generator, shard: BatchShard | None = None
    ) -> Tensor:
        """Draw standardised latents (B, C, x, y, z) from the cached posteriors.

        Args:
            batch: with "mean" and "std" (B, C, x, y, z).
            generator: of the noise.
            shard: the rows of the training's batch that these are; None for a batch of their own.
        """
        mean, std = batch["mean"], batch["std"]
        sample = mean + std * (shard or whole_batch(len(mean))).draw_normal(mean, generator=generator)
        return self.model.standardise(sample.to(self.model.latent_shift.device))

    def told_augmentation(self, batch: dict[str, Any]) -> Tensor | None:
        """Return how the samples of a batch were augmented (B, n); None for a denoiser that is not told."""
        n_channels = self.model.unet_config.augmentation_channels
        if n_channels == 0:
            return None
        found = batch.get(VECTOR)
        told = torch.zeros(len(batch["mean"]), n_channels) if found is None else torch.as_tensor(found)
        return told.to(self.model.latent_shift.device)

    def loss(
        self,
        denoiser: nn.Module,
        x_0: Tensor,
        conditions: Conditions,
        *,
        t: Tensor,
        noise: Tensor,
        drop: dict[str, Tensor] | None = None,
        augmentation: Tensor | None = None,
        region_weights: Tensor | None = None,
        dropout_seeds: Sequence[int] | None = None,
    ) -> Tensor:
        """Return the squared error (B,) of the prediction at the times t (B,).

        Args:
            denoiser: to call.
            x_0: (B, C, x, y, z) standardised latents.
            conditions: of the samples.
            t: (B,) times.
            noise: of the latents' shape.
            drop: see `ConditionalDenoiser`.
            augmentation: of `told_augmentation`; None for samples as they are.
            region_weights: of `weigh_regions`; None for 1.
            dropout_seeds: see `LatentUNet.forward`.
        """
        told = {} if augmentation is None else {"augmentation": augmentation}
        if (appearance := self.model.appearance_of(x_0)) is not None:
            told["appearance"] = appearance
        # What does not drop is not told seeds: it may be any callable.
        seeds = {} if dropout_seeds is None else {"dropout_seeds": dropout_seeds}
        return denoising_losses(
            lambda x_t, time: denoiser(x_t, time, conditions, drop=drop, **told, **seeds),
            x_0,
            t=t,
            noise=noise,
            path=self.path,
            prediction_type=self.prediction_type,
            spread=self.model.spread,
            weighting=self.weighting,
            region_weights=region_weights,
        )

    def weigh_regions(self, batch: dict[str, Any], x_0: Tensor) -> Tensor | None:
        """Return the weights (B, 1, x, y, z) of the structures of a batch's label maps; None for 1."""
        if self.regions is None:
            return None
        labels = torch.as_tensor(batch["label"]).to(x_0.device)
        return self.regions.on_latents(labels, x_0.shape[2:], self.model.autoencoder.downsampling)


def averaged_denoiser(average: AveragedModel) -> ConditionalDenoiser:
    """Return the denoiser that an average holds.

    Raises:
        TypeError: if it is the average of something else.
    """
    if not isinstance(average.module, ConditionalDenoiser):
        raise TypeError(f"the average is of a {type(average.module).__name__}: average model.denoiser")
    return average.module
