"""From label maps, or from noise alone, to a folder of labelled synthetic volumes.

The folder that is written is itself a cohort: images/, labels/, labels.json, and sidecars/ with one JSON file
for each volume that says how to make it again.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.engines import SupervisedEvaluator
from monai.inferers import Inferer
from monai.utils.enums import CommonKeys as Keys
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from medldm.checkpoints import describe_versions, hash_weights
from medldm.conditioning import Conditions
from medldm.configs import Config
from medldm.data.cohort import read_cohort
from medldm.data.labels import LabelSchema
from medldm.devices import choose_device
from medldm.latent_diffusion import LatentDiffusionModel
from medldm.latent_diffusion_config import LatentDiffusionConfig
from medldm.model_files import load_latent_diffusion
from medldm.sampling import LatentDiffusionSampler
from medldm.synthetic_files import LabelGrid, SyntheticWriter

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SamplingConfig(Config):
    """Set how volumes are drawn.

    Args:
        seed: of all randomness; volume i of a seed is the same alone or among others.
        num_steps: of the solver.
        guidance_scale: w of classifier-free guidance; 1 is the plain conditional model.
        solver: "ddim" or another name of medldm.diffusion.SOLVERS.
        eta: noise that DDIM adds, 0 to 1.
        grid: how the steps are spread over the times.
    """

    seed: int = 0
    num_steps: int = 50
    guidance_scale: float = 1.0
    solver: str = "ddim"
    eta: float = 0.0
    grid: str = "trailing"


class LatentDiffusionInferer(Inferer):
    """Draw volumes behind MONAI's inferer interface.

    Args:
        config: noise path and prediction type of the training.
        sampling: how volumes are drawn.
    """

    def __init__(self, config: LatentDiffusionConfig, sampling: SamplingConfig) -> None:
        self.config = config
        self.sampling = sampling

    def __call__(  # type: ignore[override]
        self,
        inputs: Sequence[int],
        network: LatentDiffusionModel,
        *,
        conditions: Conditions | None,
        index: int,
    ) -> Tensor:
        """Draw one volume.

        Args:
            inputs: (X, Y, Z) voxels of the volume, multiples of the autoencoder's downsampling.
            network: the model.
            conditions: of this volume, or None.
            index: of the volume in its seed.

        Returns:
            (1, 1, X, Y, Z) in [-1, 1] up to overshoot.
        """
        factor = network.autoencoder.downsampling
        shape = (1, network.autoencoder.latent_channels, *(n // factor for n in inputs))
        settings = self.sampling.to_dict()
        sampler = LatentDiffusionSampler(network, self.config)
        return sampler.sample(shape, conditions=conditions, indices=[index], **settings)


class GenerationDataset(Dataset[dict[str, Any]]):
    """List what is to be generated.

    Args:
        num_samples: volumes to make; None for one of each label map.
        first_index: index of the first volume; `--seed 7 --index 3` makes the fourth volume of seed 7.
        labels: files of the label maps, used in turn; None for a model without that condition.
        class_label: class of all volumes, for a model with that condition.
    """

    def __init__(
        self,
        *,
        num_samples: int | None,
        first_index: int = 0,
        labels: Sequence[str] | None = None,
        class_label: int | None = None,
    ) -> None:
        self.data = list(labels or [])
        self.num_samples = num_samples or len(self.data)
        self.first_index = first_index
        self.class_label = class_label
        if self.num_samples < 1:
            raise ValueError("nothing to generate: give num_samples, or a label_dir with label maps")

    def __len__(self) -> int:
        return self.num_samples

    def __getitem__(self, position: int) -> dict[str, Any]:
        if not 0 <= position < self.num_samples:
            raise IndexError(position)
        index = self.first_index + position
        request: dict[str, Any] = {"index": index}
        if self.data:
            request["label"] = self.data[index % len(self.data)]
        if self.class_label is not None:
            request["class"] = self.class_label
        return request


def list_label_maps(label_dir: str | Path) -> list[str]:
    """Return the label maps of a folder, sorted by name.

    Raises:
        FileNotFoundError: if there is no such folder, or no volume in it.
    """
    from medldm.transforms.readers import volume_suffix

    folder = Path(label_dir)
    files = sorted(file for file in folder.iterdir() if volume_suffix(file)) if folder.is_dir() else []
    if not files:
        raise FileNotFoundError(f"no label maps in {label_dir}: give a folder of NIfTI files as label_dir")
    return [str(file) for file in files]


class GenerationEvaluator(SupervisedEvaluator):
    """Generate and write the volumes of a `GenerationDataset`, on MONAI's engine.

    Args:
        device: where to generate.
        dataset: what to generate.
        network: the model.
        inferer: draws a volume.
        writer: writes it.
    """

    def __init__(
        self,
        device: torch.device,
        dataset: GenerationDataset,
        *,
        network: LatentDiffusionModel,
        inferer: LatentDiffusionInferer,
        writer: SyntheticWriter,
        val_handlers: Sequence[Any] | None = None,
    ) -> None:
        if network.space is None:
            raise ValueError("the model has no space (spacing, size, intensity): train it through the bundle")
        self.model = network
        self.space = network.space
        self.draw = inferer
        self.writer = writer
        self.written: list[Path] = []
        self.weights_sha256 = hash_weights(network.state_dict())
        structures = network.conditioning_config.structures
        self.schema = LabelSchema(structures=structures) if structures else None
        writer.refuse_existing([dataset[position]["index"] for position in range(len(dataset))])
        super().__init__(
            device=device,
            val_data_loader=DataLoader(dataset, batch_size=None),
            network=network.to(device).eval(),
            inferer=inferer,
            val_handlers=val_handlers,
            decollate=False,
        )

    def _iteration(self, engine: Any, batchdata: dict[str, Any]) -> dict[str, Any]:
        values: dict[str, Tensor] = {}
        grid = None
        if "class" in batchdata:
            values["class"] = torch.tensor([int(batchdata["class"])])
        if "label" in batchdata and self.schema is not None:
            grid = LabelGrid(batchdata["label"], self.space, multiple=self.model.autoencoder.downsampling)
            values["label_map"] = self.schema.index_map(grid.prepared)[None]
        size = self.space.size if grid is None else tuple(grid.prepared.shape[1:])
        conditions = Conditions(values) if values else None
        volume = self.draw(size, self.model, conditions=conditions, index=batchdata["index"])[0]
        self.written.append(self._write(batchdata, volume, grid))
        return {Keys.PRED: volume}

    def _write(self, request: dict[str, Any], volume: Tensor, grid: LabelGrid | None) -> Path:
        sidecar = self._describe(request, grid)
        if grid is None:
            image, affine, labels = volume[0].cpu().numpy(), self.space.affine(tuple(volume.shape[1:])), None
        else:
            image, affine, labels = grid.to_file_grid(volume), grid.affine, grid.file_labels()
        image = np.asarray(self.space.intensity.from_model(image))
        return self.writer.write(
            request["index"],
            image,
            affine=affine,
            sidecar=sidecar,
            labels=labels,
            schema=self.schema if grid is not None else None,
        )

    def _describe(self, request: dict[str, Any], grid: LabelGrid | None) -> dict[str, Any]:
        conditions: dict[str, Any] = {name: request[name] for name in ("class",) if name in request}
        if grid is not None and self.schema is not None:
            content = np.ascontiguousarray(grid.file_labels()).tobytes()
            conditions["label_map"] = {
                "voxels_sha256": hashlib.sha256(content).hexdigest(),
                "structures": {str(value): name for value, name in self.schema.structures.items()},
            }
        return {
            "synthetic": True,
            "index": request["index"],
            "sampling": self.draw.sampling.to_dict(),
            "conditions": conditions,
            "weights_sha256": self.weights_sha256,
            "versions": describe_versions(),
        }


def choose_label_maps(
    model: LatentDiffusionModel,
    *,
    label_dir: str | None,
    dataset_dir: str,
    validation_fraction: float,
    split_seed: int,
) -> list[str] | None:
    """Return the label maps to condition on: those of a folder, or those of a cohort's validation cases.

    Returns:
        Files, or None for a model without that condition.
    """
    if "label_map" not in model.conditioning_config.conditioning_type:
        return None
    if label_dir is not None:
        return list_label_maps(label_dir)
    cohort = read_cohort(dataset_dir, validation_fraction=validation_fraction, seed=split_seed)
    return [case["label"] for case in cohort.validation]


def generate(
    checkpoint: str | Path,
    output_dir: str | Path,
    *,
    label_dir: str | None = None,
    num_samples: int | None = None,
    first_index: int = 0,
    class_label: int | None = None,
    sampling: SamplingConfig | None = None,
    overwrite: bool = False,
    device: str = "auto",
) -> list[Path]:
    """Make synthetic volumes with a trained model; what `inference.yaml` does, without a bundle.

    Args:
        checkpoint: of the second stage.
        output_dir: receives images/, labels/ and sidecars/.
        label_dir: label maps to condition on, for a model with that condition.
        num_samples: volumes to make; None for one of each label map.
        first_index: index of the first volume of the seed.
        class_label: class of all volumes.
        sampling: how volumes are drawn.
        overwrite: replace volumes that exist.
        device: "auto", "cpu", "cuda", ...

    Returns:
        The images' files.
    """
    model, config, _ = load_latent_diffusion(checkpoint)
    dataset = GenerationDataset(
        num_samples=num_samples,
        first_index=first_index,
        labels=list_label_maps(label_dir) if label_dir is not None else None,
        class_label=class_label,
    )
    evaluator = GenerationEvaluator(
        choose_device(device),
        dataset,
        network=model,
        inferer=LatentDiffusionInferer(config, sampling or SamplingConfig()),
        writer=SyntheticWriter(output_dir, overwrite=overwrite),
    )
    evaluator.run()
    return evaluator.written
