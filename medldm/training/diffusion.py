"""Second stage: train the denoiser on MONAI's supervised engine, on cached latents."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from ignite.engine import Engine, Events
from ignite.metrics import Average
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.inferers import Inferer, SimpleInferer
from monai.utils.enums import CommonKeys as Keys
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import default_collate

from medldm.conditioning import Conditions
from medldm.diffusion import denoising_losses, make_steps
from medldm.latent_diffusion.config import LatentDiffusionConfig
from medldm.latent_diffusion.model import ConditionalDenoiser, LatentDiffusionModel
from medldm.runtime.batch_shard import BatchShard, whole_batch
from medldm.runtime.distributed import accumulating, is_main_process
from medldm.sampling.sampler import LatentDiffusionSampler
from medldm.seeds import numbered_seed
from medldm.training.averaging import average_weights
from medldm.training.batches import batch_number, shard_of_batch
from medldm.training.handlers import TERMS, TrainingLog, middle_slices
from medldm.training.latent_cache import LatentDataset
from medldm.training.loader import QuarantinedDataset
from medldm.training.optimisation import OptimiserStep
from medldm.training.precision import autocast, make_scaler
from medldm.training.resume.resumable_trainer import BufferState, GeneratorState, HasState, ResumableTrainer
from medldm.training.sharding import share_denoiser, whole_weights
from medldm.training.volumes import gather_conditions


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

    def loss(
        self,
        denoiser: nn.Module,
        x_0: Tensor,
        conditions: Conditions,
        *,
        t: Tensor,
        noise: Tensor,
        drop: dict[str, Tensor] | None = None,
    ) -> Tensor:
        """Return the squared error (B,) of the prediction at the times t (B,)."""
        return denoising_losses(
            lambda x_t, time: denoiser(x_t, time, conditions, drop=drop),
            x_0,
            t=t,
            noise=noise,
            path=self.path,
            prediction_type=self.prediction_type,
            weighting=self.weighting,
        )


def averaged_denoiser(average: AveragedModel) -> ConditionalDenoiser:
    """Return the denoiser that an average holds.

    Raises:
        TypeError: if it is the average of something else.
    """
    if not isinstance(average.module, ConditionalDenoiser):
        raise TypeError(f"the average is of a {type(average.module).__name__}: average model.denoiser")
    return average.module


class DiffusionTrainer(ResumableTrainer, SupervisedTrainer):  # type: ignore[misc]
    """Train the denoiser of a latent diffusion model.

    The statistics of the latents are measured over the whole training cohort and stored in the model.

    Args:
        device: where to train.
        max_epochs: passes over the data.
        train_data_loader: batches of a `LatentDataset`.
        network: the model; its autoencoder is not touched.
        config: noise path, prediction type, accumulation, clipping, precision, seed.
        optimizer: of the denoiser's weights.
        schedule: learning-rate schedule, in steps.
        average: of the denoiser's weights, made by `average_weights`; it is what is validated and saved.
        sharding: how several processes share the denoiser: "ddp", or "fsdp", see `share_denoiser`.
        inferer: kept for MONAI's interface.
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
        schedule: LambdaLR | None = None,
        average: AveragedModel | None = None,
        sharding: str = "ddp",
        inferer: Inferer | None = None,
        train_handlers: Sequence[Any] | None = None,
    ) -> None:
        self.config = config
        self.model = network
        self.task = DenoisingTask(network, config)
        self.average = average or average_weights(network.denoiser, 0.0)
        self.generator = torch.Generator().manual_seed(config.seed)
        self._denoiser = share_denoiser(
            network.denoiser,
            sharding=sharding,
            average=self.average,
            optimizer=optimizer,
            device=torch.device(device),
        )
        self._step = OptimiserStep(
            optimizer,
            scaler=make_scaler(torch.device(device), config.precision),
            schedule=schedule,
            accumulation_steps=config.accumulation_steps,
            gradient_clip=config.gradient_clip,
        )
        dataset = getattr(train_data_loader, "dataset", None)
        dataset = dataset.dataset if isinstance(dataset, QuarantinedDataset) else dataset
        if not isinstance(dataset, LatentDataset):
            raise TypeError(
                f"the second stage trains on a LatentDataset, not on {type(dataset).__name__}: "
                "make it with cache_latents"
            )
        network.set_latent_statistics(*dataset.measure_statistics())
        super().__init__(
            device=device,
            max_epochs=max_epochs,
            train_data_loader=train_data_loader,
            network=network,
            optimizer=optimizer,
            loss_function=self.task.loss,
            inferer=inferer or SimpleInferer(),
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
            "latent_statistics": BufferState(self.model, ("latent_shift", "latent_scale")),
            "average": self.average,
            "optimiser": self._step,
            "generator": GeneratorState(self.generator),
        }

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
        with autocast(device, self.config.precision):
            return self.task.loss(self._denoiser, x_0, conditions, t=t, noise=noise, drop=drop).mean()


