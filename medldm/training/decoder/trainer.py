"""Train the decoder on latents that the denoiser has made, towards the volumes they were made from.

    x_t = alpha_t x_0 + sigma_t eps,    sigma_t / alpha_t uniform in [0, s]
    z   = x_t denoised in a few steps
    L   = |decode(z) - x|_1 + w_perc L_perc + w_adv L_adv

as in the first stage, with the encoder, its latents' statistics and the denoiser fixed. The decoder so learns
what its latents are like when they come from the denoiser, and not from the encoder.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from monai.engines import SupervisedEvaluator
from monai.handlers import IgniteMetricHandler, PeakSignalToNoiseRatio
from monai.metrics import SSIMMetric
from monai.utils.enums import CommonKeys as Keys
from torch import Tensor, nn

from medldm.latent_diffusion.label_maps import decode_indices
from medldm.networks import VAE, VQVAE, AutoencoderOutput
from medldm.networks.blocks import crop_to
from medldm.runtime.batch_shard import BatchShard
from medldm.sampling.sampler import LatentDiffusionSampler
from medldm.seeds import numbered_seed
from medldm.training.autoencoder import AutoencoderTrainer, pairs
from medldm.training.batches import batch_number
from medldm.training.decoder.cases import crop_same_place
from medldm.training.decoder.noise_level import NoiseLevel
from medldm.training.denoising_task import DenoisingTask
from medldm.training.identity import TrainingIdentity
from medldm.training.label_maps import to_grey
from medldm.training.precision import autocast
from medldm.training.resume.resumable_trainer import GeneratorState, HasState
from medldm.training.volumes import gather_conditions


class LatentDecoder(nn.Module):
    """An autoencoder of which the decoder alone is called and trained.

    Args:
        autoencoder: its weights are trained in place where decoding takes them and encoding does not.
    """

    def __init__(self, autoencoder: VAE | VQVAE) -> None:
        super().__init__()
        self.autoencoder = autoencoder.requires_grad_(False)
        for part in autoencoder.decoding_modules():
            part.requires_grad_(True)

    @property
    def latent_channels(self) -> int:
        """Channels of the latent grid."""
        return self.autoencoder.latent_channels

    @property
    def last_layer(self) -> Tensor:
        """Weights of the decoder's last layer."""
        return self.autoencoder.last_layer

    def trained_weights(self) -> list[nn.Parameter]:
        """Return the decoder's weights."""
        return [weight for weight in self.parameters() if weight.requires_grad]

    def forward(self, latents: Tensor, *, shard: BatchShard | None = None) -> AutoencoderOutput:
        """Decode latents (B, C, x, y, z) of the autoencoder, not standardised; nothing is regularised."""
        volume = self.autoencoder.decode(latents)
        return AutoencoderOutput(volume, volume.new_zeros(()), {})


class DenoisedLatents:
    """Make latents as the denoiser would, from those of cases.

    Args:
        sampler: of the trained model.
        level: largest noise level.
        num_steps: of the solver.
        precision: of autocast.
    """

    def __init__(
        self, sampler: LatentDiffusionSampler, *, level: NoiseLevel, num_steps: int, precision: str
    ) -> None:
        self.sampler = sampler
        self.level = level
        self.num_steps = num_steps
        self.precision = precision
        self.task = DenoisingTask(sampler.model, sampler.config)

    @torch.no_grad()
    def __call__(
        self,
        batch: dict[str, Any],
        *,
        generator: torch.Generator,
        shard: BatchShard | None = None,
        share: float | None = None,
    ) -> Tensor:
        """Return latents (B, C, x, y, z) for the autoencoder's decoder, on the model's device.

        Args:
            batch: of `DecoderCases`.
            generator: of all randomness.
            shard: the rows of the training's batch that these are; None for a batch of their own.
            share: of the largest level; None to draw it, one for the batch.
        """
        model = self.sampler.model
        device = model.latent_shift.device
        x_0 = self.task.draw_latents(batch, generator=generator, shard=shard)
        if shard is None:
            noise = torch.randn(x_0.shape, generator=generator).to(device)
        else:
            noise = shard.draw_normal(x_0, generator=generator)
        drawn = float(torch.rand((), generator=generator, dtype=torch.float64))
        level = self.level.value * (drawn if share is None else share)
        conditions = gather_conditions(batch, self.sampler.denoiser.conditioning.names).to(device)
        with autocast(device, self.precision):
            latents = self.sampler.denoise(
                x_0, noise, level=max(level, 1e-6), num_steps=self.num_steps, conditions=conditions
            )
        return model.unstandardise(latents.float())


