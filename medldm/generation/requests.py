"""What is to be generated: label maps, conditions and indices, and their tensors."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from medldm.conditioning import Conditions
from medldm.conditioning.config import SPATIAL_TYPES
from medldm.conditioning.spatial_conditioners import hide_structures
from medldm.conditioning.values import EncodesText, condition_value
from medldm.data.labels import LabelSchema
from medldm.data.partly_labelled import (
    STRUCTURES_IN_MAP,
    covered_structures,
    read_structures_in_map,
    unknown_structures,
)
from medldm.data.preparation.labels import LabelTable, read_label_table
from medldm.errors import CheckpointError, ConfigError, MissingFileError
from medldm.files import hash_array, is_clutter
from medldm.generation.files import FileGrid, LabelGrid
from medldm.generation.listed_maps import LISTED, ListedMap
from medldm.generation.request_notes import MORE_ANATOMIES, Geometry, RequestNote, note_turns
from medldm.latent_diffusion.model import LatentDiffusionModel
from medldm.latent_diffusion.volume_space import require_volume_space
from medldm.runtime.json_files import read_json
from medldm.transforms import IntensityMapping, LoadVolume
from medldm.transforms.load import loaded_grid_difference, share_grid
from medldm.transforms.readers import volume_suffix

Values = Mapping[str, Any]

logger = logging.getLogger(__name__)


class GenerationDataset(Dataset[dict[str, Any]]):
    """List what is to be generated.

    Args:
        num_samples: volumes to make; None for one of each label map, or of each entry of `conditions`.
        first_index: index of the first volume; `--seed 7 --first_index 3` makes the fourth volume of seed 7.
        labels: files of the label maps, used in turn; None for a model without that condition. A `ListedMap`
            says which structures it covers.
        conditions: values of the other conditions by name, {"age": 61, "sex": "F", "text": "...", "image":
            file}; for all volumes, or a list used in turn, or the JSON file of either.
    """

    def __init__(
        self,
        *,
        num_samples: int | None,
        first_index: int = 0,
        labels: Sequence[str | ListedMap] | None = None,
        conditions: Values | Sequence[Values] | str | Path | None = None,
    ) -> None:
        self.labels = list(labels or [])
        content = _content_of(conditions)
        self.conditions = read_conditions(content)
        self.is_one_for_all = isinstance(content, Mapping)
        self.num_samples = num_samples or max(len(self.labels), len(self.conditions))
        self.first_index = first_index
        if self.num_samples < 1:
            raise ConfigError(
                "nothing to generate: give num_samples, conditions, or a label_dir with label maps"
            )

    def __len__(self) -> int:
        return self.num_samples

    def __getitem__(self, position: int) -> dict[str, Any]:
        if not 0 <= position < self.num_samples:
            raise IndexError(position)
        index = self.first_index + position
        request: dict[str, Any] = {"index": index, "conditions": {}}
        if self.labels:
            label = self.labels[index % len(self.labels)]
            request["label"] = label.path if isinstance(label, ListedMap) else label
            if isinstance(label, ListedMap):
                request[LISTED] = label
        if self.conditions:
            request["conditions"] = dict(self.conditions[index % len(self.conditions)])
        return request

    def notes(self) -> list[RequestNote]:
        """Say what is used more than once, or not at all, to make as many volumes as asked for."""
        positions = range(self.first_index, self.first_index + self.num_samples)
        requests = [self[position] for position in range(self.num_samples)]
        labels = [request["label"] for request in requests if "label" in request]
        notes = note_turns(labels, n_given=len(set(self.labels)), noun="label map", advice=MORE_ANATOMIES)
        given = {str(entry["image"]) for entry in self.conditions if "image" in entry}
        asked = [request["conditions"] for request in requests]
        images = [str(conditions["image"]) for conditions in asked if "image" in conditions]
        notes += note_turns(images, n_given=len(given), noun="condition image")
        if self.conditions and not self.is_one_for_all:
            notes += note_turns(
                [position % len(self.conditions) for position in positions],
                n_given=len(self.conditions),
                noun="entry of conditions",
                plural="entries of conditions",
            )
        return notes


def read_conditions(source: Values | Sequence[Values] | str | Path | None) -> list[Values]:
    """Return the conditions as a list with one entry for each volume in turn.

    Raises:
        ConfigError: if it is no mapping, no list of them, and no JSON file of either.
    """
    content = _content_of(source)
    if content is None:
        return []
    entries = [content] if isinstance(content, Mapping) else list(content)
    if not all(isinstance(entry, Mapping) for entry in entries):
        raise ConfigError("conditions must be a mapping of names to values, or a list of such mappings")
    return [{name: value for name, value in entry.items() if value is not None} for entry in entries]


def _content_of(source: Values | Sequence[Values] | str | Path | None) -> Any:
    if not isinstance(source, str | Path):
        return source
    try:
        return read_json(source)
    except (OSError, ValueError) as error:
        raise ConfigError(f"conditions: {Path(str(source)).name} is no JSON file ({error})") from error


def list_label_maps(label_dir: str | Path) -> list[str]:
    """Return the label maps of a folder, sorted by name.

    Raises:
        MissingFileError: if there is no such folder, or no volume in it.
    """
    folder = Path(label_dir)
    present = sorted(folder.iterdir()) if folder.is_dir() else []
    files = [file for file in present if volume_suffix(file) and not is_clutter(file)]
    if not files:
        raise MissingFileError(f"no label maps in {label_dir}: give a folder of NIfTI files as label_dir")
    return [str(file) for file in files]


@dataclass(frozen=True, kw_only=True)
class PreparedRequest:
    """One volume to be made.

    Args:
        index: of the volume in its seed.
        conditions: as tensors; None for none.
        size: voxels (X, Y, Z) to draw.
        grid: of the label map or the image it is made from; None for a volume made from noise alone.
        labels: on the file's grid, with the model's values; None without a label map.
        description: of the conditions, for the sidecar.
    """

    index: int
    conditions: Conditions | None
    size: tuple[int, ...]
    grid: FileGrid | None
    labels: np.ndarray | None
    description: dict[str, Any]


class RequestPreparer:
    """Turn requests into tensors on the grid of the networks.

    Args:
        model: whose conditions and space count.
        text_encoder: for the condition "text".
        label_table: how values of the label maps become the model's; None leaves them.
        structures_in_map: names of the structures that the label maps cover; the others are unknown. None
            goes by what the cohort says of its map, see `ListedMap`, and takes a structure of which it says
            nothing for unknown where a map lacks it and not all maps of the training covered it.

    Attributes:
        geometries: spacing and voxels of each label map that was checked, by its file.
    """

    def __init__(
        self,
        model: LatentDiffusionModel,
        *,
        text_encoder: EncodesText | None = None,
        label_table: LabelTable | None = None,
        structures_in_map: Sequence[str] | str | None = None,
    ) -> None:
        self.config = model.conditioning_config
        self.encoder = model.denoiser.conditioning
        self.space = require_volume_space(model.space)
        self.multiple = model.autoencoder.downsampling
        self.text_encoder = text_encoder
        self.label_table = label_table
        structures = self.config.structures
        self.structures_in_map: tuple[str, ...] | None = None
        if structures_in_map is not None:
            self.structures_in_map = read_structures_in_map(structures_in_map, structures)
        self.schema = self._make_schema() if structures else None
        self._sound_labels: set[tuple[str, ListedMap | None]] = set()
        self.geometries: dict[str, Geometry] = {}

    def check(self, request: Mapping[str, Any]) -> None:
        """Refuse what the model does not know, before anything is drawn; each label map is read once.

        Raises:
            ConfigError: if a condition, a value or a structure is none the model knows.
        """
        strangers = sorted(set(request["conditions"]) - set(self.config.names) - {"label_map"})
        if strangers or "label_map" in request["conditions"]:
            raise ConfigError(
                f"conditions name {strangers or ['label_map']}: this model knows {list(self.config.names)}; "
                "label maps are given by label_dir"
            )
        values = self._plain_values(request["conditions"])
        self.encoder.check(Conditions({name: value[None] for name, value in values.items()}))
        if "image" in request["conditions"]:
            LoadVolume()(str(request["conditions"]["image"]))
        listed: ListedMap | None = request.get(LISTED)
        label = (request.get("label"), listed)
        if "label" in request and self.schema is not None and label not in self._sound_labels:
            volume = LoadVolume(is_label=True)(request["label"])
            spacing, size = (tuple(each) for each in (volume.pixdim.tolist(), volume.shape[1:]))
            self.geometries[request["label"]] = (spacing, size)
            labels = volume.numpy()
            labels = labels if self.label_table is None else self.label_table.apply(labels)
            found = np.unique(labels)
            self.schema.check(found, request["label"])
            covered = self._covered(found, listed)
            self._declare(listed, covered)
            self.encoder.check_unknown(unknown_structures(covered, self.schema.structures)[None])
            if hidden := [name for name in self._drawn(found) if name not in covered]:
                logger.warning(
                    "%s holds %s, which structures_in_map does not name: taken out of it",
                    *(Path(request["label"]).name, ", ".join(hidden)),
                )
            self._sound_labels.add((request["label"], listed))

    def prepare(self, request: Mapping[str, Any]) -> PreparedRequest:
        """Load the volumes of a request and make its tensors."""
        raw = request["conditions"]
        values = {name: value[None] for name, value in self._plain_values(raw).items()}
        described: dict[str, Any] = {name: raw[name] for name in values}
        grid: FileGrid | None = None
        labels = None
        unknown: dict[str, Tensor] = {}
        if "label" in request and self.schema is not None:
            label_grid = LabelGrid(
                request["label"], self.space, multiple=self.multiple, table=self.label_table
            )
            labels, grid = label_grid.file_labels(), label_grid
            covered = self._covered(np.unique(labels), request.get(LISTED))
            mask = unknown_structures(covered, self.schema.structures)[None]
            indices = self.schema.index_map(label_grid.prepared)[None]
            values["label_map"] = hide_structures(indices, mask)
            structures = {str(value): name for value, name in self.schema.structures.items()}
            if self.config.may_be_unknown:
                unknown["label_map"] = mask
                kept = [value for value, name in self.schema.structures.items() if name in covered]
                labels = np.where(np.isin(labels, kept), labels, 0).astype(labels.dtype)
                described["label_map"] = {STRUCTURES_IN_MAP: list(covered)}
            described["label_map"] = {
                **described.get("label_map", {}),
                "voxels_sha256": hash_array(labels),
                "structures": structures,
            }
        if "image" in raw:
            grid, values["image"] = self._load_image(raw["image"], grid)
            described["image"] = {"voxels_sha256": hash_array(values["image"].numpy())}
        return PreparedRequest(
            index=request["index"],
            conditions=Conditions(values, unknown=unknown) if values else None,
            size=self.space.size if grid is None else grid.size,
            grid=grid,
            labels=labels,
            description=described,
        )

    def _make_schema(self) -> LabelSchema:
        """Return the structures, and of which of them absence from a map that is written says nothing."""
        structures = self.config.structures
        partly = set(self.config.partly_labelled)
        if self.structures_in_map is not None:
            partly |= set(structures.values()) - set(self.structures_in_map)
        return LabelSchema(structures=structures, partly_labelled=sorted(partly))

    def _covered(self, values: Iterable[int], listed: ListedMap | None) -> tuple[str, ...]:
        """Return the structures that a map with these values covers."""
        if self.structures_in_map is not None:
            return self.structures_in_map
        found = (int(value) for value in values)
        own = covered_structures(found, self.config.structures, self.config.partly_labelled)
        return own if listed is None else listed.covered(own, self.config, table=self.label_table)

    def _declare(self, listed: ListedMap | None, covered: Sequence[str]) -> None:
        """Let the schema that is written name what a map of the cohort leaves open, and say what is not."""
        if listed is None or self.schema is None or self.structures_in_map is not None:
            return
        unknown = set(self.config.structure_names) - set(covered)
        partly = sorted({*self.schema.may_be_unknown, *unknown})
        self.schema = LabelSchema(structures=self.config.structures, partly_labelled=partly)
        if beyond := listed.beyond(self.config, table=self.label_table):
            logger.warning(
                "%s does not cover %s, of which this model's training never said so: taken as the map has "
                "it; train with structure_dropout, or give maps that cover it",
                *(Path(listed.path).name, ", ".join(beyond)),
            )

    def _drawn(self, values: Iterable[int]) -> list[str]:
        names = self.config.structures
        return [names[int(value)] for value in values if int(value) in names]

    def _plain_values(self, raw: Values) -> dict[str, Tensor]:
        return {
            name: condition_value(self.config, name, raw[name], text_encoder=self.text_encoder)
            for name in self.config.names
            if name in raw and name not in SPATIAL_TYPES
        }

    def _load_image(self, file: str, grid: FileGrid | None) -> tuple[FileGrid, Tensor]:
        """Bring the condition image to the networks' grid, which is the label map's where there is one."""
        if grid is None:
            grid = FileGrid(file, self.space, multiple=self.multiple)
            volume = grid.volume
        else:
            volume = LoadVolume()(str(file))
            if difference := loaded_grid_difference(grid.volume, volume):
                raise ConfigError(
                    f"the condition image does not lie on the grid of its label map ({difference}): "
                    "resample it"
                )
            share_grid(grid.volume, volume)
        intensity = IntensityMapping.from_dict(self.config.image_intensity or {})
        limits = intensity.case_limits(volume.as_tensor())
        on_grid = grid.to_network_grid(volume)
        return grid, torch.as_tensor(intensity.to_model(on_grid, limits=limits))[None]


def make_preparer(
    model: LatentDiffusionModel,
    *,
    text_encoder: EncodesText | None = None,
    label_table: str | Path | None = None,
    structures_in_map: Sequence[str] | str | None = None,
) -> RequestPreparer:
    """Build what turns requests into tensors; the arguments are those of `generation.engine.generate`.

    Raises:
        CheckpointError: if the model makes label maps, not images, or other channels than its card names.
    """
    if model.makes_label_maps:
        raise CheckpointError("the model makes label maps, not images: use the bundle labelmap_ldm")
    n_made, space = model.autoencoder.config.out_channels, require_volume_space(model.space)
    if n_made != space.n_channels:
        raise CheckpointError(
            f"the model makes {n_made} channels, its card has the intensities of {space.n_channels}: train "
            "it through the bundle"
        )
    table: LabelTable | None = None if label_table is None else read_label_table(label_table)
    return RequestPreparer(
        model, text_encoder=text_encoder, label_table=table, structures_in_map=structures_in_map
    )
