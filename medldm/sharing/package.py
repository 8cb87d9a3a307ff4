"""From a checkpoint to a bundle that can be given away: configs, card, licence, weights."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medldm.configs import Config
from medldm.data.labels import LabelSchema
from medldm.errors import CheckpointError, ConfigError, StorageError
from medldm.files import atomic_folder
from medldm.latent_diffusion.checkpoints import (
    SCHEMA_KEY,
    Checkpoint,
    hash_weights,
    read_card,
    save_checkpoint,
)
from medldm.latent_diffusion.model import LatentDiffusionModel
from medldm.latent_diffusion.model_files import load_latent_diffusion
from medldm.latent_diffusion.volume_space import VolumeSpace
from medldm.sharing.card import STORAGE_KEY, shareable_card
from medldm.sharing.copies import PARTS as BUNDLE_PARTS
from medldm.sharing.copies import copy_part, require_free
from medldm.sharing.figures import list_figures, read_report
from medldm.sharing.model_card import CardContent, fill_metadata, write_page
from medldm.sharing.shipped import CT, IMAGES, LABEL_MAPS, LABEL_MAPS_FILE, MODEL_FILE, Bundle, find_bundle
from medldm.sharing.storage import HALVES, describe_storage, halve, measure_loss
from medldm.sharing.torchscript import PARTS, describe_inputs, save_part, trace_part
from medldm.sharing.train_configs import write_train_configs

logger = logging.getLogger(__name__)

MB = 1_000_000
_VERSION = re.compile(r"\d+\.\d+\.\d+")
_CHECKPOINT = re.compile(r"^checkpoint: .*$", re.MULTILINE)
_IN_MODELS = f"""checkpoint: "$@bundle_root + '/models/{MODEL_FILE}'" # needs no other file"""


@dataclass(kw_only=True)
class PackageConfig(Config):
    """Set how a model is packaged.

    Args:
        licence: of the weights: "Apache-2.0", that of the package, or the file of another licence's text.
        name: of the package; None for that of its folder.
        version: of the package, such as 1.0.0.
        report: report.json of `medldm evaluate --checkpoint` of this model; None leaves its lines unmeasured.
        half: "float16" or "bfloat16" store weights in half the bytes; None keeps them.
        bundle: whose configs go along; None for the one that trains such models.
        label_maps: checkpoint of labelmap_ldm that draws label maps to start from; None for none.
        data: what the card says of the cohort, its licence and whom to name.
        notes: what it says of the training: commands, minutes, machine.
        torchscript: whether to add `model.pt` and the traced decoder and denoiser, as MONAI's model zoo asks.
        max_file_mb: largest file, in 10^6 bytes.

    Raises:
        ConfigError: if the version is none, or the licence is neither.
    """

    licence: str
    name: str | None = None
    version: str = "1.0.0"
    report: str | None = None
    half: str | None = None
    bundle: str | None = None
    label_maps: str | None = None
    data: str = ""
    notes: str = ""
    torchscript: bool = True
    max_file_mb: float = 25.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("(0, inf)", "max_file_mb")
        if not _VERSION.fullmatch(self.version):
            raise ConfigError(f"version is {self.version!r}: three numbers such as 1.0.0 are needed")
        if self.half is not None and self.half not in HALVES:
            raise ConfigError(f"half is {self.half!r}: choose from {list(HALVES)}")
        if self.licence != "Apache-2.0" and not Path(self.licence).is_file():
            raise ConfigError(
                f"licence is {self.licence!r}: name Apache-2.0, or the file of another licence's text"
            )

    @property
    def licence_name(self) -> str:
        """What the card calls the licence."""
        return self.licence if self.licence == "Apache-2.0" else _first_line(Path(self.licence))


