"""The work whose memory and time a plan states: two steps of each training, and the making of a volume.

Each function makes a callable that runs the package's own trainers, evaluators and samplers, on tensors with
values or without.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from medldm.conditioning import ConditioningConfig, Conditions
from medldm.latent_diffusion.config import LatentDiffusionConfig
from medldm.latent_diffusion.model import LatentDiffusionModel, make_autoencoder
from medldm.networks import PatchDiscriminator, PatchDiscriminatorConfig
from medldm.networks.downsampling import latent_size
from medldm.networks.patch_discriminator import fit_discriminator
from medldm.planning.networks import PlannedNetworks
from medldm.training.assembly import Training, build_autoencoder_training, build_diffusion_training
from medldm.training.autoencoder import AutoencoderTrainer
from medldm.training.configs import AutoencoderTrainingConfig, RunConfig
from medldm.training.decoder.assembly import build_decoder_training
from medldm.training.decoder.cases import DecoderCases
from medldm.training.latent_dataset import LatentDataset
from medldm.training.losses.reconstruction import AutoencoderLoss, AutoencoderLossConfig
from medldm.training.volumes import SPATIAL_KEYS

Work = Callable[[], Any]

N_STEPS = 2
"""The first step makes the optimiser's state, the second one has it from the start."""


class _Volumes(Dataset[Any]):
    """Volumes that are made when asked for."""

    def __init__(self, shape: tuple[int, ...], length: int) -> None:
        self.shape = shape
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"image": torch.rand(self.shape) * 2 - 1}


def train_autoencoder(networks: PlannedNetworks) -> Work:
    """Train the first stage for two steps with its discriminator."""
    return lambda: first_stage(networks).trainer.run()


def validate_autoencoder(networks: PlannedNetworks) -> Work:
    """Train for a step, and reconstruct a whole volume."""

    def run() -> None:
        training = first_stage(networks, n_steps=1)
        training.trainer.run()
        if training.evaluator is not None:
            training.evaluator.run()

    return run


def first_stage(networks: PlannedNetworks, *, n_steps: int = N_STEPS) -> Training[AutoencoderTrainer]:
    """Put the first stage together, with its discriminator from the first step on."""
    knobs, channels = networks.first, networks.autoencoder.in_channels
    return build_autoencoder_training(
        make_autoencoder(replace(networks.autoencoder, checkpointing=knobs.checkpointing)),
        _Volumes((channels, *(knobs.patch_size or networks.size)), knobs.batch_size * n_steps),
        validation_set=_Volumes((channels, *networks.size), 1),
        loss=AutoencoderLoss(AutoencoderLossConfig(adversarial_start=0)),
        discriminator=PatchDiscriminator(PatchDiscriminatorConfig(in_channels=channels)),
        config=AutoencoderTrainingConfig(n_epochs=1, precision=_on_cpu(knobs.precision)),
        run=RunConfig(batch_size=knobs.batch_size),
        fits_linear_path=False,
    )


def encode_volume(networks: PlannedNetworks) -> Work:
    """Encode one volume as the second stage does before it trains."""

    @torch.no_grad()
    def run() -> None:
        model = make_model(networks)
        model.autoencoder.encode_moments(torch.rand(1, networks.autoencoder.in_channels, *networks.size))

    return run


def train_diffusion(networks: PlannedNetworks) -> Work:
    """Train the second stage for two steps."""
    knobs, channels = networks.second, networks.autoencoder.latent_channels
    # Made here and not in `run`: the code decides by the values of the noise path and of the statistics.
    config = LatentDiffusionConfig.from_dict({"n_epochs": 1, "precision": _on_cpu(knobs.precision)})
    statistics = torch.zeros(channels), torch.ones(channels)
    entries = _LatentEntries(networks, knobs.batch_size * N_STEPS, statistics)

    def run() -> None:
        run_config = RunConfig(batch_size=knobs.batch_size)
        build_diffusion_training(make_model(networks), entries, config=config, run=run_config).trainer.run()

    return run


