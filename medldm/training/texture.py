"""Fit the texture of a trained model on held-out cases, and write it into its checkpoint.

It comes after all that changes decoder and denoiser. It changes no weights: a run that is killed meanwhile
fits it again when the training is run again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from monai.transforms import Compose
from torch import Tensor
from torch.utils.data import default_collate

from medldm.configs import Config, read_switch
from medldm.data.cohort import Cohort
from medldm.errors import ConfigError
from medldm.latent_diffusion.checkpoints import SCHEMA_KEY, load_checkpoint, save_checkpoint
from medldm.latent_diffusion.config import LatentDiffusionConfig
from medldm.latent_diffusion.model import LatentDiffusionModel
from medldm.latent_diffusion.model_files import TEXTURE_KEY, load_latent_diffusion
from medldm.latent_diffusion.recorded_split import require_untrained
from medldm.latent_diffusion.texture import Texture
from medldm.runtime.distributed import barrier, is_main_process
from medldm.sampling.sampler import LatentDiffusionSampler
from medldm.seeds import numbered_seed
from medldm.training.decoder.adaptation import DECODER_KEY
from medldm.training.early_snapshot import snapshot_beside
from medldm.training.quarantine import BadCase, GuardedTransforms
from medldm.training.texture_fit import LIMIT, Pair, fit_texture
from medldm.training.volumes import gather_conditions

logger = logging.getLogger(__name__)

_LARGEST_SIZE = 160


@dataclass(kw_only=True)
class TextureConfig(Config):
    """Set how a texture is fitted.

    Args:
        max_cases: cases to fit on, evenly taken from those held out.
        noise_level: sigma / alpha of noise that is put on the cases' latents and taken off by the denoiser,
            so that texture also makes up for what the denoiser loses; 0 fits on reconstructions. None takes
            the level that the decoder was adapted to, 0 where it was not.
        denoising_steps: in which it is taken off.
        limit: largest scale, in medians, see `fit_texture`; None for no limit.
        is_of_case: draw each volume's texture as strong as a case's may be, see
            `medldm.latent_diffusion.texture_levels`; False for one strength in all.
        detail_noise_level: sigma / alpha of noise after which the denoiser makes the volumes that the grain
            of a case is told from. They are as the sampler's; 0 takes reconstructions.
        seed: of the noise.

    Raises:
        ConfigError: if a value is outside its range.
    """

    max_cases: int = 16
    noise_level: float | None = None
    denoising_steps: int = 4
    limit: float | None = LIMIT
    is_of_case: bool = True
    detail_noise_level: float = 3.0
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("[1, inf)", "max_cases", "denoising_steps")
        self.require("[0, inf)", "noise_level", "detail_noise_level", "seed")
        self.require("(0, inf]", "limit")


@dataclass(frozen=True, kw_only=True)
class TextureCases:
    """On which cases a texture is fitted, and how they are loaded.

    Args:
        cases: of a cohort.
        held_out: whether the training did not see them.
        transform: from a case to "image" (C, X, Y, Z) and conditions, as that of the training.
        config: how it is fitted.
    """

    cases: Sequence[Mapping[str, Any]]
    held_out: bool
    transform: Callable[[Any], Any]
    config: TextureConfig

    def chosen(self) -> list[Mapping[str, Any]]:
        """Return the cases to fit on: evenly taken from all."""
        n = min(self.config.max_cases, len(self.cases))
        return [self.cases[place * len(self.cases) // n] for place in range(n)]

    def load(self) -> Iterator[dict[str, Any]]:
        """Give each chosen case as a batch of one; one that cannot be loaded is named in the log."""
        whole = self.transform if isinstance(self.transform, Compose) else Compose([self.transform])
        guarded = GuardedTransforms(whole)
        for case in self.chosen():
            loaded = guarded(case)
            if isinstance(loaded, BadCase):
                logger.warning("a case is left out of the fit of the texture: it %s", loaded.reason)
                continue
            yield default_collate([dict(loaded)])


class TextureFitting:
    """Fit a texture when a training has ended: on validation cases, or training cases where there are none.

    Args:
        path: of the second stage's checkpoint; the early snapshot beside it gets a texture of its own.
        fit: False for no texture; one that is there stays.
        cohort: of the training.
        transform: from a case to its volume and conditions, without anything random.
        device: where to decode.
        options: fields of `TextureConfig`.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        fit: bool,
        cohort: Cohort,
        transform: Callable[[Any], Any],
        device: torch.device | str = "cpu",
        **options: Any,
    ) -> None:
        self.path = Path(path)
        self.fit = read_switch(fit, name="fit_texture")
        self.device = device
        self.cohort = cohort
        held_out = len(cohort.validation) > 0
        self.texture = TextureCases(
            cases=cohort.validation if held_out else cohort.training,
            held_out=held_out,
            transform=transform,
            config=TextureConfig.from_dict(options),
        )

    def run(self) -> None:
        """Fit the texture in the first process; the others wait.

        Raises:
            ConfigError: where the model was trained on cases of another part, or makes label maps.
        """
        if self.fit and is_main_process():
            require_untrained(self.path, self.cohort, what=self.path.name)
            for path in filter(None, (self.path, snapshot_beside(self.path))):
                add_texture(path, self.texture, device=self.device)
        barrier()


