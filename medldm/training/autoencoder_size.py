"""How far an autoencoder compresses a volume, and into how many channels, where the settings say "auto".

The denoiser pays for each latent channel that it must learn, so a first stage is judged by generated volumes,
not by its reconstructions. Of small crops (32 x 48 x 32 voxels, a denoiser of 32 channels) 2x gave coherent
volumes in minutes in which 4x with 32 channels, which reconstructs better, gave blocks: an edge falls into 64
places of a block in place of 8, and the denoiser has two features for each number it predicts, not eight.
Large volumes at 2x cost eight times the denoiser's work, which only a GPU does.

At 2x the linear path keeps all 8 components of a block: nothing is lost, noise included, at the cost of the
denoiser's first and last convolution. With 4, a trained decoder left out the noise of scans: real cases that
passed through it were told from real cases with an AUC of 0.93. Noise is easy to learn for a denoiser that
begins as the Wiener filter of each mode.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

from medldm.errors import ConfigError
from medldm.latent_diffusion.model import build_autoencoder
from medldm.networks import VAE, VQVAE
from medldm.training.warm_start.autoencoder_start import follow_autoencoder
from medldm.training.warm_start.checkpoint import StartCheckpoint

logger = logging.getLogger(__name__)

AUTO = "auto"
SMALL_VOXELS = 64**3
"""Volumes up to this are compressed 2 times on each axis, larger ones 4 times."""
_FINEST_CHANNELS = 32
_FINEST_WHERE_NOTHING_IS_LOST = 16
_LATENT_CHANNELS = {4: 16, 8: 32}
_LATENT_CHANNELS_WITHOUT_PATH = 4


def fit_autoencoder_size(
    knobs: Mapping[str, Any], *, size: Sequence[int], n_channels: int = 1
) -> tuple[dict[str, Any], str]:
    """Replace "auto" among the settings of an autoencoder.

    Args:
        knobs: with "down_channels", "latent_channels", "linear_path" and "downsampling"; "auto" for either of
            the first two.
        size: voxels (X, Y, Z) of the volumes.
        n_channels: of the volumes.

    Returns:
        The settings without "auto", and what was chosen and why; "" where the user says all.

    Raises:
        ConfigError: if a setting is another word than "auto".

    Examples:
        >>> auto = {"down_channels": "auto", "latent_channels": "auto", "linear_path": "lapped"}
        >>> fit_autoencoder_size(auto, size=(48, 64, 48))[0]["down_channels"]
        (16,)
        >>> fit_autoencoder_size(auto, size=(160, 192, 160))[0]["latent_channels"]
        16
    """
    knobs = dict(knobs)
    chosen = [name for name in ("down_channels", "latent_channels") if _is_auto(name, knobs[name])]
    factor = _factor(knobs, size)
    all_components = n_channels * math.prod(knobs.get("downsampling") or [factor] * len(size))
    if "latent_channels" in chosen:
        few = _LATENT_CHANNELS_WITHOUT_PATH
        some = all_components if factor == 2 else _LATENT_CHANNELS.get(factor, few)
        knobs["latent_channels"] = some if knobs.get("linear_path") else few
    loses_nothing = bool(knobs.get("linear_path")) and knobs["latent_channels"] == all_components
    if "down_channels" in chosen:
        n_levels = factor.bit_length() - bool(knobs.get("linear_path"))
        finest = _FINEST_WHERE_NOTHING_IS_LOST if loses_nothing else _FINEST_CHANNELS
        knobs["down_channels"] = tuple(finest * 2**level for level in range(n_levels))
    what = ", ".join(f"{name} {_shown(knobs[name])}" for name in chosen)
    grid = " x ".join(str(n) for n in size)
    reason = f"{what}: {grid} voxels, compressed {factor} times per axis"
    return knobs, (reason + ", nothing lost" * loses_nothing) if chosen else ""


def choose_autoencoder(
    autoencoder_type: str,
    *,
    size: Sequence[int],
    options: Mapping[str, Any],
    vae_options: Mapping[str, Any] | None = None,
    vqvae_options: Mapping[str, Any] | None = None,
    start: StartCheckpoint | None = None,
) -> VAE | VQVAE:
    """Build the autoencoder of a training; what it chooses goes into the log.

    Args:
        autoencoder_type: "vae" or "vqvae".
        size: voxels of the volumes, by which "auto" goes.
        options: of the configuration, "auto" allowed for "down_channels" and "latent_channels".
        vae_options: those of the VAE alone.
        vqvae_options: those of the VQ-VAE alone.
        start: checkpoint that the training starts from, whose values "auto" takes.

    Raises:
        ConfigError: if the type or an option is unknown.
    """
    options = follow_autoencoder(start, options)
    fitted, reason = fit_autoencoder_size(options, size=size, n_channels=options.get("in_channels", 1))
    if reason:
        logger.info("autoencoder: %s", reason)
    return build_autoencoder(
        autoencoder_type, options=fitted, vae_options=vae_options, vqvae_options=vqvae_options
    )


def _is_auto(name: str, value: Any) -> bool:
    if isinstance(value, str) and value != AUTO:
        example = "[32, 64]" if name == "down_channels" else "4"
        raise ConfigError(f"{name} is {value!r}: auto, or a value such as {example}")
    return isinstance(value, str)


def _factor(knobs: Mapping[str, Any], size: Sequence[int]) -> int:
    """How many voxels become one latent on the axis that shrinks most."""
    if knobs.get("downsampling"):
        return max(knobs["downsampling"])
    if not isinstance(knobs["down_channels"], str):
        return 2 ** (len(knobs["down_channels"]) - 1 + bool(knobs.get("linear_path")))
    return 2 if math.prod(size) <= SMALL_VOXELS else 4


def _shown(value: Any) -> str:
    return str(list(value)) if isinstance(value, tuple) else str(value)
