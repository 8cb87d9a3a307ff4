"""From noise to a folder of new label maps, each with a sidecar that says how to make it again."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medldm.data.labels import LabelSchema
from medldm.errors import CheckpointError, ConfigError
from medldm.generation.engine import GenerationEvaluator, LatentDiffusionInferer
from medldm.generation.files import SyntheticWriter
from medldm.generation.rejection import RejectionResult
from medldm.generation.requests import GenerationDataset, PreparedRequest
from medldm.label_maps.islands import remove_islands
from medldm.latent_diffusion.config import LatentDiffusionConfig
from medldm.latent_diffusion.label_maps import decode_indices, load_label_map_model
from medldm.latent_diffusion.model import LatentDiffusionModel
from medldm.runtime.devices import choose_device
from medldm.sampling.config import SamplingConfig
from medldm.seeds import label_map_seed
from medldm.transforms import write_nifti

logger = logging.getLogger(__name__)


class LabelMapInferer(LatentDiffusionInferer):
    """Draw label maps behind MONAI's inferer interface.

    Args:
        config: noise path and prediction type of the training.
        sampling: how maps are drawn.
        min_island_ml: connected components of a structure smaller than this are given to what surrounds them;
            0 leaves every voxel as it was drawn.

    Raises:
        ConfigError: if `min_island_ml` is below 0.
    """

    def __init__(
        self, config: LatentDiffusionConfig, sampling: SamplingConfig, *, min_island_ml: float = 0.0
    ) -> None:
        if min_island_ml < 0:
            raise ConfigError(f"min_island_ml is {min_island_ml}: 0 ml or more is needed")
        super().__init__(config, sampling)
        self.min_island_ml = min_island_ml

    def __call__(  # type: ignore[override]
        self, inputs: Sequence[int], network: LatentDiffusionModel, **options: Any
    ) -> Tensor:
        """Draw one map (1, 1, X, Y, Z) uint8 of indices 0..K, on the CPU; arguments as for images."""
        indices = decode_indices(super().__call__(inputs, network, **options)).cpu()
        if self.min_island_ml == 0 or network.space is None:
            return indices
        spacing_mm, limit = network.space.spacing_mm, self.min_island_ml
        cleaned, n_changed = remove_islands(indices[0, 0].numpy(), spacing_mm, min_island_ml=limit)
        logger.info("islands below %g ml removed: %d voxels changed", self.min_island_ml, n_changed)
        return torch.from_numpy(cleaned)[None, None]


class LabelMapWriter(SyntheticWriter):
    """Write label maps and sidecars; each file whole or not at all, the map after its sidecar.

    The names are those of `SyntheticWriter`, so that images made from the maps can join them in one folder.

    Args:
        output_dir: receives labels/, sidecars/ and labels.json.
        overwrite: allow replacing maps that exist.
    """

    folder, noun = "labels", "label maps"

    def write_map(
        self,
        index: int,
        indices: np.ndarray,
        *,
        affine: np.ndarray,
        schema: LabelSchema,
        sidecar: Mapping[str, Any],
    ) -> Path:
        """Write one map of indices (X, Y, Z) with the schema's values; returns its file."""
        self._write_sidecar(f"{self._name(index)}_labels", sidecar)
        self._write_schema(schema)
        dtype = np.min_scalar_type(max(schema.values))
        return write_nifti(self.file_of(index), schema.value_map(indices).numpy(), affine, dtype=dtype)


class LabelMapGenerator(GenerationEvaluator):
    """Draw and write label maps, on MONAI's engine.

    Args:
        device: where to generate.
        dataset: what to generate.
        network: a model of label maps.
        schema: its structures.
        inferer: draws a map.
        writer: writes it.
        val_handlers: attached in their order.

    Raises:
        ValueError: if the model lacks a space, or a condition that is asked for.
        FileExistsError: if a map exists already, before anything is drawn.
    """

    def __init__(
        self,
        device: torch.device,
        dataset: GenerationDataset,
        *,
        network: LatentDiffusionModel,
        schema: LabelSchema,
        inferer: LabelMapInferer,
        writer: LabelMapWriter,
        val_handlers: Sequence[Any] | None = None,
    ) -> None:
        self.schema = schema
        self.map_writer = writer
        self.min_island_ml = inferer.min_island_ml
        super().__init__(
            device, dataset, network=network, inferer=inferer, writer=writer, val_handlers=val_handlers
        )

    def _write(self, request: PreparedRequest, volume: Tensor, result: RejectionResult | None = None) -> Path:
        file = self.map_writer.write_map(
            request.index,
            volume[0].numpy(),
            affine=self.preparer.space.affine(request.size),
            schema=self.schema,
            sidecar=self._describe(request)
            | {
                "min_island_ml": self.min_island_ml,
                "structures": self.schema.to_dict(),
                "volumes_ml": self._measure_volumes(volume),
            },
        )
        logger.info("wrote %s", file.name)
        return file

    def _measure_volumes(self, indices: Tensor) -> dict[str, float]:
        voxel_ml = math.prod(self.preparer.space.spacing_mm) / 1000
        n_voxels = torch.bincount(indices.flatten().long(), minlength=self.schema.n_structures + 1).tolist()
        return {name: round(n * voxel_ml, 6) for name, n in zip(self.schema.names, n_voxels[1:], strict=True)}