@dataclass(frozen=True, kw_only=True)
class Package:
    """What was made.

    Args:
        folder: of the package.
        files: path below it to its size in bytes.
        left_out: keys of the checkpoint's card that are not given away.
        notes: what the train workflows do not say of the model's training, one line each.
    """

    folder: Path
    files: Mapping[str, int]
    left_out: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def table(self) -> str:
        """Return what a command prints."""
        lines = [f"{size / MB:8.2f} MB  {name}" for name, size in self.files.items() if size >= MB / 100]
        if self.left_out:
            lines.append(f"left out of the card: {', '.join(self.left_out)}")
        lines += self.notes
        return "\n".join(
            [*lines, f"{len(self.files)} files in {self.folder}; read docs/README.md before you share it"]
        )


def package_model(checkpoint: str | Path, output_dir: str | Path, config: PackageConfig) -> Package:
    """Make a bundle of a trained model that holds nothing of its cohort but hashes.

    Args:
        checkpoint: of the second stage, of images or of label maps.
        output_dir: a folder that is absent or empty.
        config: settings.

    Raises:
        CheckpointError: if the checkpoint is damaged or of another kind.
        ConfigError: if the report is of other weights, or the label maps are of other structures.
        OutputExistsError: if the folder holds something.
        StorageError: if a file is larger than allowed; nothing is written then.
    """
    output_dir = Path(output_dir)
    require_free(output_dir)
    bundle = find_bundle(config.bundle or _usual_bundle(checkpoint))
    model, _, found = load_latent_diffusion(checkpoint)
    report = (
        None
        if config.report is None
        else read_report(config.report, weights_sha256=found.card["weights_sha256"])
    )
    card, left_out = shareable_card(found.card)
    weights, storage = _prepare_weights(model, found, config)
    maps = _load_label_maps(model, config)
    content = CardContent(
        name=config.name or output_dir.resolve().name,
        version=config.version,
        licence=config.licence_name,
        data=config.data,
        notes=config.notes,
        figures=list_figures(report),
        weights_sha256=hash_weights(weights),
        storage=storage,
        structures=_structures_of(model, card),
        has_label_maps=maps is not None,
        files=_name_files(config, has_label_maps=maps is not None),
    )
    own_card = card if storage is None else {**card, STORAGE_KEY: storage}
    with atomic_folder(output_dir) as folder:
        _write_configs(bundle, folder, config)
        notes = write_train_configs(folder / "configs", model, found.card)
        metadata = fill_metadata(bundle.metadata(), model, content)
        _write_text(folder / "configs" / "metadata.json", json.dumps(metadata, indent=2) + "\n")
        _write_text(folder / "docs" / "README.md", write_page(model, content))
        save_checkpoint(folder / "models" / MODEL_FILE, weights, own_card)
        if maps is not None:
            save_checkpoint(folder / "models" / LABEL_MAPS_FILE, *maps)
        if config.torchscript:
            _write_torchscript(model, weights, folder, metadata=metadata)
        files = _measure(folder, max_file_mb=config.max_file_mb)
    return Package(folder=output_dir, files=files, left_out=tuple(left_out), notes=notes)


def _usual_bundle(checkpoint: str | Path) -> str:
    """Return the name of the bundle that trains such models."""
    card = read_card(checkpoint) if Path(checkpoint).is_file() else {}
    if card.get("kind") != "latent_diffusion":
        raise CheckpointError(
            f"{checkpoint} is no model of the second stage: give latent_diffusion.safetensors of a training"
        )
    if SCHEMA_KEY in card:
        return LABEL_MAPS
    kinds = [mapping.kind for mapping in space.intensities] if (space := _space_in(card)) else []
    return CT if kinds and all(kind == "ct_window" for kind in kinds) else IMAGES


def _space_in(card: Mapping[str, Any]) -> VolumeSpace | None:
    return VolumeSpace.from_dict(card["space"]) if card.get("space") else None


