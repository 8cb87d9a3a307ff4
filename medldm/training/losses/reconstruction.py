"""The losses of the first stage.

L = |x - x'|_1 + w_reg L_reg + w_perc L_perc + w_adv L_adv    (Rombach et al. 2022, Appendix G, Eq. 25)

L_reg is the KL divergence in nats per voxel (VAE) or the commitment loss (VQ-VAE). L_perc matches the
features of the discriminator (Wang et al. 2018, Eq. 3), which needs no download, or of a network whose
weights are given.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from monai.losses import PatchAdversarialLoss
from torch import Tensor, nn

from medldm.configs import Config, unknown_name_message
from medldm.errors import ConfigError
from medldm.networks import AutoencoderOutput
from medldm.runtime.batch_shard import BatchShard
from medldm.training.losses.adversarial import adaptive_weight, batches_before_adversary
from medldm.training.losses.perceptual import NETWORKS, MedicalNetLoss


@dataclass(kw_only=True)
class AutoencoderLossConfig(Config):
    """Weigh the terms of the first stage's loss.

    Args:
        regularisation_weight: of the KL (nats per voxel) or the commitment loss. A KL weight of 1e-4 keeps
            the latents near a normal without blurring.
        adversarial_weight: of the least-squares adversarial term.
        adaptive_weight: above 0 the adversarial term weighs this times `adaptive_weight` of
            `medldm.training.losses.adversarial` in the place of `adversarial_weight`: at 1 its gradient is
            as long as that of the other terms. 0 turns it off.
        perceptual_weight: of the feature term.
        adversarial_start: when the discriminator takes part: below 1 after that share of the training's
            batches, from 2 on after that many, None never, see `batches_before_adversary`.
        perceptual_weights: path of a local safetensors file for `MedicalNetLoss`; None to match the
            discriminator's features.
        perceptual_network: the network of that file, one of `NETWORKS`.
    """

    regularisation_weight: float = 1e-4
    adversarial_weight: float = 0.005
    adaptive_weight: float = 0.0
    perceptual_weight: float = 0.05
    adversarial_start: float | None = 1000
    perceptual_weights: str | None = None
    perceptual_network: str = NETWORKS[0]

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("[0, inf)", "regularisation_weight", "adversarial_weight", "perceptual_weight")
        self.require("[0, inf)", "adaptive_weight")
        batches_before_adversary(self.adversarial_start, n_batches=1)
        if self.perceptual_weights is not None and not Path(self.perceptual_weights).is_file():
            raise ConfigError(f"perceptual_weights names {self.perceptual_weights!r}, which is not a file")
        if self.perceptual_network not in NETWORKS:
            message = unknown_name_message(self.perceptual_network, list(NETWORKS), kind="perceptual_network")
            raise ConfigError(message)


class FirstStageLoss(nn.Module):
    """What `AutoencoderTrainer` asks of a loss."""

    adversarial_start: float | None = 0
    """When a discriminator takes part, see `batches_before_adversary`."""
    adaptive_weight: float = 0.0
    """Above 0, `for_autoencoder` is given the weights of the decoder's last layer, `last_layer`, too."""

    def for_autoencoder(
        self,
        output: AutoencoderOutput,
        volume: Tensor,
        *,
        discriminator: nn.Module | None,
        shard: BatchShard | None = None,
    ) -> dict[str, Tensor]:
        """Return the terms, and under "loss" their weighted sum, for a batch of the data loader's volumes.

        A term must be a mean over the rows, or add up with `shard` what couples the rows of the whole batch.
        """
        raise NotImplementedError(f"{type(self).__name__} lacks for_autoencoder")

    def for_discriminator(self, real: Tensor, fake: Tensor, *, discriminator: nn.Module) -> Tensor:
        """Return the discriminator's loss; a loss without an adversary has none."""
        raise TypeError(f"{type(self).__name__} has no adversary: train without a discriminator")


