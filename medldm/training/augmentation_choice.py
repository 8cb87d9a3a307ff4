"""Whether and how a cohort's training cases are augmented, from a bundle's two settings."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medldm.data.cohort import Cohort
from medldm.data.mirror import why_no_mirror
from medldm.errors import ConfigError
from medldm.latent_diffusion.checkpoints import SCHEMA_KEY, load_checkpoint
from medldm.latent_diffusion.model_files import space_of
from medldm.training.augmentation import Augmentation, AugmentationConfig

logger = logging.getLogger(__name__)

AUTO_CASES = 500
"""`augmentation: auto` augments cohorts of fewer training cases."""
COPIES = ((250, 8), (500, 4))
"""Below so many training cases: encoded copies of each, itself among them; 2 beyond."""


def choose_augmentation(
    setting: str | Mapping[str, Any] | None,
    *,
    cohort: Cohort,
    autoencoder_path: str | Path,
    copies: str | int = "auto",
    conditioning_type: Sequence[str] = (),
    image_intensity: str = "mr_percentile",
    seed: int = 0,
) -> Augmentation | None:
    """Choose how training cases are augmented; what is chosen and why goes into the log.

    Args:
        setting: "auto" augments cohorts of fewer than `AUTO_CASES` training cases; "none" or None does not;
            or fields of `AugmentationConfig`, which always augment.
        cohort: its training cases are counted, and its structures say what a mirror image shows.
        autoencoder_path: of the first stage, which knows spacing and intensities.
        copies: of each case that are encoded, itself among them; "auto" takes those of `COPIES`.
        conditioning_type: conditions of the model.
        image_intensity: kind of the intensity mapping of the condition image.
        seed: of the draws.

    Raises:
        ConfigError: if a setting is none of these.
    """
    config = read_augmentation(setting, n_cases=len(cohort.training))
    n_copies = _read_copies(copies, n_cases=len(cohort.training))
    if config is None or n_copies == 1:
        logger.info("augmentation: none")
        return None
    checkpoint = load_checkpoint(autoencoder_path, kind="autoencoder")
    space = space_of(checkpoint)
    if space is None:
        raise ConfigError(f"{autoencoder_path} knows no spacing: set augmentation to none")
    schema = cohort.schema
    names, pairs = ((), {}) if schema is None else (schema.names, schema.mirror_pairs)
    doubt = why_no_mirror(names, pairs)
    is_flipped = doubt is None if config.flip is None else config.flip
    makes_images = SCHEMA_KEY not in checkpoint.card
    found = Augmentation(
        config,
        spacing_mm=space.spacing_mm,
        copies=n_copies,
        seed=seed,
        gammas=[config.gamma_of(mapping.kind) for mapping in space.intensities] if makes_images else (),
        condition_gamma=config.gamma_of(image_intensity) if "image" in conditioning_type else 0.0,
        mirror={} if schema is None else schema.mirror_values,
        mirror_names=pairs,
        flip=is_flipped,
    )
    _report(found, n_cases=len(cohort.training), pairs=pairs, doubt=doubt)
    return found


def read_augmentation(setting: str | Mapping[str, Any] | None, *, n_cases: int) -> AugmentationConfig | None:
    """Return the limits that a setting stands for with so many training cases; None for no augmentation.

    Raises:
        ConfigError: if it is none of those of `choose_augmentation`.
    """
    if isinstance(setting, Mapping):
        return AugmentationConfig.from_dict(setting)
    if setting not in ("auto", "none", None):
        raise ConfigError(
            f"augmentation is {setting!r}: auto, none, or limits such as {{rotation_deg: 5}} are needed"
        )
    return AugmentationConfig() if setting == "auto" and n_cases < AUTO_CASES else None


def _read_copies(copies: str | int, *, n_cases: int) -> int:
    if copies == "auto":
        return next((number for below, number in COPIES if n_cases < below), 2)
    if isinstance(copies, bool) or not isinstance(copies, int) or copies < 1:
        raise ConfigError(f"augmentation_copies is {copies!r}: auto or a whole number from 1 on is needed")
    return copies


def _report(augmentation: Augmentation, *, n_cases: int, pairs: Mapping[str, str], doubt: str | None) -> None:
    limits = augmentation.config
    logger.info(
        "augmentation: %d copies of each of %d training cases, itself among them; up to %g degrees, factors "
        "exp(+-%g) and along an axis exp(+-%g), %g %% of the field of view, elastic %g, gamma exp(+-%s)",
        *(augmentation.copies, n_cases, limits.rotation_deg, limits.scale, limits.stretch),
        *(100 * limits.translation, limits.elastic, ", ".join(f"{g:g}" for g in augmentation.gammas) or "0"),
    )
    if not augmentation.flip:
        logger.info("augmentation: no mirror images: %s", doubt or "flip is false")
        return
    swapped = ", ".join(f"{one} and {other}" for one, other in pairs.items())
    logger.info("augmentation: mirror images; change places: %s", swapped or "none")
    if doubt is not None:
        logger.warning("augmentation: flip is true, although %s", doubt)