def generate_label_maps(
    checkpoint: str | Path,
    output_dir: str | Path,
    *,
    num_samples: int | None,
    first_index: int = 0,
    conditions: Mapping[str, Any] | Sequence[Mapping[str, Any]] | str | Path | None = None,
    sampling: SamplingConfig | None = None,
    min_island_ml: float = 0.0,
    overwrite: bool = False,
    device: str | torch.device = "auto",
    structures: Mapping[int, str] | None = None,
    may_lack: Sequence[str] = (),
) -> list[Path]:
    """Make new label maps with a trained model; what `inference.yaml` of labelmap_ldm does.

    Args:
        checkpoint: of the second stage of labelmap_ldm.
        output_dir: receives labels/, sidecars/ and labels.json.
        num_samples: maps to make; None for one of each entry of `conditions`.
        first_index: index of the first map of the seed.
        conditions: of the maps, e.g. {"volume_ml:hippocampus": 3.1}, see `GenerationDataset`; None for the
            null of every condition.
        sampling: how maps are drawn, its seed included.
        min_island_ml: see `LabelMapInferer`.
        overwrite: replace maps that exist.
        device: "auto", "cpu", "cuda", ...
        structures: value to name that the maps must have, those of the model that makes images of them.
        may_lack: of these, the names that need not be in the maps: the model takes them for unknown then.

    Returns:
        The label maps' files, in the order of their indices.

    Raises:
        CheckpointError: if the checkpoint is not of a model of label maps, or has other structures.
        ValueError: if a condition is none of the model's.
        FileExistsError: if a map exists already.
    """
    model, config, schema = load_label_map_model(checkpoint)
    wanted = dict(structures or schema.structures)
    lacking = wanted.items() - schema.structures.items()
    if schema.structures.items() - wanted.items() or {name for _, name in lacking} - set(may_lack):
        raise CheckpointError(
            f"{checkpoint} makes maps of {dict(schema.structures)}, but {wanted} are needed: train "
            "both models on cohorts with the same labels.json"
        )
    generator = LabelMapGenerator(
        choose_device(device) if isinstance(device, str) else device,
        GenerationDataset(num_samples=num_samples, first_index=first_index, conditions=conditions),
        network=model,
        schema=schema,
        inferer=LabelMapInferer(config, sampling or SamplingConfig(), min_island_ml=min_island_ml),
        writer=LabelMapWriter(output_dir, overwrite=overwrite),
    )
    generator.run()
    return generator.written


def generate_paired_label_maps(
    checkpoint: str | Path,
    output_dir: str | Path,
    *,
    structures: Mapping[int, str],
    num_samples: int,
    first_index: int = 0,
    sampling: SamplingConfig | None = None,
    **options: Any,
) -> list[str]:
    """Make the label maps that images of the same indices are made from.

    The maps' seed follows from that of `sampling`, see `label_map_seed`.

    Args:
        checkpoint: of the second stage of labelmap_ldm.
        output_dir: receives labels/, sidecars/ and labels.json.
        structures: value to name, of the model that makes the images.
        num_samples: maps to make.
        first_index: index of the first map and image.
        sampling: how maps are drawn; its seed is that of the images.
        options: further arguments of `generate_label_maps`.

    Returns:
        The files in the order in which `GenerationDataset` gives image i the map i.
    """
    sampling = sampling or SamplingConfig()
    files = generate_label_maps(
        checkpoint,
        output_dir,
        structures=structures,
        num_samples=num_samples,
        first_index=first_index,
        sampling=replace(sampling, seed=label_map_seed(sampling.seed)),
        **options,
    )
    # The dataset takes labels[i % n] for image i.
    return [str(files[(position - first_index) % len(files)]) for position in range(len(files))]