class AutoencoderLoss(FirstStageLoss):
    """Compute the losses of autoencoder and discriminator.

    Args:
        config: the weights of the terms.
    """

    def __init__(self, config: AutoencoderLossConfig | None = None) -> None:
        super().__init__()
        self.config = config or AutoencoderLossConfig()
        self.adversarial_start = self.config.adversarial_start
        self.adaptive_weight = self.config.adaptive_weight
        self.adversarial = PatchAdversarialLoss(criterion="least_squares", no_activation_leastsq=True)
        self.perceptual = _load_perceptual(self.config)

    def for_autoencoder(
        self,
        output: AutoencoderOutput,
        volume: Tensor,
        *,
        discriminator: nn.Module | None,
        shard: BatchShard | None = None,
        last_layer: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Return the terms, and under "loss" their weighted sum.

        Args:
            output: of the autoencoder, for `volume`.
            volume: (B, C, X, Y, Z) in [-1, 1].
            discriminator: gives a list of features, the last one its logits; None before it takes part.
            shard: the rows of the training's batch that these are, for the adaptive weight.
            last_layer: weights of the decoder's last layer, for the adaptive weight.
        """
        fake = output.reconstruction.float()
        if fake.shape != volume.shape:
            raise ConfigError(
                f"the volumes have the shape {tuple(volume.shape)}, their reconstructions "
                f"{tuple(fake.shape)}: give the autoencoder as many in_channels and out_channels"
            )
        terms = {"l1": (fake - volume).abs().mean(), "regularisation": output.regularisation}
        if self.perceptual is not None:
            terms["perceptual"] = self.perceptual(fake, volume)
        if discriminator is not None:
            *features, logits = _judge(discriminator, fake)
            terms["adversarial"] = self.adversarial(logits, target_is_real=True, for_discriminator=False)
            if self.perceptual is None:
                with torch.no_grad():
                    *real_features, _ = _judge(discriminator, volume)
                terms["perceptual"] = match_features(features, real_features)
        weights: dict[str, float | Tensor] = {
            "l1": 1.0,
            "regularisation": self.config.regularisation_weight,
            "perceptual": self.config.perceptual_weight,
            "adversarial": self.config.adversarial_weight,
        }
        is_adaptive = discriminator is not None and self.adaptive_weight > 0
        if is_adaptive and last_layer is None:
            raise ValueError("adaptive_weight needs the weights of the decoder's last layer: give last_layer")
        if is_adaptive and last_layer is not None:
            others = _weighted_sum({n: term for n, term in terms.items() if n != "adversarial"}, weights)
            factor = adaptive_weight(others, terms["adversarial"], last_layer=last_layer, shard=shard)
            weights["adversarial"] = factor * self.adaptive_weight
            return {"loss": _weighted_sum(terms, weights), **terms, "adaptive_weight": factor}
        return {"loss": _weighted_sum(terms, weights), **terms}

    def for_discriminator(self, real: Tensor, fake: Tensor, *, discriminator: nn.Module) -> Tensor:
        """Return the discriminator's loss for real and reconstructed volumes (B, C, X, Y, Z)."""
        logits_real, logits_fake = _judge(discriminator, real)[-1], _judge(discriminator, fake.detach())[-1]
        return 0.5 * (
            self.adversarial(logits_real, target_is_real=True, for_discriminator=True)
            + self.adversarial(logits_fake, target_is_real=False, for_discriminator=True)
        )


def _weighted_sum(terms: Mapping[str, Tensor], weights: Mapping[str, float | Tensor]) -> Tensor:
    return torch.stack([weights[name] * term for name, term in terms.items()]).sum()


def match_features(fake: list[Tensor], real: list[Tensor]) -> Tensor:
    """Return the mean absolute difference of features, each layer weighing the same.

    Source: Wang et al. 2018, "High-Resolution Image Synthesis and Semantic Manipulation with Conditional
    GANs", Eq. 3.
    """
    return torch.stack([(f.float() - r.float()).abs().mean() for f, r in zip(fake, real, strict=True)]).mean()


def _judge(discriminator: nn.Module, volume: Tensor) -> list[Tensor]:
    """Run the discriminator in float32.

    Its instance norms lose all digits on the flat background in bfloat16.
    """
    with torch.autocast(volume.device.type, enabled=False):
        return discriminator(volume.float())


def _load_perceptual(config: AutoencoderLossConfig) -> nn.Module | None:
    if config.perceptual_weights is None:
        return None
    return MedicalNetLoss(config.perceptual_weights, network=config.perceptual_network)
