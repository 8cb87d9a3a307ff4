"""What is to be trained: the networks and knobs of a bundle's workflows, or the networks of a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from medldm.conditioning import ConditioningConfig
from medldm.configs import unknown_name_message
from medldm.data.channels import check_channel_names
from medldm.errors import ConfigError, MissingFileError
from medldm.latent_diffusion.checkpoints import load_checkpoint
from medldm.latent_diffusion.model import AUTOENCODER_CONFIGS
from medldm.networks import LatentUNetConfig, VAEConfig, VQVAEConfig
from medldm.networks.downsampling import factors_for_spacing, latent_size
from medldm.training.augmentation_choice import read_augmentation
from medldm.training.autoencoder_size import fit_autoencoder_size
from medldm.training.decoder.config import DecoderConfig
from medldm.training.denoiser_size import fit_denoiser_size
from medldm.training.length import count_epochs
from medldm.training.precision import PRECISIONS

ASSUMED_STRUCTURES = 16
"""Structures of a label map where no cohort tells; they change the memory of a plan by less than 1 %."""

_ENCODER = ("down_channels", "downsampling", "linear_path", "latent_channels", "n_res_blocks", "n_groups")
_DECODER = ("steps", "batch_size", "patch_size", "denoising_steps", "adversarial_share")
_LATER = (*(f"decoder_{name}" for name in _DECODER), "fit_texture")
_OPTIONAL = ("spacing_mm", "downsampling", "linear_path", "augmentation", *_LATER)
_UNET = ("down_channels", "attention_levels", "n_heads", "n_groups")
_STAGE = ("batch_size", "accumulation_steps", "n_steps", "n_epochs", "precision", "checkpointing")
STAGES = {
    "autoencoder": ("size", "spacing_mm", "channels", "patch_size", "autoencoder_type", *_ENCODER, *_STAGE),
    "diffusion": ("conditioning_type", "image_token_grid", "augmentation", *_UNET, *_STAGE, *_LATER),
}
"""The knobs of each stage that a plan depends on."""


@dataclass(frozen=True, kw_only=True)
class StageKnobs:
    """How a stage is trained.

    Args:
        batch_size: samples of a batch.
        accumulation_steps: batches of an optimiser step.
        n_steps: optimiser steps of the training; None for `n_epochs`, or for `DEFAULT_STEPS` without either.
        n_epochs: passes over the cohort.
        precision: of autocast.
        checkpointing: whether blocks are computed again in the backward pass.
        patch_size: voxels of random crops; None for whole volumes.
    """

    batch_size: int
    accumulation_steps: int = 1
    n_steps: int | None = None
    n_epochs: int | None = None
    precision: str = "float32"
    checkpointing: bool = False
    patch_size: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("batch_size", "accumulation_steps"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ConfigError(f"{name} is {value!r}: a whole number of at least 1 is needed")
        self.count_epochs(n_cases=1)
        if self.precision not in PRECISIONS:
            raise ConfigError(f"precision is {self.precision!r}: choose from {list(PRECISIONS)}")

    def count_epochs(self, *, n_cases: int) -> int:
        """Return the epochs of a training of so many cases.

        Raises:
            ConfigError: if the length is given twice, or below 1.
        """
        return count_epochs(
            n_steps=self.n_steps,
            n_epochs=self.n_epochs,
            cases=range(n_cases),
            batch_size=self.batch_size,
            accumulation_steps=self.accumulation_steps,
        )


@dataclass(frozen=True, kw_only=True)
class PlannedNetworks:
    """The networks of both stages and how they are trained.

    Args:
        autoencoder: of the first stage.
        unet: of the second; channels and context are set as a model sets them.
        conditioning: of the second.
        size: voxels (X, Y, Z) of the volumes.
        first: knobs of the first stage.
        second: knobs of the second.
        third: the decoder's training at its end, in the second's precision; without steps there is none.
        fits_texture: whether a texture is fitted then.
        autoencoder_choice: what `fit_autoencoder_size` chose and why; "" where the user says all.
        denoiser_choice: what `choose_denoiser_size` chose and why; "" where the user says all.
        downsampling_choice: that of the autoencoder, where it follows from the spacing alone.
    """

    autoencoder: VAEConfig | VQVAEConfig
    unet: LatentUNetConfig
    conditioning: ConditioningConfig
    size: tuple[int, ...]
    first: StageKnobs
    second: StageKnobs
    third: DecoderConfig = field(default_factory=DecoderConfig)
    fits_texture: bool = False
    autoencoder_choice: str = ""
    denoiser_choice: str = ""
    downsampling_choice: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if len(self.size) != 3 or min(self.size) < 1:
            raise ConfigError(f"size is {self.size}: three positive numbers of voxels are needed")

    def with_first(self, **knobs: Any) -> PlannedNetworks:
        """Change knobs of the first stage."""
        return replace(self, first=replace(self.first, **knobs))

    def with_second(self, **knobs: Any) -> PlannedNetworks:
        """Change knobs of the second stage."""
        return replace(self, second=replace(self.second, **knobs))


def networks_of_bundle(
    bundle: str | Path,
    *,
    size: Sequence[int] | None = None,
    autoencoder_knobs: Mapping[str, Any] | None = None,
    diffusion_knobs: Mapping[str, Any] | None = None,
    n_cases: int = 100,
) -> PlannedNetworks:
    """Read networks and knobs from the training workflows of a bundle.

    Args:
        bundle: folder with configs/train_autoencoder.yaml and configs/train_diffusion.yaml.
        size: voxels of the volumes; None for the workflow's.
        autoencoder_knobs: values that replace those of the first workflow.
        diffusion_knobs: values that replace those of the second.
        n_cases: training cases, by which "auto" chooses the denoiser's size.

    Raises:
        ValueError: if a knob is unknown, or the bundle has none of a name that is needed.
    """
    first = _read_knobs(bundle, "autoencoder", autoencoder_knobs)
    second = _read_knobs(bundle, "diffusion", diffusion_knobs)
    voxels = tuple(size or first["size"])
    first, compression = fit_autoencoder_size(first, size=voxels, n_channels=_count_channels(first))
    factors = _factors_by_spacing(first)
    autoencoder = _autoencoder_config({**first, "downsampling": first["downsampling"] or factors})
    unet, choice = fit_denoiser_size(
        {name: second[name] for name in _UNET},
        n_cases=n_cases,
        is_augmented=read_augmentation(second["augmentation"], n_cases=n_cases) is not None,
        latents=latent_size(voxels, autoencoder.downsampling or ()),
    )
    return PlannedNetworks(
        autoencoder=autoencoder,
        unet=LatentUNetConfig(**unet),
        conditioning=assumed_conditioning(second["conditioning_type"], second["image_token_grid"]),
        size=voxels,
        first=_stage_knobs(first),
        second=_stage_knobs(second),
        third=_decoder_config(second),
        fits_texture=bool(second["fit_texture"]),
        downsampling_choice=factors,
        autoencoder_choice=compression,
        denoiser_choice=choice,
    )


def networks_of_checkpoint(path: str | Path, networks: PlannedNetworks) -> PlannedNetworks:
    """Put the networks of a checkpoint of either stage in the place of those of a bundle.

    Args:
        path: the checkpoint; only its card counts.
        networks: the rest, knobs included.
    """
    card = load_checkpoint(path).card
    description = card["autoencoder"]
    config = AUTOENCODER_CONFIGS[description["type"]].from_dict(description["config"])
    networks = replace(networks, autoencoder=config, autoencoder_choice="", downsampling_choice=None)
    if card["kind"] == "latent_diffusion":
        conditioning = ConditioningConfig.from_dict(card["conditioning"])
        unet = LatentUNetConfig.from_dict(card["unet"])
        networks = replace(networks, unet=unet, conditioning=conditioning, denoiser_choice="")
    return networks


def assumed_conditioning(conditions: Sequence[str], image_token_grid: int = 0) -> ConditioningConfig:
    """Describe conditions without a cohort: one scalar, two classes, `ASSUMED_STRUCTURES` structures."""
    names = tuple(conditions)
    return ConditioningConfig(
        conditioning_type=names,
        num_classes=2 if "class" in names else None,
        scalars={"scalar": (0.0, 1.0)} if "scalars" in names else {},
        structures={i: f"structure {i}" for i in range(1, ASSUMED_STRUCTURES + 1)}
        if "label_map" in names
        else {},
        image_intensity={"kind": "identity_range"} if "image" in names else None,
        image_token_grid=image_token_grid if "image" in names else 0,
    )


def _read_knobs(bundle: str | Path, stage: str, given: Mapping[str, Any] | None) -> dict[str, Any]:
    path = Path(bundle) / "configs" / f"train_{stage}.yaml"
    if not path.is_file():
        raise MissingFileError(f"no {path}: give the folder of a bundle made like mri_label_ldm")
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    missing = [name for name in STAGES[stage] if name not in (*content, *_OPTIONAL)]
    if missing:
        raise ConfigError(f"{path} has no {missing}: a plan needs a bundle made like mri_label_ldm")
    for name in given or {}:
        if name not in STAGES[stage]:
            raise ConfigError(unknown_name_message(name, list(STAGES[stage]), kind=f"knob of the {stage}"))
    return {name: content.get(name) for name in STAGES[stage]} | dict(given or {})


def _stage_knobs(knobs: Mapping[str, Any]) -> StageKnobs:
    patch = knobs.get("patch_size")
    chosen = {name: knobs[name] for name in _STAGE}
    return StageKnobs(**chosen, patch_size=None if patch is None else tuple(patch))


def _decoder_config(knobs: Mapping[str, Any]) -> DecoderConfig:
    own = {name: knobs[f"decoder_{name}"] for name in _DECODER if knobs[f"decoder_{name}"] is not None}
    return DecoderConfig(n_steps=own.pop("steps", 0), **own)


def _factors_by_spacing(knobs: Mapping[str, Any]) -> tuple[int, ...] | None:
    """Return the factors for thick slices, None where all axes are alike or the factors are given."""
    if knobs["spacing_mm"] is None or knobs["downsampling"] is not None:
        return None
    largest = max(_autoencoder_config(knobs).downsampling or (1,))
    factors = factors_for_spacing(knobs["spacing_mm"], largest)
    return factors if min(factors) < largest else None


def _count_channels(knobs: Mapping[str, Any]) -> int:
    return 1 if knobs["channels"] is None else len(check_channel_names(knobs["channels"]))


def _autoencoder_config(knobs: Mapping[str, Any]) -> VAEConfig | VQVAEConfig:
    kind = knobs["autoencoder_type"]
    if kind not in AUTOENCODER_CONFIGS:
        raise ConfigError(f"autoencoder_type is {kind!r}: choose from {list(AUTOENCODER_CONFIGS)}")
    n_channels = _count_channels(knobs)
    options = {name: knobs[name] for name in _ENCODER if knobs[name] is not None}
    options |= {"in_channels": n_channels, "out_channels": n_channels}
    return AUTOENCODER_CONFIGS[kind](**options, mid_attention=False)
