"""LatentDiffusionTrainer: the second stage from Python, without a bundle."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from medldm.errors import ConfigError
from medldm.latent_diffusion.config import LatentDiffusionConfig
from medldm.latent_diffusion.model import LatentDiffusionModel, name_autoencoder_type
from medldm.latent_diffusion.model_files import load_first_stage
from medldm.runtime.devices import choose_device
from medldm.runtime.distributed import init_distributed
from medldm.seeds import seed_everything
from medldm.training.assembly import build_diffusion_training
from medldm.training.configs import RunConfig
from medldm.training.handlers import CheckpointWriter
from medldm.training.latent_cache import cache_latents
from medldm.training.warm_start import open_start, plan_denoiser_start


class LatentDiffusionTrainer:
    """Train the denoiser of a model on a data loader of volumes.

    Args:
        model: its autoencoder is loaded from `config.autoencoder_path` where that is given.
        config: noise path and training.
        output_dir: receives `latent_diffusion.safetensors` (best), `latent_diffusion_last.safetensors`,
            `logs/diffusion` and `state/diffusion`.
        device: "auto", "cpu", "cuda", ...; the processes that torchrun started are joined on it.
        batch_size: of the training on latents, of all processes together; the loader's own batches only feed
            the encoder.
        start_from: checkpoint of a second stage whose denoiser is begun with, see `plan_denoiser_start`.
        start_names: name of a structure, a channel, a category or a condition here to its name there.
        allow_other_intensity: take weights of another kind of image.
        options: further fields of `RunConfig`: resume, val_interval, num_workers, save_minutes, ...

    Raises:
        CheckpointError: if the autoencoder's file does not fit the model.
        ValueError: if `config.autoencoder_type` is not that of the model.

    Examples:
        >>> import tempfile, torch
        >>> from medldm import LatentDiffusionModel, LatentUNetConfig, VAEConfig
        >>> model = LatentDiffusionModel(
        ...     autoencoder_config=VAEConfig(down_channels=[4, 8], n_groups=4, n_res_blocks=1),
        ...     unet_config=LatentUNetConfig(down_channels=[8, 16], n_groups=4, n_heads=2),
        ... )
        >>> batches = [{"image": torch.rand(2, 1, 8, 8, 8) * 2 - 1}]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     trainer = LatentDiffusionTrainer(model, LatentDiffusionConfig(n_epochs=1), output_dir=folder)
        ...     trainer.train(batches).name
        'latent_diffusion.safetensors'
    """

    def __init__(
        self,
        model: LatentDiffusionModel,
        config: LatentDiffusionConfig,
        *,
        output_dir: str | Path = "outputs",
        device: str = "auto",
        batch_size: int = 8,
        start_from: str | Path | None = None,
        start_names: Mapping[str, str] | None = None,
        allow_other_intensity: bool = False,
        **options: Any,
    ) -> None:
        own_type = name_autoencoder_type(model.autoencoder_config)
        if own_type != config.autoencoder_type:
            raise ConfigError(
                f"the model has a {own_type!r}, but autoencoder_type is {config.autoencoder_type!r}"
            )
        if config.autoencoder_path is not None:
            load_first_stage(model, config.autoencoder_path)
        model.set_scaling_factor(config.latent_scaling_factor)
        init_distributed(device=device)
        self.model = model.to(choose_device(device))
        self.config = config
        self.run = RunConfig(output_dir=str(output_dir), batch_size=batch_size, **options)
        start = open_start(
            start_from,
            stage="diffusion",
            names=start_names,
            allow_other_intensity=allow_other_intensity,
            output_dir=output_dir,
            resume=self.run.resume,
        )
        self.start = plan_denoiser_start(start, self.model, config=config)

    def train(
        self,
        data_loader: Iterable[dict[str, Any]],
        *,
        validation_loader: Iterable[dict[str, Any]] | None = None,
    ) -> Path:
        """Encode each volume once, then train, from the last saved state on if there is one.

        Args:
            data_loader: batches with "image" (B, C, X, Y, Z) in [-1, 1] and the model's conditions ("label",
                "class", "text"); one epoch of it is one pass over the cohort, unshuffled, and the same in
                every process.
            validation_loader: the same; decides which weights are the best. None keeps the last.

        Returns:
            The checkpoint of the best weights.
        """
        seed_everything(self.config.seed)
        latents = cache_latents(self.model, data_loader)
        of_validation = None if validation_loader is None else cache_latents(self.model, validation_loader)
        training = build_diffusion_training(
            self.model,
            latents,
            config=self.config,
            run=self.run,
            validation_set=of_validation,
            start=self.start,
        )
        training.trainer.run()
        writer = next(each for each in training.handlers if isinstance(each, CheckpointWriter))
        return writer.best_path