def train_decoder(networks: PlannedNetworks) -> Work:
    """Train the decoder for two steps on denoised latents, with its discriminator."""
    third, channels = networks.third, networks.autoencoder.in_channels
    # A path without tables, whose values the code decides by; what it is changes no shape.
    diffusion = LatentDiffusionConfig(noise_schedule="flow", prediction_type="velocity")
    # Sampling looks at the values of conditions; null conditions take as many passes.
    untold = replace(networks, conditioning=ConditioningConfig())
    entries = _LatentEntries(untold, third.batch_size, (torch.zeros(1), torch.ones(1)))

    def run() -> None:
        volumes = _Volumes((channels, *networks.size), third.batch_size)
        adversary = fit_discriminator(channels, size=third.patch_size or networks.size)
        build_decoder_training(
            make_model(networks),
            DecoderCases(entries, volumes),
            config=third.copy(n_steps=N_STEPS, precision=_on_cpu(networks.second.precision), noise_level=1.0),
            diffusion=diffusion,
            run=RunConfig(),
            discriminator=adversary if third.adversarial_share else None,
        ).trainer.run()

    return run


class _LatentEntries(LatentDataset):
    """Entries of the latent cache, made when asked for."""

    transform = None

    def __init__(self, networks: PlannedNetworks, length: int, statistics: tuple[Tensor, Tensor]) -> None:
        self.networks = networks
        self.length = length
        self.statistics = statistics

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        shape = latent_shape(self.networks)[1:]
        values = {name: value[0] for name, value in _values(self.networks, 1).items()}
        conditions = {SPATIAL_KEYS.get(name, name): value for name, value in values.items()}
        return {"mean": torch.randn(shape), "std": torch.rand(shape), **conditions}

    def measure_statistics(self) -> tuple[Tensor, Tensor]:
        return self.statistics


def denoise(networks: PlannedNetworks) -> Work:
    """Predict once for one sample with guidance: with its conditions and without."""

    def run() -> None:
        model = make_model(networks)
        rows = 2 if model.denoiser.conditioning.names else 1
        conditions = Conditions(_values(networks, rows), {}) if rows == 2 else None
        with torch.no_grad():
            model.denoiser(torch.randn(rows, *latent_shape(networks)[1:]), torch.ones(rows), conditions)

    return run


def decode(networks: PlannedNetworks, max_memory_gb: float | None = None) -> Work:
    """Decode one sample."""

    def run() -> None:
        model = make_model(networks)
        with torch.no_grad():
            model.decode(torch.randn(latent_shape(networks)), max_memory_gb=max_memory_gb)

    return run


def make_model(networks: PlannedNetworks) -> LatentDiffusionModel:
    """Build the model of the second stage."""
    return LatentDiffusionModel(
        autoencoder_config=networks.autoencoder,
        conditioning_config=networks.conditioning,
        unet_config=replace(networks.unet, checkpointing=networks.second.checkpointing),
    ).eval()


def latent_shape(networks: PlannedNetworks) -> tuple[int, ...]:
    """Return (1, C, x, y, z) of the latents of one volume."""
    config = networks.autoencoder
    return (1, config.latent_channels, *latent_size(networks.size, config.downsampling or ()))


def _values(networks: PlannedNetworks, batch_size: int) -> dict[str, Tensor]:
    """Return a value of each condition."""
    config = networks.conditioning
    volume = (batch_size, 1, *networks.size)
    values = {}
    for name in config.names:
        if name == "label_map":
            values[name] = torch.zeros(volume, dtype=torch.uint8)
        elif name == "image":
            values[name] = torch.zeros(volume)
        elif name == "text":
            values[name] = torch.zeros(batch_size, config.text_tokens, config.text_embed_dim)
        elif config.n_categories(name) is not None:
            values[name] = torch.zeros(batch_size, dtype=torch.int64)
        else:
            values[name] = torch.full((batch_size,), config.scalars[name][0])
    return values


def _on_cpu(precision: str) -> Any:
    """Return the precision that takes as much memory where float16 needs a GPU."""
    return "bfloat16" if precision == "float16" else precision