def add_texture(path: str | Path, texture: TextureCases, *, device: torch.device | str = "cpu") -> Texture:
    """Fit the texture of a trained model and write it into its file; what was there before is replaced.

    Args:
        path: checkpoint of the second stage.
        texture: the cases to fit on.
        device: where to decode.

    Raises:
        CheckpointError: if the file is none.
        ConfigError: for a model of label maps.
    """
    checkpoint = load_checkpoint(path, kind="latent_diffusion")
    if SCHEMA_KEY in checkpoint.card:
        raise ConfigError(f"{path} makes label maps, which have no texture: set fit_texture to false")
    settings = texture.config
    if settings.noise_level is None:
        settings = settings.copy(noise_level=checkpoint.card.get(DECODER_KEY, {}).get("noise_level", 0.0))
    model, config, _ = load_latent_diffusion(path)
    pairs = decode_pairs(model.to(device), config, texture, settings=settings)
    which = "validation" if texture.held_out else "training"
    logger.info("the texture of %s is fitted on %d %s cases", Path(path).name, len(pairs), which)
    sampled = None
    if settings.is_of_case and settings.detail_noise_level != settings.noise_level:
        as_sampled = settings.copy(noise_level=settings.detail_noise_level)
        sampled = [y for _, y in decode_pairs(model, config, texture, settings=as_sampled)]
    fitted = fit_texture(
        pairs,
        limit=settings.limit,
        fitted_on={"cases": which, **settings.to_dict()},
        sampled=sampled,
        has_levels=settings.is_of_case,
    )
    _tell_levels(fitted)
    save_checkpoint(path, checkpoint.weights, {**checkpoint.card, TEXTURE_KEY: fitted.to_dict()})
    return fitted


@torch.no_grad()
def decode_pairs(
    model: LatentDiffusionModel,
    config: LatentDiffusionConfig,
    texture: TextureCases,
    *,
    settings: TextureConfig,
) -> list[Pair]:
    """Return real and decoded volumes (C, X, Y, Z), cropped in the middle to at most 160 voxels an axis.

    Args:
        model: encodes, denoises and decodes, on its device.
        config: of its training.
        texture: the cases.
        settings: noise level and how it is taken off.
    """
    sampler, names = LatentDiffusionSampler(model, config), model.conditioning_config.names
    pairs = []
    for number, batch in enumerate(texture.load()):
        volume = torch.as_tensor(batch["image"]).as_subclass(Tensor).to(model.latent_shift.device)
        latents = model.encode(volume)
        if settings.noise_level:
            generator = torch.Generator().manual_seed(numbered_seed(settings.seed, number))
            latents = sampler.denoise(
                latents,
                torch.randn(latents.shape, generator=generator).to(latents),
                level=settings.noise_level,
                num_steps=settings.denoising_steps,
                conditions=gather_conditions(batch, names) if names else None,
            )
        decoded = model.decode(latents, size=tuple(volume.shape[2:]))
        pairs.append((_crop(volume[0]), _crop(decoded[0])))
    return pairs


def _tell_levels(texture: Texture) -> None:
    """Say in the log how much the strength of texture differs from case to case."""
    if texture.levels is None:
        logger.info("all volumes get texture of one strength")
        return
    for number, (slope, spread) in enumerate(zip(texture.levels.slope, texture.levels.spread, strict=True)):
        logger.info(
            "channel %d: the strength of texture follows the detail of a volume with slope %.2f, and differs "
            "by a factor of %.2f beside (standard deviation)",
            number,
            float(slope) / 2,
            float((spread / 2).exp()),
        )


def _crop(volume: Tensor) -> Tensor:
    """Return the middle (C, X, Y, Z) of a volume, on the CPU."""
    for axis, n in enumerate(volume.shape[1:], start=1):
        kept = min(n, _LARGEST_SIZE)
        volume = volume.narrow(axis, (n - kept) // 2, kept)
    return volume.float().cpu().contiguous()