class DiffusionEvaluator(SupervisedEvaluator):
    """Validate the averaged denoiser: the loss at fixed times with fixed noise, the same in every epoch.

    Args:
        device: where to evaluate.
        val_data_loader: batches of a `LatentDataset`, not shuffled.
        network: the model.
        config: noise path and prediction type.
        average: whose `.module` is validated.
        n_times: times at which each case's loss is taken, evenly spread over the path.
        inferer: kept for MONAI's interface.
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
        n_times: int = 8,
        inferer: Inferer | None = None,
        val_handlers: Sequence[Any] | None = None,
    ) -> None:
        self.config = config
        self.task = DenoisingTask(network, config)
        self.model = network
        self.denoiser = averaged_denoiser(average)
        self.n_times = n_times
        super().__init__(
            device=device,
            val_data_loader=val_data_loader,
            network=network,
            inferer=inferer or SimpleInferer(),
            key_val_metric={"validation_loss": Average(output_transform=lambda output: output[Keys.LOSS])},
            metric_cmp_fn=lambda current, best: current < best,
            val_handlers=val_handlers,
            decollate=False,
        )

    def run(self, global_epoch: int = 1) -> None:  # type: ignore[override]
        """Validate, with all weights of the average in each process where they are sharded."""
        with whole_weights(self.denoiser):
            super().run(global_epoch)

    @torch.no_grad()
    def _iteration(self, engine: Any, batchdata: dict[str, Any]) -> dict[str, Any]:
        device = engine.state.device
        denoiser = self.denoiser.eval()
        number = batch_number(self.data_loader, engine.state.iteration)
        generator = torch.Generator().manual_seed(numbered_seed(self.config.seed, number))
        x_0 = self.task.draw_latents(batchdata, generator=generator)
        conditions = gather_conditions(batchdata, denoiser.conditioning.names).to(device)
        losses = []
        for step in make_steps(self.task.path, self.n_times):
            noise = torch.randn(x_0.shape, generator=generator).to(device)
            times = torch.full((len(x_0),), step.t, device=device)
            with autocast(device, self.config.precision):
                losses.append(self.task.loss(denoiser, x_0, conditions, t=times, noise=noise))
        return {Keys.LOSS: torch.stack(losses).mean().item()}


class SampleWriter:
    """Write the middle slices of a sample to TensorBoard after each validation.

    The sample is drawn with the averaged weights for the conditions of the first validation case, always from
    the same noise.

    Args:
        log: where to write.
        evaluator: of the second stage.
        num_steps: of the sampling; few, for it is only a look.
    """

    def __init__(self, log: TrainingLog, *, evaluator: DiffusionEvaluator, num_steps: int = 10) -> None:
        self.log = log
        self.evaluator = evaluator
        self.num_steps = num_steps

    def attach(self, trainer: Engine) -> None:
        """Write after each validation, in the first process."""
        if is_main_process():
            self.evaluator.add_event_handler(Events.COMPLETED, self._write, trainer)

    def _write(self, evaluator: DiffusionEvaluator, trainer: Engine) -> None:
        loader: Any = evaluator.data_loader
        batch, config = default_collate([loader.dataset[0]]), evaluator.config
        sampler = LatentDiffusionSampler(evaluator.model, config, denoiser=evaluator.denoiser)
        conditions = gather_conditions(batch, sampler.denoiser.conditioning.names)
        volume = sampler.sample(
            batch["mean"].shape, conditions=conditions, num_steps=self.num_steps, seed=config.seed
        )
        self.log.writer.add_image("validation/sample", middle_slices(volume[0]), trainer.state.epoch)
