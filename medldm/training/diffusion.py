"""Second stage: train the denoiser on MONAI's supervised engine, on cached latents."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from ignite.engine import Events
from ignite.metrics import Average
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.utils.enums import CommonKeys as Keys
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel

from medldm.diffusion import make_steps
from medldm.latent_diffusion.config import LatentDiffusionConfig
from medldm.latent_diffusion.model import LatentDiffusionModel
from medldm.runtime.batch_shard import BatchShard
from medldm.runtime.distributed import accumulating, data_parallel
from medldm.seeds import numbered_seed
from medldm.training.averaging import average_weights
from medldm.training.batches import batch_number, shard_of_batch
from medldm.training.denoising_task import DenoisingTask, averaged_denoiser
from medldm.training.handlers import TERMS
from medldm.training.memorisation import GAP, TRAINING_LOSS
from medldm.training.optimisation import OptimiserStep
from medldm.training.precision import autocast, make_scaler
from medldm.training.resume.resumable_trainer import BufferState, GeneratorState, HasState, ResumableTrainer
from medldm.training.sharding import whole_weights
from medldm.training.volumes import gather_conditions


class DiffusionTrainer(ResumableTrainer, SupervisedTrainer):  # type: ignore[misc]
    """Train the denoiser of a latent diffusion model.

    The model must have the statistics of the training's latents, see `measure_latent_statistics`.

    Args:
        device: where to train.
        max_epochs: passes over the data.
        train_data_loader: batches of a `LatentDataset`.
        network: the model; its autoencoder is not touched.
        denoiser: what is called in the place of the model's, see `share_denoiser`; None for `data_parallel`.
        config: noise path, prediction type, accumulation, clipping, precision, seed.
        optimizer: of the denoiser's weights.
        schedule: learning-rate schedule, in steps.
        average: of the denoiser's weights, made by `average_weights`; it is what is validated and saved.
        train_handlers: attached in their order.
    """

    def __init__(
        self,
        device: torch.device,
        max_epochs: int,
        train_data_loader: Iterable[Any],
        *,
        network: LatentDiffusionModel,
        config: LatentDiffusionConfig,
        optimizer: torch.optim.Optimizer,
        denoiser: nn.Module | None = None,
        schedule: LambdaLR | None = None,
        average: AveragedModel | None = None,
        train_handlers: Sequence[Any] | None = None,
    ) -> None:
        self.config = config
        self.model = network
        self.task = DenoisingTask(network, config)
        self.average = average or average_weights(network.denoiser, 0.0)
        self.generator = torch.Generator().manual_seed(config.seed)
        self._denoiser = data_parallel(network.denoiser) if denoiser is None else denoiser
        self._step = OptimiserStep(
            optimizer,
            scaler=make_scaler(torch.device(device), config.precision),
            schedule=schedule,
            accumulation_steps=config.accumulation_steps,
            gradient_clip=config.gradient_clip,
        )
        super().__init__(
            device=device,
            max_epochs=max_epochs,
            train_data_loader=train_data_loader,
            network=network,
            optimizer=optimizer,
            loss_function=self.task.loss,
            train_handlers=train_handlers,
            decollate=False,
        )

    @property
    def optimiser_steps(self) -> list[OptimiserStep]:
        """The step of the denoiser."""
        return [self._step]

    def state_parts(self) -> dict[str, HasState]:
        """Return all that the next batch depends on."""
        return {
            "denoiser": self.model.denoiser,
            "latent_statistics": BufferState(self.model, self._statistics()),
            "average": self.average,
            "optimiser": self._step,
            "generator": GeneratorState(self.generator),
        }

    def _statistics(self) -> list[str]:
        names = ["latent_shift", "latent_scale", "latent_spread", "latent_spectrum"]
        names += ["appearance_mean", "appearance_basis"]
        return [name for name in names if getattr(self.model, name) is not None]

    def _iteration(self, engine: Any, batchdata: dict[str, Any]) -> dict[str, Any]:
        self.model.denoiser.train()
        index = (engine.state.iteration - 1) % engine.state.epoch_length
        position = {"index": index, "epoch_length": engine.state.epoch_length}
        shard = shard_of_batch(self.data_loader, index=index, n_rows=len(batchdata["mean"]))
        with accumulating(self._denoiser, is_last=self._step.ends_with(**position)):
            loss = self._loss_of(batchdata, shard)
            if self._step(loss * shard.weight, **position):
                self.average.update_parameters(self.model.denoiser)
        terms = shard.mean_terms({"loss": loss})
        return {Keys.LOSS: terms["loss"], TERMS: terms}

    def _loss_of(self, batch: dict[str, Any], shard: BatchShard) -> Tensor:
        """Return the mean loss of the own rows of a batch, at random times with random noise."""
        device, conditioning = self.state.device, self.model.denoiser.conditioning
        x_0 = self.task.draw_latents(batch, generator=self.generator, shard=shard)
        noise = shard.draw_normal(x_0, generator=self.generator)
        t = shard.own(self.task.path.sample_times(shard.total, generator=self.generator)).to(device)
        conditions = gather_conditions(batch, conditioning.names).to(device)
        masks = conditioning.draw_dropout(shard.total, generator=self.generator)
        drop = {name: shard.own(mask).to(device) for name, mask in masks.items()}
        hidden = conditioning.draw_unknown(shard.total, generator=self.generator)
        conditions = conditions.hide({name: shard.own(mask).to(device) for name, mask in hidden.items()})
        terms: dict[str, Any] = {
            "augmentation": self.task.told_augmentation(batch),
            "region_weights": self.task.weigh_regions(batch, x_0),
        }
        if self.model.unet_config.dropout > 0:
            seeds = torch.randint(2**62, (shard.total,), generator=self.generator)
            terms["dropout_seeds"] = shard.own(seeds).tolist()
        with autocast(device, self.config.precision):
            losses = self.task.loss(self._denoiser, x_0, conditions, t=t, noise=noise, drop=drop, **terms)
        return losses.mean()


class DiffusionEvaluator(SupervisedEvaluator):
    """Validate the averaged denoiser: the loss at fixed times with fixed noise, the same in every epoch.

    The loss of as many training cases at the same times, with the same noise, says whether the denoiser
    remembers them: "training_loss", and "gap", the validation loss less it.

    Args:
        device: where to evaluate.
        val_data_loader: batches of a `LatentDataset`, not shuffled.
        network: the model.
        config: noise path and prediction type.
        average: whose `.module` is validated.
        training_loader: the same of as many training cases; None leaves their loss out.
        n_times: times at which each case's loss is taken, evenly spread over the path.
        val_handlers: attached in their order.
    """

    def __init__(
        self,
        device: torch.device,
        val_data_loader: Iterable[Any],
        *,
        network: LatentDiffusionModel,
        config: LatentDiffusionConfig,
        average: AveragedModel,
        training_loader: Iterable[Any] | None = None,
        n_times: int = 8,
        val_handlers: Sequence[Any] | None = None,
    ) -> None:
        self.config = config
        self.task = DenoisingTask(network, config)
        self.model = network
        self.denoiser = averaged_denoiser(average)
        self.n_times = n_times
        self.training_loader = training_loader
        super().__init__(
            device=device,
            val_data_loader=val_data_loader,
            network=network,
            key_val_metric={"validation_loss": Average(output_transform=lambda output: output[Keys.LOSS])},
            metric_cmp_fn=lambda current, best: current < best,
            val_handlers=val_handlers,
            decollate=False,
        )
        self.add_event_handler(Events.EPOCH_COMPLETED, lambda _: self._measure_gap())

    def run(self, global_epoch: int = 1) -> None:  # type: ignore[override]
        """Validate, with all weights of the average in each process where they are sharded."""
        with whole_weights(self.denoiser):
            super().run(global_epoch)

    def _iteration(self, engine: Any, batchdata: dict[str, Any]) -> dict[str, Any]:
        number = batch_number(self.data_loader, engine.state.iteration)
        return {Keys.LOSS: self._loss_of(batchdata, number)}

    def _measure_gap(self) -> None:
        if self.training_loader is None:
            return
        average = Average()
        for iteration, batch in enumerate(self.training_loader, start=1):
            average.update(self._loss_of(batch, batch_number(self.training_loader, iteration)))
        loss = float(average.compute())
        self.state.metrics[TRAINING_LOSS] = loss
        self.state.metrics[GAP] = self.state.metrics["validation_loss"] - loss

    @torch.no_grad()
    def _loss_of(self, batchdata: dict[str, Any], number: int) -> float:
        """Return the mean loss of a batch; its number, from 1, says which noise it gets."""
        device = self.state.device
        denoiser = self.denoiser.eval()
        generator = torch.Generator().manual_seed(numbered_seed(self.config.seed, number))
        x_0 = self.task.draw_latents(batchdata, generator=generator)
        conditions = gather_conditions(batchdata, denoiser.conditioning.names).to(device)
        regions = self.task.weigh_regions(batchdata, x_0)
        losses = []
        for step in make_steps(self.task.path, self.n_times):
            noise = torch.randn(x_0.shape, generator=generator).to(device)
            times = torch.full((len(x_0),), step.t, device=device)
            with autocast(device, self.config.precision):
                loss = self.task.loss(denoiser, x_0, conditions, t=times, noise=noise, region_weights=regions)
                losses.append(loss)
        return torch.stack(losses).mean().item()
