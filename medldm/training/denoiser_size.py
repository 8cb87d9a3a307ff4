"""How large a denoiser a cohort bears.

A diffusion model gives away its training cases the more, the more weights there are for each of them, and the
less, the more they are augmented (Dar et al., "Unconditional latent diffusion models memorize patient imaging
data", 2402.01054). A model that is too small blurs. `SIZES` is the compromise; a list of the user's own wins.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from medldm.data.cohort import Cohort
from medldm.errors import ConfigError
from medldm.latent_diffusion.checkpoints import load_checkpoint
from medldm.latent_diffusion.model import AUTOENCODER_CONFIGS
from medldm.latent_diffusion.model_files import space_of
from medldm.networks import LatentUNetConfig
from medldm.networks.downsampling import latent_size
from medldm.training.augmentation import Augmentation
from medldm.training.warm_start.checkpoint import StartCheckpoint
from medldm.training.warm_start.denoiser_start import follow_denoiser

logger = logging.getLogger(__name__)

AUTO = "auto"
SIZES = ((80, 24), (400, 32), (1000, 48), (4000, 64), (math.inf, 96))
"""Up to so many cases, augmented ones counted twice: channels of the finest level, doubled twice below it.

With three levels and without cross-attention these are 6, 10, 23, 42 and 94 million weights.
"""
_AUGMENTED_COUNTS = 2
_MAX_LEVELS = 4
_COARSEST_VOXELS = 2.0
_ATTENTION_VOXELS = 4096
_ASSUMED_LATENTS = (12, 12, 12)


@dataclass(frozen=True, kw_only=True)
class DenoiserSize:
    """Widths and attention of a denoiser, and why.

    Args:
        down_channels: of the levels, finest first.
        attention_levels: levels with attention.
        n_groups: of the normalisations.
        reason: one line for the log.
    """

    down_channels: tuple[int, ...]
    attention_levels: tuple[bool, ...]
    n_groups: int
    reason: str


def choose_denoiser_size(
    n_cases: int, *, is_augmented: bool, latents: Sequence[int], n_groups: int = 32
) -> DenoiserSize:
    """Choose width by the number of training cases, and depth by the size of the latents.

    Levels are added, up to four, while the coarsest grid keeps two voxels on its shortest axis. All levels
    but the finest have attention where their grid has at most 4096 voxels.

    Args:
        n_cases: training cases.
        is_augmented: whether they are augmented; each then counts twice.
        latents: (x, y, z) of the latent grid.
        n_groups: that are asked for; fewer are taken where they leave less than two channels in a group.

    Examples:
        >>> choose_denoiser_size(180, is_augmented=True, latents=(11, 15, 12)).down_channels
        (32, 64, 128)
    """
    counted = n_cases * (_AUGMENTED_COUNTS if is_augmented else 1)
    base = next(width for most, width in SIZES if counted <= most)
    fitting = [n for n in range(2, _MAX_LEVELS + 1) if min(latents) / 2 ** (n - 1) >= _COARSEST_VOXELS]
    n_levels = max(fitting, default=2)
    grids = [math.prod(math.ceil(n / 2**level) for n in latents) for level in range(n_levels)]
    channels = tuple(base * min(2**level, 4) for level in range(n_levels))
    attention = tuple(level > 0 and voxels <= _ATTENTION_VOXELS for level, voxels in enumerate(grids))
    grid = " x ".join(str(n) for n in latents)
    return DenoiserSize(
        down_channels=channels,
        attention_levels=attention,
        n_groups=math.gcd(n_groups, base // 2),
        reason=(
            f"down_channels {list(channels)}, attention_levels {[str(a).lower() for a in attention]}, for "
            f"{n_cases} training cases{', which are augmented and count twice,' if is_augmented else ''} "
            f"and latents of {grid}: more weights for each case are memorised more"
        ).replace("'", ""),
    )


def fit_denoiser_size(
    knobs: dict[str, Any], *, n_cases: int, is_augmented: bool, latents: Sequence[int]
) -> tuple[dict[str, Any], str]:
    """Replace "auto" among the settings of a denoiser.

    Args:
        knobs: with "down_channels", "attention_levels" and "n_groups"; "auto" for either of the first two.
        n_cases: as of `choose_denoiser_size`, as the following.
        is_augmented: whether cases are augmented.
        latents: of the latent grid.

    Returns:
        The settings without "auto", and what was chosen and why; "" where the user says all.
    """
    knobs = dict(knobs)
    if knobs["down_channels"] != AUTO:
        if isinstance(knobs["down_channels"], str):
            raise ConfigError(
                f"down_channels is {knobs['down_channels']!r}: auto, or channels such as [32, 64, 128]"
            )
        # The network's own rule: all levels but the finest.
        own = knobs["attention_levels"]
        return knobs | {"attention_levels": None if own == AUTO else own}, ""
    chosen = choose_denoiser_size(
        n_cases, is_augmented=is_augmented, latents=latents, n_groups=knobs["n_groups"]
    )
    knobs |= {"down_channels": chosen.down_channels, "n_groups": chosen.n_groups}
    if knobs["attention_levels"] == AUTO:
        knobs["attention_levels"] = chosen.attention_levels
    return knobs, chosen.reason


def choose_denoiser(
    *,
    cohort: Cohort,
    autoencoder_path: str | Path,
    down_channels: Sequence[int] | Literal["auto"] = "auto",
    attention_levels: Sequence[bool] | Literal["auto"] | None = "auto",
    n_groups: int = 32,
    augmentation: Augmentation | None = None,
    start: StartCheckpoint | None = None,
    **options: Any,
) -> LatentUNetConfig:
    """Describe the denoiser of a training; what it chooses goes into the log.

    Args:
        cohort: its training cases are counted.
        autoencoder_path: of the first stage, which says how large the latents are.
        down_channels: of the levels, or "auto".
        attention_levels: levels with attention, or "auto".
        n_groups: of the normalisations; "auto" takes fewer where that many do not divide the channels.
        augmentation: of the training cases, which the denoiser is told of; None for none.
        start: checkpoint that the training starts from, whose size "auto" takes.
        options: further fields of `LatentUNetConfig`.
    """
    told = 0 if augmentation is None else augmentation.n_channels
    if start is not None and down_channels == AUTO:
        logger.info("denoiser: of the size of that in start_from")
        return follow_denoiser(
            start, attention_levels=attention_levels, augmentation_channels=told, **options
        )
    knobs, reason = fit_denoiser_size(
        {"down_channels": down_channels, "attention_levels": attention_levels, "n_groups": n_groups},
        n_cases=len(cohort.training),
        is_augmented=augmentation is not None,
        latents=_latents_of(autoencoder_path),
    )
    if reason:
        logger.info("denoiser: %s", reason)
    return LatentUNetConfig(**knobs, augmentation_channels=told, **options)


def _latents_of(autoencoder_path: str | Path) -> tuple[int, ...]:
    checkpoint = load_checkpoint(autoencoder_path, kind="autoencoder")
    space, described = space_of(checkpoint), checkpoint.card["autoencoder"]
    config = AUTOENCODER_CONFIGS[described["type"]].from_dict(described["config"])
    return _ASSUMED_LATENTS if space is None else latent_size(space.size, config.downsampling or ())
