"""LatentDiffusionSampler: from noise to volumes, with bounded memory and one seed for each volume."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medldm import diffusion
from medldm.conditioning import ConditioningConfig, Conditions
from medldm.diffusion.guidance import Passes
from medldm.errors import CheckpointError, ConfigError
from medldm.latent_diffusion.checkpoints import load_checkpoint
from medldm.latent_diffusion.config import LatentDiffusionConfig, read_diffusion
from medldm.latent_diffusion.lineage import lineage_of
from medldm.latent_diffusion.model import ConditionalDenoiser, LatentDiffusionModel
from medldm.latent_diffusion.model_files import load_latent_diffusion, texture_of
from medldm.latent_diffusion.texture import Texture
from medldm.networks.kernels.cached_weights import clear_cached_weights
from medldm.networks.weights import load_weights
from medldm.sampling.conditions import SamplingConditions
from medldm.sampling.config import SamplingConfig
from medldm.seeds import appearance_seed, texture_seed, volume_seed


class SampleNoise:
    """Draw standard normal noise, each sample of a batch from its own generator.

    The generators live on the CPU, so that a seed gives the same noise on every device.

    Args:
        seeds: one for each sample of the batch.
        shape: of one sample.
    """

    def __init__(self, seeds: Sequence[int], shape: Sequence[int], *, device: torch.device) -> None:
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._shape = tuple(shape)
        self._device = device

    def __call__(self) -> Tensor:
        """Return fresh noise (B, *shape)."""
        return torch.stack([torch.randn(self._shape, generator=g) for g in self._generators]).to(self._device)


class LatentDiffusionSampler:
    """Draw volumes from a latent diffusion model.

    Args:
        model: the model; its weights may also come later, through `load_checkpoint`.
        config: noise path and prediction type of the training.
        denoiser: stands in the place of the model's own, e.g. the averaged one during a training.

    Examples:
        >>> from medldm import LatentDiffusionModel, LatentUNetConfig, VAEConfig
        >>> model = LatentDiffusionModel(
        ...     autoencoder_config=VAEConfig(down_channels=[4, 8], n_groups=4, n_res_blocks=1),
        ...     unet_config=LatentUNetConfig(down_channels=[8, 16], n_groups=4, n_heads=2),
        ... )
        >>> sampler = LatentDiffusionSampler(model)  # or LatentDiffusionSampler.from_checkpoint(path)
        >>> sampler.sample((2, 4, 4, 5, 6), num_steps=2, seed=7).shape
        torch.Size([2, 1, 8, 10, 12])
    """

    def __init__(
        self,
        model: LatentDiffusionModel,
        config: LatentDiffusionConfig | None = None,
        *,
        denoiser: ConditionalDenoiser | None = None,
    ) -> None:
        self.model = model.eval()
        self.denoiser = model.denoiser if denoiser is None else denoiser.eval()
        self.config = config or LatentDiffusionConfig()

    @classmethod
    def from_checkpoint(
        cls, path: str | Path, *, device: torch.device | str = "cpu"
    ) -> LatentDiffusionSampler:
        """Rebuild model and sampler from a checkpoint alone."""
        model, config, _ = load_latent_diffusion(path)
        return cls(model.to(device), config)

    def load_checkpoint(self, path: str | Path) -> None:
        """Load weights and noise path of a training into this sampler's model.

        Raises:
            CheckpointError: if the file holds a model of another configuration.
        """
        checkpoint = load_checkpoint(path, kind="latent_diffusion")
        own = self.model.conditioning_config.to_dict()
        found = ConditioningConfig.from_dict(checkpoint.card["conditioning"]).to_dict()
        different = sorted(name for name in own if own[name] != found[name])
        if different:
            raise CheckpointError(
                f"{path} was trained with other conditions: {different} differ from this model's"
            )
        load_weights(self.model, checkpoint.weights, source=str(path))
        self.model.texture = texture_of(checkpoint)
        self.model.lineage = lineage_of(checkpoint.card)
        self.config = self.config.copy(**read_diffusion(checkpoint.card["diffusion"]))

    @torch.no_grad()
    def sample_latents(
        self,
        shape: Sequence[int],
        *,
        conditions: Conditions | None = None,
        indices: Sequence[int] | None = None,
        callback: diffusion.Callback | None = None,
        inpainting: diffusion.InpaintingMask | None = None,
        start: diffusion.PartialStart | None = None,
        settings: SamplingConfig | None = None,
    ) -> Tensor:
        """Draw standardised latents (B, C, x, y, z) in one batch.

        Args:
            shape: as of `sample`, as the other arguments.
            conditions: of the B samples.
            indices: of the samples in their seed.
            callback: called after each step.
            inpainting: region of the latents to leave as it is.
            start: noised latents to begin from, in the place of noise alone.
            settings: how to draw.

        What the samples look like as a whole is drawn from their seeds, or is that of the latents that are
        kept or begun from.
        """
        settings = settings or SamplingConfig()
        batch_size, *sample_shape = shape
        device = self.model.latent_shift.device
        indices = range(batch_size) if indices is None else indices
        seeds = [volume_seed(settings.seed, index) for index in indices]
        noise = SampleNoise(seeds, sample_shape, device=device)
        path = self.config.noise_path()
        known = inpainting.original if inpainting is not None else None if start is None else start.latents
        if known is None:
            appearance = self.model.draw_appearance([appearance_seed(seed) for seed in seeds])
        else:
            appearance = self.model.appearance_of(known)
        return diffusion.sample_from(
            diffusion.make_solver(settings.solver_name, noise=noise, eta=settings.eta),
            self._denoiser(path, conditions, settings, appearance=appearance),
            path,
            diffusion.make_steps(path, settings.n_steps, grid=settings.grid_name),
            noise=noise,
            callback=callback,
            inpainting=inpainting,
            start=start,
        )

    @torch.no_grad()
    def denoise(
        self,
        latents: Tensor,
        noise: Tensor,
        *,
        level: float,
        num_steps: int,
        conditions: Conditions | None = None,
    ) -> Tensor:
        """Put noise on standardised latents and take it off again, without guidance.

        Args:
            latents: (B, C, x, y, z).
            noise: of the same shape, standard normal.
            level: sigma / alpha of the noise.
            num_steps: of the solver dpm_solver_2m; with 1 the denoiser's estimate of the latents.
            conditions: of the latents.

        Source: Meng et al. 2022, "SDEdit", Section 3.
        """
        path = self.config.noise_path()
        steps = diffusion.steps_from_level(path, level, num_steps)
        x = path.add_noise(latents, noise, steps[0].t)
        appearance = self.model.appearance_of(latents)
        denoise = self._denoiser(path, conditions, SamplingConfig(), appearance=appearance)
        return diffusion.run_solver(diffusion.SOLVERS["dpm_solver_2m"], denoise, x, steps)

    @torch.no_grad()
    def invert(
        self,
        latents: Tensor,
        *,
        conditions: Conditions | None = None,
        strength: float = 1.0,
        settings: SamplingConfig | None = None,
    ) -> diffusion.Inversion:
        """Return the noise from which DDIM makes these standardised latents again, and the way there.

        Args:
            latents: (B, C, x, y, z) standardised.
            conditions: of what the latents show now.
            strength: see `PartialStart`, for whose `noise` the result is meant.
            settings: steps, grid and guidance; inversion is the more exact the nearer guidance is to 1.
        """
        settings = settings or SamplingConfig()
        path = self.config.noise_path()
        steps = diffusion.make_steps(path, settings.n_steps, grid=settings.grid_name)
        return diffusion.invert_noise(
            self._denoiser(path, conditions, settings, appearance=self.model.appearance_of(latents)),
            latents,
            diffusion.last_steps(path, steps, strength=strength),
        )

    @torch.no_grad()
    def sample(
        self,
        shape: Sequence[int],
        *,
        context: Tensor | None = None,
        conditions: Conditions | None = None,
        indices: Sequence[int] | None = None,
        size: tuple[int, ...] | None = None,
        batch_size: int = 1,
        callback: diffusion.Callback | None = None,
        **settings: Any,
    ) -> Tensor:
        """Draw volumes.

        Args:
            shape: (B, C, x, y, z) of the latents.
            context: (B, N, D) text embeddings; short for `conditions` with "text".
            conditions: of the B samples; None for the null of every condition.
            indices: which volumes of the seed to draw; 0 to B - 1 if None. A volume is the same whatever the
                others.
            size: voxels (X, Y, Z) to crop the volumes to.
            batch_size: samples that are denoised and decoded together. More than 1 is faster on a GPU; the
                result then agrees to rounding, not to the bit.
            callback: called after each step.
            settings: fields of `SamplingConfig`: guidance_scale, num_steps, eta, solver, seed, ...

        Returns:
            (B, C, X, Y, Z) in [-1, 1], without texture up to overshoot, on the model's device.

        Raises:
            ValueError: if a condition is unknown to the model or an argument outside its range.
        """
        self._check_shape(shape)
        config = SamplingConfig.from_dict(settings)
        texture = choose_texture(self.model, config)
        conditions = _with_context(conditions, context)
        indices = list(range(shape[0]) if indices is None else indices)
        volumes = []
        for start in range(0, shape[0], batch_size):
            rows = slice(start, min(start + batch_size, shape[0]))
            latents = self.sample_latents(
                (rows.stop - start, *shape[1:]),
                conditions=conditions[rows] if conditions is not None else None,
                indices=indices[rows],
                callback=callback,
                settings=config,
            )
            # The denoiser's reordered weights would lie beside the decoder's maps, which set the peak.
            clear_cached_weights(self.model.denoiser)
            volume = self.model.decode(latents, size=size, max_memory_gb=config.max_memory_gb)
            if texture is not None:
                seeds = [texture_seed(config.seed, index) for index in indices[rows]]
                volume = texture.draw(volume, seeds)
            volumes.append(volume)
        return torch.cat(volumes)

    def _check_shape(self, shape: Sequence[int]) -> None:
        channels = self.model.autoencoder.latent_channels
        if len(shape) != 5 or shape[1] != channels or min(shape) < 1:
            raise ValueError(
                f"shape is {tuple(shape)}: (B, {channels}, x, y, z) of the latents is needed; one latent "
                f"stands for {self.model.autoencoder.downsampling} voxels of the axes"
            )

    def _denoiser(
        self,
        path: diffusion.NoisePath,
        conditions: Conditions | None,
        settings: SamplingConfig,
        *,
        appearance: Tensor | None = None,
    ) -> diffusion.Denoise:
        """Return the solver's denoiser; the conditions are encoded and projected once for all steps.

        All passes of guidance are told the same appearance.
        """
        given = None if conditions is None else conditions.to(self.model.latent_shift.device)
        told = SamplingConditions(self.denoiser.conditioning, given)

        def predict(x: Tensor, times: Tensor, passes: Passes) -> Tensor:
            encoded = told.in_passes(passes, x)
            if appearance is None:
                return self.denoiser.predict(x, times, encoded)
            like = appearance.repeat(len(x) // len(appearance), 1)
            return self.denoiser.predict(x, times, encoded, appearance=like)

        return diffusion.guided_denoiser(
            predict,
            # Without conditions there is nothing to guide: the plain model is asked.
            settings.guidance_scale if told.names else 1.0,
            path=path,
            prediction_type=self.config.prediction_type,
            spread=self.model.spread,
            conditions=told.names,
            interval=settings.interval,
            rescale_amount=settings.guidance_rescale,
        )


def choose_texture(model: LatentDiffusionModel, settings: SamplingConfig) -> Texture | None:
    """Return the texture to draw on the volumes of a model, None for none.

    Raises:
        ConfigError: if one is insisted on that the model does not have.
    """
    if settings.texture is True and model.texture is None:
        raise ConfigError(
            "texture is true, but the model has none: train it with fit_texture, or set texture to auto"
        )
    return None if settings.texture is False else model.texture


def describe_texture(model: LatentDiffusionModel, settings: SamplingConfig) -> dict[str, Any]:
    """Say for a sidecar whether texture was drawn, and which; nothing of a model without."""
    if model.texture is None:
        return {}
    is_drawn = choose_texture(model, settings) is not None
    return {"texture": {"drawn": is_drawn, "sha256": model.texture.sha256}}


def _with_context(conditions: Conditions | None, context: Tensor | None) -> Conditions | None:
    if context is None:
        return conditions
    if conditions is not None and "text" in conditions.values:
        raise ConfigError("context and conditions both give 'text': give one of them")
    given = conditions or Conditions({})
    return replace(given, values={**given.values, "text": context})
