"""Put a training together: bundles, the Python API, plans, benchmarks and tests all call these two functions.

What differs between volumes and label maps comes as parts: the loss, the inferer, the evaluator, the preview
and what the card says.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from monai.engines import SupervisedEvaluator
from monai.inferers import Inferer
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Dataset

from medldm.data.split_record import SplitRecord
from medldm.errors import ConfigError
from medldm.latent_diffusion.config import LatentDiffusionConfig
from medldm.latent_diffusion.lineage import DENOISER
from medldm.latent_diffusion.model import LatentDiffusionModel
from medldm.latent_diffusion.model_files import Describe, describe_autoencoder, describe_latent_diffusion
from medldm.latent_diffusion.recipe import OF_AUTOENCODER, OF_DIFFUSION
from medldm.latent_diffusion.recorded_split import describe_with_split
from medldm.latent_diffusion.volume_space import VolumeSpace
from medldm.networks import VAE, VQVAE
from medldm.seeds import restart_noise
from medldm.training.autoencoder import AutoencoderEvaluator, AutoencoderTrainer
from medldm.training.averaging import average_weights
from medldm.training.configs import AutoencoderTrainingConfig, RunConfig
from medldm.training.denoising_task import averaged_denoiser
from medldm.training.diffusion import DiffusionEvaluator, DiffusionTrainer
from medldm.training.identity import TrainingIdentity
from medldm.training.latent_dataset import LatentDataset, measure_latent_statistics
from medldm.training.linear_path import fit_linear_path
from medldm.training.loader import training_loader, validation_loader
from medldm.training.losses.reconstruction import FirstStageLoss
from medldm.training.memorisation import as_many_cases
from medldm.training.optimisation import make_adam, make_schedule
from medldm.training.patience import DecayPhase
from medldm.training.previews import SampleWriter, SliceWriter
from medldm.training.quarantine import Quarantine
from medldm.training.recipe import settings_of
from medldm.training.region_weights import resolve_region_weights
from medldm.training.resume.resumable_trainer import ResumableTrainer
from medldm.training.sharding import check_sharding, share_denoiser
from medldm.training.standard_handlers import TrainingConfig, standard_handlers
from medldm.training.warm_start.adapters import add_adapters, describe_merged
from medldm.training.warm_start.freezing import freeze_parts, trained_weights
from medldm.training.warm_start.plan import StartPlan

logger = logging.getLogger(__name__)

TrainerType = TypeVar("TrainerType", bound=ResumableTrainer)


@dataclass(frozen=True, kw_only=True)
class Training(Generic[TrainerType]):
    """A training that is put together.

    Args:
        trainer: `trainer.run()` trains, from the last saved state on if there is one.
        evaluator: validates the averaged weights; None without a validation set.
        handlers: of the trainer, in their order.
    """

    trainer: TrainerType
    evaluator: SupervisedEvaluator | None
    handlers: list[Any]


def trainer_of(training: Training[TrainerType], *, max_epochs: int) -> TrainerType:
    """Return the trainer of a training: what a bundle's `train#trainer` is, with the epochs MONAI looks for.

    Raises:
        ConfigError: if the training was put together for another number of epochs.
    """
    engine: Any = training.trainer
    if engine.state.max_epochs != max_epochs:
        raise ConfigError(
            f"max_epochs is {max_epochs}, but the training was put together for {engine.state.max_epochs}: "
            "let both follow from one knob"
        )
    return training.trainer


def build_autoencoder_training(
    network: VAE | VQVAE,
    training_set: Dataset[Any],
    *,
    loss: FirstStageLoss,
    config: AutoencoderTrainingConfig,
    run: RunConfig,
    validation_set: Dataset[Any] | None = None,
    discriminator: nn.Module | None = None,
    space: VolumeSpace | None = None,
    inferer: Inferer | None = None,
    make_evaluator: Callable[..., SupervisedEvaluator] = AutoencoderEvaluator,
    extend_card: Callable[[Describe], Describe] | None = None,
    split: SplitRecord | None = None,
    quarantine: Quarantine | None = None,
    fits_linear_path: bool = True,
    recipe: Mapping[str, Any] | None = None,
    start: StartPlan | None = None,
    handlers: Sequence[Any] = (),
    val_handlers: Sequence[Any] = (),
) -> Training[AutoencoderTrainer]:
    """Put the first stage together, and set the network's linear path, if it has one, to the training cases.

    Args:
        network: to train, on the device where it is trained.
        training_set: cases with "image" (C, X, Y, Z).
        loss: of network and discriminator.
        config: rates, steps and precision.
        run: where to write, how to load, when to validate and save.
        validation_set: whole volumes; None, or none in it, keeps the last weights as the best.
        discriminator: None to train without an adversary.
        space: of the volumes, for the card.
        inferer: calls the network; see `AutoencoderTrainer`.
        make_evaluator: makes the validation engine; its key metric decides which weights are the best.
        extend_card: adds to the checkpoints' card, such as the structures of label maps.
        split: of the cohort, for the card: whoever splits it again meets no training case unseen.
        quarantine: for training cases that turn out bad.
        fits_linear_path: False leaves a linear path as it is, for work that is measured only.
        recipe: further settings that the card records, by name.
        start: weights to begin with; the linear path is theirs, too.
        handlers: further ones of the trainer.
        val_handlers: of the evaluator.

    Raises:
        ConfigError: if parts to freeze are unknown, or are all of the network.
    """
    if start is not None:
        start.apply(network)
    elif fits_linear_path:
        fit_linear_path(network, training_set)
    freeze_parts(network, config.freeze)
    _require_gradient(network, loss)
    restart_noise(config.seed)
    device = next(network.parameters()).device
    validation_set = _unless_empty(validation_set)
    identity = TrainingIdentity(
        device=device,
        config=config,
        run=run,
        frozen={"loss": loss},
        cases={"training": training_set, "validation": validation_set},
        network=network.config,
        loss=loss,
        discriminator=discriminator,
        space=space,
        inferer=inferer,
        evaluator=make_evaluator,
        fits_linear_path=fits_linear_path,
        start=None if start is None else start.identity,
    )
    identity.require_same(autoencoder=network)
    loader = _load_training(training_set, run, seed=config.seed, quarantine=quarantine)
    decay = _last_phase(config, n_batches=len(loader))
    average = average_weights(network, config.ema_decay, length=config.ema_length)
    averaged: Any = average.module
    evaluator = None
    if validation_set is not None:
        batches = validation_loader(validation_set, batch_size=1, num_workers=run.num_workers)
        evaluator = make_evaluator(
            device, batches, network=averaged, precision=config.precision, val_handlers=list(val_handlers)
        )
    settings = settings_of(
        config, run, n_batches=len(loader), loss=loss, is_started=start is not None, further=recipe
    )
    describe = describe_autoencoder(averaged, space, recipe={OF_AUTOENCODER: settings})
    all_handlers = standard_handlers(
        "autoencoder",
        run,
        name="autoencoder",
        describe=_extend(describe if start is None else start.describe(describe), extend_card, split),
        evaluator=evaluator,
        preview=SliceWriter,
        quarantine=quarantine,
        identity=identity,
        config=config,
        decay=decay,
        further=handlers,
    )
    optimizer = make_adam(trained_weights(network), config.learning_rate)
    adversary = None
    if discriminator is not None:
        rate = config.discriminator_learning_rate
        adversary = make_adam(discriminator.parameters(), rate, weight_decay=0.01, betas=(0.5, 0.999))
    trainer = AutoencoderTrainer(
        device,
        config.n_epochs,
        loader,
        network=network,
        optimizer=optimizer,
        loss=loss,
        discriminator=discriminator,
        discriminator_optimizer=adversary,
        schedule=_make_schedule(optimizer, config, n_batches=len(loader), decay=decay),
        accumulation_steps=config.accumulation_steps,
        gradient_clip=config.gradient_clip,
        average=average,
        precision=config.precision,
        latent_noise=config.latent_noise,
        inferer=inferer,
        train_handlers=all_handlers,
    )
    if start is not None:
        start.checkpoint.attach(trainer)
    return Training(trainer=trainer, evaluator=evaluator, handlers=all_handlers)


def build_diffusion_training(
    model: LatentDiffusionModel,
    training_set: LatentDataset,
    *,
    config: LatentDiffusionConfig,
    run: RunConfig,
    validation_set: LatentDataset | None = None,
    sharding: str = "ddp",
    preview: Callable[..., SampleWriter] = SampleWriter,
    extend_card: Callable[[Describe], Describe] | None = None,
    split: SplitRecord | None = None,
    quarantine: Quarantine | None = None,
    recipe: Mapping[str, Any] | None = None,
    start: StartPlan | None = None,
    handlers: Sequence[Any] = (),
    val_handlers: Sequence[Any] = (),
) -> Training[DiffusionTrainer]:
    """Measure the latents of the training cohort, and put the second stage together.

    Args:
        model: its denoiser is trained, on the device where it is; its latent statistics are set.
        training_set: of `encode_cases` or `cache_latents`.
        config: noise path, rates, steps, precision and seed.
        run: where to write, how to load, when to validate and save.
        validation_set: the same for the validation cases; None, or none in it, keeps the last weights as the
            best.
        sharding: how several processes share the denoiser, see `share_denoiser`.
        preview: makes the handler that shows a sample after each validation.
        extend_card: adds to the checkpoints' card, such as the structures of label maps.
        split: of the cohort, for the card: whoever splits it again meets no training case unseen.
        quarantine: for training cases that turn out bad.
        recipe: further settings that the card records, by name.
        start: weights to begin with.
        handlers: further ones of the trainer.
        val_handlers: of the evaluator.

    Raises:
        ConfigError: if region weights are given for structures that the model is not told, or parts to freeze
            are unknown.
    """
    if start is not None:
        start.apply(model.denoiser)
        model.lineage[DENOISER] = start.ancestors
    freeze_parts(model.denoiser, config.freeze)
    check_sharding(sharding, config)
    add_adapters(model.denoiser, config.adapter_rank, freeze=config.freeze, seed=config.seed)
    restart_noise(config.seed)
    device = model.latent_shift.device
    validation_set = _unless_empty(validation_set)
    identity = TrainingIdentity(
        device=device,
        config=config,
        run=run,
        frozen={"autoencoder": model.autoencoder},
        cases={"training": training_set, "validation": validation_set},
        autoencoder=model.autoencoder_config,
        denoiser=model.unet_config,
        conditioning=model.conditioning_config,
        space=model.space,
        start=None if start is None else start.identity,
    )
    identity.require_same(denoiser=model.denoiser)
    of_modes = config.edm_spread == "modes"
    measure_latent_statistics(model, training_set, scaling=config.latent_scaling, of_modes=of_modes)
    _check_augmentation(model, training_set)
    loader = _load_training(training_set, run, seed=config.seed, quarantine=quarantine)
    model.recipe[OF_DIFFUSION] = settings_of(
        config, run, n_batches=len(loader), is_started=start is not None, further=recipe
    )
    config = resolve_region_weights(config, model, training_set)
    decay = _last_phase(config, n_batches=len(loader))
    average = average_weights(model.denoiser, config.ema_decay, length=config.ema_length)
    denoiser = share_denoiser(model.denoiser, sharding=sharding, average=average, device=device)
    evaluator = None
    if validation_set is not None:
        validated = {"batch_size": run.batch_size, "num_workers": run.num_workers}
        evaluator = DiffusionEvaluator(
            device,
            validation_loader(validation_set, **validated),
            network=model,
            config=config,
            average=average,
            training_loader=validation_loader(as_many_cases(training_set, len(validation_set)), **validated),
            val_handlers=list(val_handlers),
        )
    describe = describe_latent_diffusion(model, config, denoiser=averaged_denoiser(average))
    all_handlers = standard_handlers(
        "diffusion",
        run,
        name="latent_diffusion",
        describe=_extend(describe_merged(describe), extend_card, split),
        evaluator=evaluator,
        preview=preview,
        quarantine=quarantine,
        identity=identity,
        config=config,
        decay=decay,
        further=handlers,
    )
    # After the sharding, which replaces the weights.
    optimizer = make_adam(
        trained_weights(model.denoiser), config.learning_rate, weight_decay=config.weight_decay
    )
    trainer = DiffusionTrainer(
        device,
        config.n_epochs,
        loader,
        network=model,
        config=config,
        optimizer=optimizer,
        denoiser=denoiser,
        schedule=_make_schedule(optimizer, config, n_batches=len(loader), decay=decay),
        average=average,
        train_handlers=all_handlers,
    )
    if start is not None:
        start.checkpoint.attach(trainer)
    return Training(trainer=trainer, evaluator=evaluator, handlers=all_handlers)


def _extend(
    describe: Describe, extend_card: Callable[[Describe], Describe] | None, split: SplitRecord | None
) -> Describe:
    """Add to a card what the caller says, and the split."""
    return describe_with_split(describe if extend_card is None else extend_card(describe), split)


def _require_gradient(network: VAE | VQVAE, loss: FirstStageLoss) -> None:
    """Refuse a loss that looks at the gradient of a decoder that is frozen."""
    if loss.adaptive_weight > 0 and not network.last_layer.requires_grad:
        raise ConfigError(
            f"adaptive_weight is {loss.adaptive_weight:g}, which measures the gradient of the decoder, but "
            "freeze names the decoder: set adaptive_weight to 0"
        )


def _check_augmentation(model: LatentDiffusionModel, training_set: LatentDataset) -> None:
    """Refuse a denoiser that expects to be told something else; warn of one that is not told."""
    augmentation = getattr(training_set, "augmentation", None)
    n_channels = model.unet_config.augmentation_channels
    if augmentation is None or augmentation.n_channels == n_channels:
        return
    if n_channels:
        raise ConfigError(
            f"the denoiser has {n_channels} augmentation_channels, but the training cases' augmentation has "
            f"{augmentation.n_channels}: set augmentation_channels to that"
        )
    logger.warning(
        "the training cases are augmented, but the denoiser is not told how (augmentation_channels is 0): "
        "it will make augmented volumes, too"
    )


def _load_training(
    dataset: Dataset[Any], run: RunConfig, *, seed: int, quarantine: Quarantine | None
) -> DataLoader[Any]:
    return training_loader(
        dataset, batch_size=run.batch_size, seed=seed, num_workers=run.num_workers, quarantine=quarantine
    )


def _unless_empty(dataset: Any) -> Any:
    """Return a validation set, None where it has no case."""
    return None if dataset is None or len(dataset) == 0 else dataset


def _n_steps(config: TrainingConfig, *, n_batches: int) -> int:
    return config.n_epochs * n_batches // config.accumulation_steps


def _last_phase(config: TrainingConfig, *, n_batches: int) -> DecayPhase | None:
    """Return the phase in which the learning rate falls; None for a cosine over all steps."""
    if config.patience is None:
        return None
    return DecayPhase(total_steps=_n_steps(config, n_batches=n_batches), share=config.decay_share)


def _make_schedule(
    optimizer: torch.optim.Optimizer, config: TrainingConfig, *, n_batches: int, decay: DecayPhase | None
) -> LambdaLR:
    n_steps = _n_steps(config, n_batches=n_batches)
    return make_schedule(optimizer, warmup_steps=config.warmup_steps, total_steps=n_steps, decay=decay)
