"""First stage: train a VAE or VQ-VAE on MONAI's adversarial engine."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from monai.engines import AdversarialTrainer, SupervisedEvaluator
from monai.handlers import IgniteMetricHandler, PeakSignalToNoiseRatio
from monai.inferers import Inferer, SimpleInferer
from monai.metrics import SSIMMetric
from monai.utils.enums import CommonKeys as Keys
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel

from medldm.networks import VAE, VQVAE, AutoencoderOutput
from medldm.runtime.batch_shard import BatchShard
from medldm.runtime.distributed import accumulating, data_parallel
from medldm.training.averaging import average_weights
from medldm.training.batches import shard_of_batch
from medldm.training.handlers import TERMS
from medldm.training.latent_noise import LatentNoise
from medldm.training.losses.adversarial import batches_before_adversary
from medldm.training.losses.reconstruction import FirstStageLoss
from medldm.training.optimisation import OptimiserStep
from medldm.training.precision import autocast, make_scaler
from medldm.training.resume.resumable_trainer import HasState, ResumableTrainer


class AutoencoderTrainer(ResumableTrainer, AdversarialTrainer):  # type: ignore[misc]
    """Train an autoencoder, and after a warm-up a discriminator against it.

    MONAI's engine gives the loop, its events and handlers; the step is our own, since MONAI's knows no CPU
    autocast, accumulation, clipping or warm-up.

    Args:
        device: where to train.
        max_epochs: passes over the data.
        train_data_loader: batches with "image" (B, C, X, Y, Z) in [-1, 1].
        network: VAE or VQVAE.
        optimizer: of the network.
        loss: of both networks.
        discriminator: None to train without an adversary.
        discriminator_optimizer: of the discriminator.
        schedule: learning-rate schedule of the network, in steps.
        accumulation_steps: batches for one step.
        gradient_clip: largest gradient norm.
        average: of the network's weights, made by `average_weights`; it is what is validated and saved.
        precision: of autocast.
        latent_noise: largest noise on the latents, see `LatentNoise`.
        inferer: calls the network; MONAI's SimpleInferer if None.
        train_handlers: attached in their order.
    """

    def __init__(
        self,
        device: torch.device,
        max_epochs: int,
        train_data_loader: Iterable[Any],
        *,
        network: VAE | VQVAE,
        optimizer: torch.optim.Optimizer,
        loss: FirstStageLoss,
        discriminator: nn.Module | None = None,
        discriminator_optimizer: torch.optim.Optimizer | None = None,
        schedule: LambdaLR | None = None,
        accumulation_steps: int = 1,
        gradient_clip: float = 1.0,
        average: AveragedModel | None = None,
        precision: str = "float32",
        latent_noise: float = 0.0,
        inferer: Inferer | None = None,
        train_handlers: Sequence[Any] | None = None,
    ) -> None:
        self.precision = precision
        self.planned_epochs = max_epochs  # patience may make it fewer on the way
        self.loss = loss
        self.average = average or average_weights(network, 0.0)
        self.noise = LatentNoise(network.latent_channels, largest=latent_noise)
        scaler = make_scaler(torch.device(device), precision)
        self._network = data_parallel(network)
        self._discriminator = None if discriminator is None else data_parallel(discriminator)
        self._step = OptimiserStep(
            optimizer,
            scaler=scaler,
            schedule=schedule,
            accumulation_steps=accumulation_steps,
            gradient_clip=gradient_clip,
        )
        self._discriminator_step = None
        if discriminator_optimizer is not None:
            self._discriminator_step = OptimiserStep(
                discriminator_optimizer,
                scaler=make_scaler(torch.device(device), precision),
                accumulation_steps=accumulation_steps,
                gradient_clip=gradient_clip,
            )
        super().__init__(
            device=device,
            max_epochs=max_epochs,
            train_data_loader=train_data_loader,
            g_network=network,
            g_optimizer=optimizer,
            g_loss_function=loss.for_autoencoder,
            recon_loss_function=loss.for_autoencoder,
            d_network=discriminator or nn.Identity(),
            d_optimizer=discriminator_optimizer or optimizer,
            d_loss_function=loss.for_discriminator,
            g_inferer=inferer or SimpleInferer(),
            train_handlers=train_handlers,
            decollate=False,
        )
        # MONAI lists networks and optimisers here for pickling; our checkpoints are written by their own
        # handler.
        self._state_dict_user_keys.clear()

    @property
    def optimiser_steps(self) -> list[OptimiserStep]:
        """The steps of the network and of the discriminator."""
        return [self._step] + ([self._discriminator_step] if self._discriminator_step is not None else [])

    def state_parts(self) -> dict[str, HasState]:
        """Return all that the next batch depends on."""
        parts: dict[str, HasState] = {
            "network": self.state.g_network,
            "average": self.average,
            "optimiser": self._step,
        }
        if self._discriminator_step is not None:
            parts["discriminator"] = self.state.d_network
            parts["discriminator_optimiser"] = self._discriminator_step
        if self.noise.largest > 0:
            parts["latent_noise"] = self.noise
        return parts

    def _iteration(self, engine: Any, batchdata: dict[str, Any]) -> dict[str, Any]:
        index = (engine.state.iteration - 1) % engine.state.epoch_length
        position = {"index": index, "epoch_length": engine.state.epoch_length}
        shard = shard_of_batch(self.data_loader, index=index, n_rows=len(batchdata["image"]))
        given, volume = self._read(batchdata, shard)
        is_adversarial = self._discriminator_step is not None and self._has_begun_adversary(engine)
        output, terms = self._train_network(given, volume, shard, position, is_adversarial=is_adversarial)
        if is_adversarial:
            terms["discriminator"] = self._train_discriminator(volume, output.reconstruction, shard, position)
        terms = shard.mean_terms({**terms, **output.metrics})
        return {
            Keys.IMAGE: volume,
            Keys.PRED: output.reconstruction,
            Keys.LOSS: terms["loss"],
            TERMS: terms,
        }

    def _read(self, batch: dict[str, Any], shard: BatchShard) -> tuple[Tensor, Tensor]:
        """Return what the network is given of a batch's own rows, and the volume it should make."""
        engine: Any = self
        volume = torch.as_tensor(batch["image"]).to(engine.state.device, non_blocking=engine.non_blocking)
        return volume, volume

    def _has_begun_adversary(self, engine: Any) -> bool:
        n_batches = self.planned_epochs * engine.state.epoch_length
        before = batches_before_adversary(self.loss.adversarial_start, n_batches=n_batches)
        return bool(engine.state.iteration > before)

    def _train_network(
        self,
        given: Tensor,
        volume: Tensor,
        shard: BatchShard,
        position: dict[str, int],
        *,
        is_adversarial: bool,
    ) -> tuple[AutoencoderOutput, dict[str, Tensor]]:
        network = self.state.g_network.train()
        # The network's own module judges: its gradients are no concern of this step.
        discriminator = self.state.d_network.requires_grad_(False) if is_adversarial else None
        self._step.prepare(network, index=position["index"])
        with accumulating(self._network, is_last=self._step.ends_with(**position)):
            with autocast(self.state.device, self.precision):
                output = self._run_network(given, shard)
                terms = self.loss.for_autoencoder(
                    output, volume, discriminator=discriminator, shard=shard, **self._for_adaptive_weight()
                )
            if self._step(terms["loss"] * shard.weight, **position):
                self.average.update_parameters(network)
        return output, terms

    def _run_network(self, given: Tensor, shard: BatchShard) -> AutoencoderOutput:
        noise_sd = self.noise.draw(shard)
        options = {} if noise_sd is None else {"noise_sd": noise_sd.to(given.device)}
        output: AutoencoderOutput = self.g_inferer(given, self._network, shard=shard, **options)
        if output.latents is not None:
            self.noise.follow(output.latents, shard)
        return output

    def _for_adaptive_weight(self) -> dict[str, Tensor]:
        """Return what a loss with an adaptive weight is given more."""
        return {"last_layer": self.state.g_network.last_layer} if self.loss.adaptive_weight > 0 else {}

    def _train_discriminator(
        self, real: Tensor, fake: Tensor, shard: BatchShard, position: dict[str, int]
    ) -> Tensor:
        step, discriminator = self._discriminator_step, self._discriminator
        if step is None or discriminator is None:
            raise ValueError("there is an optimiser of a discriminator but none: give both, or neither")
        discriminator.requires_grad_(True)
        with accumulating(discriminator, is_last=step.ends_with(**position)):
            with autocast(self.state.device, self.precision):
                loss = self.loss.for_discriminator(real, fake.float(), discriminator=discriminator)
            step(loss * shard.weight, **position)
        return loss


