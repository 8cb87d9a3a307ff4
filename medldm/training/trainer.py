"""LatentDiffusionTrainer: the second stage from Python, without a bundle."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from monai.handlers import ValidationHandler
from torch.utils.data import DataLoader

from medldm.errors import ConfigError
from medldm.latent_diffusion.config import LatentDiffusionConfig
from medldm.latent_diffusion.model import LatentDiffusionModel, name_autoencoder_type
from medldm.latent_diffusion.model_files import describe_latent_diffusion, load_first_stage
from medldm.runtime.devices import choose_device
from medldm.seeds import seed_everything
from medldm.training.averaging import average_weights
from medldm.training.diffusion import DiffusionEvaluator, DiffusionTrainer, averaged_denoiser
from medldm.training.handlers import CheckpointWriter, LossBar, TrainingLog
from medldm.training.latent_cache import LatentDataset, cache_latents
from medldm.training.optimisation import make_schedule


class LatentDiffusionTrainer:
    """Train the denoiser of a model on a data loader of volumes.

    Args:
        model: its autoencoder is loaded from `config.autoencoder_path` where that is given.
        config: noise path and training.
        output_dir: receives `latent_diffusion.safetensors` (best), `latent_diffusion_last.safetensors` and
            logs.
        device: "auto", "cpu", "cuda", ...
        batch_size: of the training on latents; the loader's own batches only feed the encoder.

    Raises:
        CheckpointError: if the autoencoder's file does not fit the model.
        ValueError: if `config.autoencoder_type` is not that of the model.

    Example:
        >>> trainer = LatentDiffusionTrainer(model, config, output_dir="outputs")  # doctest: +SKIP
        >>> trainer.train(data_loader)  # doctest: +SKIP
    """

    def __init__(
        self,
        model: LatentDiffusionModel,
        config: LatentDiffusionConfig,
        *,
        output_dir: str | Path = "outputs",
        device: str = "auto",
        batch_size: int = 8,
    ) -> None:
        own_type = name_autoencoder_type(model.autoencoder_config)
        if own_type != config.autoencoder_type:
            raise ConfigError(
                f"the model has a {own_type!r}, but autoencoder_type is {config.autoencoder_type!r}"
            )
        if config.autoencoder_path is not None:
            load_first_stage(model, config.autoencoder_path)
        model.set_scaling_factor(config.latent_scaling_factor)
        self.device = choose_device(device)
        self.model = model.to(self.device)
        self.config = config
        self.output_dir = Path(output_dir)
        self.batch_size = batch_size

    def train(
        self,
        data_loader: Iterable[dict[str, Any]],
        *,
        validation_loader: Iterable[dict[str, Any]] | None = None,
    ) -> Path:
        """Encode each volume once, then train.

        Args:
            data_loader: batches with "image" (B, 1, X, Y, Z) in [-1, 1] and the model's conditions ("label",
                "class", "text"); one epoch of it is one pass over the cohort, unshuffled.
            validation_loader: the same; decides which weights are the best. None keeps the last.

        Returns:
            The checkpoint of the best weights.
        """
        seed_everything(self.config.seed)
        training = cache_latents(self.model, data_loader)
        validation = None if validation_loader is None else cache_latents(self.model, validation_loader)
        trainer, writer = self._build(training, validation)
        trainer.run()
        return writer.best_path

    def _build(
        self, training: LatentDataset, validation: LatentDataset | None
    ) -> tuple[DiffusionTrainer, CheckpointWriter]:
        config, denoiser = self.config, self.model.denoiser
        loader = DataLoader(training, batch_size=self.batch_size, shuffle=True)
        optimizer = torch.optim.AdamW(
            denoiser.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
        )
        average = average_weights(denoiser, config.ema_decay)
        evaluator = None
        if validation is not None:
            evaluator = DiffusionEvaluator(
                self.device,
                DataLoader(validation, batch_size=self.batch_size),
                network=self.model,
                config=config,
                average=average,
            )
        writer = CheckpointWriter(
            self.output_dir,
            name="latent_diffusion",
            describe=describe_latent_diffusion(self.model, config, denoiser=averaged_denoiser(average)),
            evaluator=evaluator,
            metric="validation_loss",
            larger_is_better=False,
        )
        log = TrainingLog(self.output_dir / "logs", evaluator=evaluator)
        validate = [] if evaluator is None else [ValidationHandler(interval=1, validator=evaluator)]
        trainer = DiffusionTrainer(
            self.device,
            config.n_epochs,
            loader,
            network=self.model,
            config=config,
            optimizer=optimizer,
            schedule=make_schedule(optimizer, warmup_steps=config.warmup_steps),
            average=average,
            train_handlers=[*validate, log, LossBar("diffusion"), writer],
        )
        return trainer, writer
