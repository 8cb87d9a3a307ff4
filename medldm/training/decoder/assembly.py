"""Put the training of the decoder together."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monai.handlers import ValidationHandler
from torch import nn

from medldm.latent_diffusion.config import LatentDiffusionConfig
from medldm.latent_diffusion.model import LatentDiffusionModel
from medldm.networks.patch_discriminator import fit_discriminator
from medldm.sampling.sampler import LatentDiffusionSampler
from medldm.seeds import restart_noise
from medldm.training.assembly import Training
from medldm.training.averaging import average_weights
from medldm.training.configs import RunConfig
from medldm.training.decoder.cases import DecoderCases
from medldm.training.decoder.config import DecoderConfig
from medldm.training.decoder.noise_level import NoiseLevel, measure_level
from medldm.training.decoder.trainer import DecoderEvaluator, DecoderTrainer, DenoisedLatents, LatentDecoder
from medldm.training.handlers import LossBar, TrainingLog
from medldm.training.identity import TrainingIdentity
from medldm.training.loader import training_loader, validation_loader
from medldm.training.losses.label_maps import LabelMapLoss
from medldm.training.losses.reconstruction import AutoencoderLoss, AutoencoderLossConfig, FirstStageLoss
from medldm.training.optimisation import make_adam, make_schedule
from medldm.training.previews import SliceWriter
from medldm.training.resume.state_handler import TrainingStateHandler

STAGE = "decoder"


def build_decoder_training(
    model: LatentDiffusionModel,
    training_set: DecoderCases,
    *,
    config: DecoderConfig,
    diffusion: LatentDiffusionConfig,
    run: RunConfig,
    validation_set: DecoderCases | None = None,
    discriminator: nn.Module | None = None,
    loss: FirstStageLoss | None = None,
    handlers: Sequence[Any] = (),
) -> Training[DecoderTrainer]:
    """Put the training of a model's decoder together.

    Args:
        model: trained; its decoder is trained in place, and nothing else of it changes.
        training_set: latents, conditions and volumes of the training cases.
        config: steps, noise, rates.
        diffusion: noise path and prediction type of the model's training.
        run: where to write and how to load; the batch size is that of `config`.
        validation_set: the same for the validation cases; the noise level is measured on them, or without
            them on the training cases.
        discriminator: None makes one where `config` has an adversary and the model makes images.
        loss: None for the first stage's with what `config` says; for label maps `LabelMapLoss`.
        handlers: further ones of the trainer.
    """
    restart_noise(config.seed)
    device = model.latent_shift.device
    run = run.copy(batch_size=config.batch_size)
    training_set = DecoderCases(
        training_set.latents,
        training_set.volumes,
        length=config.n_batches // config.n_epochs * config.batch_size,
    )
    loss = loss or _make_loss(config, model)
    discriminator = discriminator or _make_discriminator(config, model, training_set)
    identity = TrainingIdentity(
        device=device,
        config=config,
        run=run,
        frozen={"autoencoder": model.autoencoder, "denoiser": model.denoiser, "loss": loss},
        cases={"training": training_set, "validation": validation_set},
        diffusion=diffusion.describe_diffusion(),
        latents=[model.latent_shift, model.latent_scale, model.spread],
        autoencoder=model.autoencoder_config,
        conditioning=model.conditioning_config,
        denoiser=model.unet_config,
        space=model.space,
        loss=loss,
        discriminator=discriminator,
    )
    if run.output_dir is not None:
        identity.values  # noqa: B018 (what it is now, before a batch changes the decoder)
    identity.require_same(decoder=model.autoencoder)
    sampler = LatentDiffusionSampler(model, diffusion)
    measured_on = training_set if validation_set is None else validation_set
    measure = functools.partial(
        measure_level,
        sampler,
        measured_on,
        denoising_steps=config.denoising_steps,
        precision=config.precision,
        seed=config.seed,
    )
    denoised = DenoisedLatents(
        sampler,
        level=NoiseLevel(config.noise_level, measure=measure),
        num_steps=config.denoising_steps,
        precision=config.precision,
    )
    network = LatentDecoder(model.autoencoder)
    average = average_weights(network, config.ema_decay)
    evaluator = None
    if validation_set is not None:
        evaluator = _make_evaluator(average.module, validation_set, denoised, config, run)
    all_handlers = _make_handlers(run, evaluator=evaluator, identity=identity, further=handlers)
    optimizer = make_adam(network.trained_weights(), config.learning_rate)
    adversary = None
    if discriminator is not None:
        rate = config.discriminator_learning_rate
        adversary = make_adam(discriminator.parameters(), rate, betas=(0.5, 0.999))
    trainer = DecoderTrainer(
        device,
        config.n_epochs,
        training_loader(
            training_set, batch_size=config.batch_size, seed=config.seed, num_workers=run.num_workers
        ),
        denoised=denoised,
        patch_size=config.patch_size,
        seed=config.seed,
        identity=identity,
        network=network,
        optimizer=optimizer,
        loss=loss,
        discriminator=discriminator,
        discriminator_optimizer=adversary,
        schedule=make_schedule(optimizer, warmup_steps=config.warmup_steps, total_steps=config.n_batches),
        gradient_clip=config.gradient_clip,
        average=average,
        precision=config.precision,
        train_handlers=all_handlers,
    )
    return Training(trainer=trainer, evaluator=evaluator, handlers=all_handlers)


def _make_loss(config: DecoderConfig, model: LatentDiffusionModel) -> FirstStageLoss:
    if model.makes_label_maps:
        return LabelMapLoss()
    return AutoencoderLoss(
        AutoencoderLossConfig(
            adversarial_start=1 - config.adversarial_share if config.adversarial_share else None,
            adversarial_weight=config.adversarial_weight,
            adaptive_weight=config.adaptive_weight,
        )
    )


def _make_discriminator(
    config: DecoderConfig, model: LatentDiffusionModel, cases: DecoderCases
) -> nn.Module | None:
    if model.makes_label_maps or config.adversarial_share == 0:
        return None
    latent_size = cases.latents_of(0)["mean"].shape[1:]
    size = [n * f for n, f in zip(latent_size, model.autoencoder.downsampling, strict=True)]
    patch = config.patch_size or size
    shown = [min(own, whole) for own, whole in zip(patch, size, strict=True)]
    discriminator = fit_discriminator(model.autoencoder_config.out_channels, size=shown)
    return discriminator.to(model.latent_shift.device)


def _make_evaluator(
    network: Any,
    validation_set: DecoderCases,
    denoised: DenoisedLatents,
    config: DecoderConfig,
    run: RunConfig,
) -> DecoderEvaluator:
    loader = validation_loader(validation_set, batch_size=1, num_workers=run.num_workers)
    device = denoised.sampler.model.latent_shift.device
    return DecoderEvaluator(device, loader, network=network, denoised=denoised, seed=config.seed)


def _make_handlers(
    run: RunConfig, *, evaluator: DecoderEvaluator | None, identity: TrainingIdentity, further: Sequence[Any]
) -> list[Any]:
    """Return validation, log, bar, preview, what the caller adds, and last of all the state."""
    if run.output_dir is None:
        return list(further)
    folder = Path(run.output_dir)
    log = TrainingLog(folder / "logs" / STAGE, evaluator=evaluator)
    # Another training, of another denoiser or with other settings, has states of its own.
    state_handler = TrainingStateHandler(
        folder / "state" / STAGE / identity.digest,
        resume="auto" if run.resume == "must" else run.resume,
        handlers=[log],
        evaluator=evaluator,
        every_minutes=run.save_minutes,
        every_steps=run.save_batches,
        identity=identity,
        output_dir=folder,
    )
    shown: list[Any] = [log, LossBar(STAGE)]
    if evaluator is not None:
        shown = [ValidationHandler(1, evaluator), *shown, SliceWriter(log, evaluator=evaluator)]
    return [*shown, *further, state_handler]