class AutoencoderEvaluator(SupervisedEvaluator):
    """Validate the averaged weights: PSNR and SSIM of the reconstruction from the posterior mean.

    Args:
        device: where to evaluate.
        val_data_loader: batches with "image" (B, C, X, Y, Z) in [-1, 1].
        network: the averaged network, `average.module` of the trainer's average.
        precision: of autocast.
        val_handlers: attached in their order.
    """

    network: Any

    def __init__(
        self,
        device: torch.device,
        val_data_loader: Iterable[Any],
        *,
        network: VAE | VQVAE,
        precision: str = "float32",
        val_handlers: Sequence[Any] | None = None,
    ) -> None:
        self.precision = precision
        super().__init__(
            device=device,
            val_data_loader=val_data_loader,
            network=network,
            key_val_metric={"psnr": PeakSignalToNoiseRatio(max_val=1.0, output_transform=pairs)},
            additional_metrics={
                "ssim": IgniteMetricHandler(
                    metric_fn=SSIMMetric(spatial_dims=3, data_range=1.0, win_size=7), output_transform=pairs
                )
            },
            val_handlers=val_handlers,
            decollate=False,
        )

    def _iteration(self, engine: Any, batchdata: dict[str, Any]) -> dict[str, Any]:
        volume = torch.as_tensor(batchdata["image"]).to(engine.state.device, non_blocking=engine.non_blocking)
        self.network.eval()
        with torch.no_grad(), autocast(engine.state.device, self.precision):
            reconstruction = self.network.reconstruct(volume)
        return {Keys.IMAGE: volume, Keys.PRED: reconstruction.float()}


def pairs(output: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return reconstruction and volume in [0, 1], the range PSNR and SSIM are usually stated in."""
    return (output[Keys.PRED] + 1) / 2, (output[Keys.IMAGE] + 1) / 2