def _prepare_weights(
    model: LatentDiffusionModel, found: Checkpoint, config: PackageConfig
) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """Return the weights as they are stored, and what the card says of that; the model then has them."""
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    if config.half is None:
        return weights, None
    stored = halve(weights, config.half)
    loss = measure_loss(model, weights, stored)
    return stored, describe_storage(config.half, loss, weights_sha256=found.card["weights_sha256"])


def _load_label_maps(
    model: LatentDiffusionModel, config: PackageConfig
) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Return weights and card of the model of label maps that goes along."""
    if config.label_maps is None:
        return None
    maps, _, found = load_latent_diffusion(config.label_maps)
    own = _structures_of(maps, found.card) if maps.makes_label_maps else {}
    wanted = dict(model.conditioning_config.structures)
    if own != wanted:
        raise ConfigError(
            f"{config.label_maps} makes maps of {own}, the model is told {wanted}: give a model of "
            "labelmap_ldm that was trained on the same labels.json"
        )
    card, _ = shareable_card(found.card)
    weights, storage = _prepare_weights(maps, found, config)
    return weights, card if storage is None else {**card, STORAGE_KEY: storage}


def _structures_of(model: LatentDiffusionModel, card: Mapping[str, Any]) -> dict[int, str]:
    if model.makes_label_maps:
        return dict(LabelSchema.from_dict(card[SCHEMA_KEY]).structures)
    return dict(model.conditioning_config.structures)


def _name_files(config: PackageConfig, *, has_label_maps: bool) -> dict[str, str]:
    files = {MODEL_FILE: "the model; medldm reads this file alone"}
    if has_label_maps:
        files[LABEL_MAPS_FILE] = "a model that draws label maps to start from; no map of a patient goes along"
    if config.torchscript:
        files["model.pt"] = "the autoencoder's weights once more, as plain tensors (`network_def`)"
        files |= {f"{part}.ts": f"the {part} as TorchScript, for programs without medldm" for part in PARTS}
    return files


def _write_configs(bundle: Bundle, folder: Path, config: PackageConfig) -> None:
    """Copy the bundle, and let what generates take the weights of `models/`."""
    for part in BUNDLE_PARTS:
        copy_part(bundle.path / part, folder / part)
    (folder / "docs" / "README.md").rename(folder / "docs" / "training.md")
    if config.licence != "Apache-2.0":
        copy_part(Path(config.licence), folder / "LICENSE")
    (folder / "models").mkdir()
    for name in ("inference", "edit"):
        file = folder / "configs" / f"{name}.yaml"
        if file.is_file():
            _write_text(
                file, _CHECKPOINT.sub(_IN_MODELS.replace("\\", r"\\"), file.read_text(encoding="utf-8"))
            )


def _write_torchscript(
    model: LatentDiffusionModel, weights: Mapping[str, Tensor], folder: Path, *, metadata: Mapping[str, Any]
) -> None:
    torch.save(model.autoencoder.state_dict(), folder / "models" / "model.pt")
    configs = {f"{file.stem}.json": file.read_bytes() for file in (folder / "configs").glob("metadata.json")}
    for part in PARTS:
        traced = trace_part(model, part, weights)
        own = {**metadata, "part": part, "part_inputs": describe_inputs(model, part)}
        save_part(traced, folder / "models" / f"{part}.ts", metadata=own, configs=configs)


def _measure(folder: Path, *, max_file_mb: float) -> dict[str, int]:
    """Return the size of each file.

    Raises:
        StorageError: naming those that are too large.
    """
    files = {
        str(path.relative_to(folder)): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    large = {name: size for name, size in files.items() if size > max_file_mb * MB}
    if large:
        listed = ", ".join(f"{name} {size / MB:.1f} MB" for name, size in large.items())
        raise StorageError(
            f"{listed}: a file may have {max_file_mb:g} MB. Store weights with --half float16, leave out the "
            "TorchScript files with --no-torchscript, or raise --max-file-mb"
        )
    return files


def _first_line(file: Path) -> str:
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    return next((line.strip()[:100] for line in lines if line.strip()), file.name)


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