class DecoderTrainer(AutoencoderTrainer):
    """Train a `LatentDecoder` on the first stage's engine.

    Args:
        denoised: makes the latents.
        patch_size: voxels of the patch that is decoded; None for whole volumes.
        seed: of levels, noise and patches.
        identity: of the training.
        options: those of `AutoencoderTrainer`; its network is a `LatentDecoder`, its batches are those of
            `DecoderCases`.
    """

    def __init__(
        self,
        *arguments: Any,
        denoised: DenoisedLatents,
        patch_size: Sequence[int] | None,
        seed: int,
        identity: TrainingIdentity,
        **options: Any,
    ) -> None:
        self.denoised = denoised
        self.identity = identity
        self.patch_size = patch_size
        self.generator = torch.Generator().manual_seed(seed)
        super().__init__(*arguments, **options)

    def state_parts(self) -> dict[str, HasState]:
        """Return all that the next batch depends on."""
        own: dict[str, HasState] = {
            "noise_level": self.denoised.level,
            "generator": GeneratorState(self.generator),
        }
        return {**super().state_parts(), **own}

    def _read(self, batch: dict[str, Any], shard: BatchShard) -> tuple[Tensor, Tensor]:
        latents = self.denoised(batch, generator=self.generator, shard=shard)
        volume = target_of(batch, self.denoised.sampler.model.makes_label_maps).to(latents.device)
        return crop_same_place(
            latents,
            volume,
            patch_size=self.patch_size,
            downsampling=self.state.g_network.autoencoder.downsampling,
            generator=self.generator,
            shard=shard,
        )


class DecoderEvaluator(SupervisedEvaluator):
    """Validate the averaged decoder: PSNR and SSIM of what it makes of latents at the largest level.

    Label maps are compared as grey volumes. No weights are chosen by it: an adversary makes volumes better to
    look at and this worse.

    Args:
        device: where to evaluate.
        val_data_loader: batches of `DecoderCases`, not shuffled.
        network: the averaged `LatentDecoder`.
        denoised: makes the latents.
        seed: of the noise, the same in each validation.
        val_handlers: attached in their order.
    """

    network: Any

    def __init__(
        self,
        device: torch.device,
        val_data_loader: Iterable[Any],
        *,
        network: LatentDecoder,
        denoised: DenoisedLatents,
        seed: int = 0,
        val_handlers: Sequence[Any] | None = None,
    ) -> None:
        self.denoised = denoised
        self.seed = seed
        ssim = SSIMMetric(spatial_dims=3, data_range=1.0, win_size=7)
        super().__init__(
            device=device,
            val_data_loader=val_data_loader,
            network=network,
            key_val_metric={"psnr": PeakSignalToNoiseRatio(max_val=1.0, output_transform=pairs)},
            additional_metrics={"ssim": IgniteMetricHandler(metric_fn=ssim, output_transform=pairs)},
            val_handlers=val_handlers,
            decollate=False,
        )

    @torch.no_grad()
    def _iteration(self, engine: Any, batchdata: dict[str, Any]) -> dict[str, Any]:
        number = batch_number(self.data_loader, engine.state.iteration)
        generator = torch.Generator().manual_seed(numbered_seed(self.seed, number))
        latents = self.denoised(batchdata, generator=generator, share=1.0)
        makes_label_maps = self.denoised.sampler.model.makes_label_maps
        volume = target_of(batchdata, makes_label_maps).to(engine.state.device)
        self.network.eval()
        with autocast(engine.state.device, self.denoised.precision):
            made = crop_to(self.network(latents).reconstruction, volume.shape[2:])
        if makes_label_maps:
            n_classes = made.shape[1]
            volume, made = to_grey(volume, n_classes), to_grey(decode_indices(made), n_classes)
        return {Keys.IMAGE: volume, Keys.PRED: made.float()}


def target_of(batch: dict[str, Any], makes_label_maps: bool) -> Tensor:
    """Return what a decoder's loss compares with: volumes (B, C, X, Y, Z), or indices (B, 1, X, Y, Z)."""
    volume = torch.as_tensor(batch["image"])
    return decode_indices(volume) if makes_label_maps else volume
