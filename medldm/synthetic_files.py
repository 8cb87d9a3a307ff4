"""The files of synthetic volumes: the geometry of their label maps, and whole writing.

A label map is brought to the networks' grid, the image made there is brought back to the map's own grid and
affine, to the bit.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.data import MetaTensor
from monai.transforms import Compose
from torch import Tensor

from medldm.checkpoints import write_atomically
from medldm.data.labels import LabelSchema
from medldm.transforms import (
    CentreCropOrPad,
    LoadVolume,
    ResampleToSpacing,
    restore_file_geometry,
    write_nifti,
)
from medldm.volume_space import VolumeSpace

logger = logging.getLogger(__name__)


class LabelGrid:
    """Bring a label map to the space of the networks, and an image made there back to the file's grid.

    The networks' grid has the training spacing and at least the training size; nothing of the map is cut off.

    Args:
        file: the label map.
        space: of the networks.
        multiple: sizes are made multiples of this.
    """

    def __init__(self, file: str, space: VolumeSpace, *, multiple: int) -> None:
        self.label = LoadVolume(is_label=True)(file)
        resampled = ResampleToSpacing(space.spacing_mm, is_label=True)(self.label)
        size = [
            max(-(-n // multiple) * multiple, own)
            for n, own in zip(resampled.shape[1:], space.size, strict=True)
        ]
        if any(n > own for n, own in zip(size, space.size, strict=True)):
            logger.warning(
                "a label map of %s voxels exceeds the training size %s: the model extrapolates there",
                tuple(resampled.shape[1:]),
                space.size,
            )
        self.prepared = CentreCropOrPad(size, fill=0.0)(resampled).as_tensor()
        self._way = Compose([ResampleToSpacing(space.spacing_mm), CentreCropOrPad(size)])
        self._template = self._way(self.label.clone())

    def to_file_grid(self, image: Tensor) -> np.ndarray:
        """Bring an image (1, X, Y, Z) on the networks' grid to the file's axes and grid."""
        tensor = MetaTensor(image.detach().cpu().float()).copy_meta_from(self._template)
        tensor.applied_operations = self._template.applied_operations
        return restore_file_geometry(self._way.inverse(tensor)).as_tensor()[0].numpy()

    @property
    def affine(self) -> np.ndarray:
        """The affine of the file, to the bit."""
        return np.asarray(self.label.meta["original_affine"])

    def file_labels(self) -> np.ndarray:
        """Return the map as it is in the file."""
        return restore_file_geometry(self.label).as_tensor()[0].numpy()


class SyntheticWriter:
    """Write images, label maps and sidecars; each file whole or not at all.

    Args:
        output_dir: receives images/, labels/, sidecars/.
        overwrite: allow replacing volumes that exist.

    Raises:
        FileExistsError: from `refuse_existing`, before anything is generated.
    """

    def __init__(self, output_dir: str | Path, *, overwrite: bool = False) -> None:
        self.output_dir = Path(output_dir)
        self.overwrite = overwrite

    def refuse_existing(self, indices: Sequence[int]) -> None:
        """Refuse to replace volumes unless `overwrite` is set."""
        existing = [
            self._name(i)
            for i in indices
            if (self.output_dir / "images" / f"{self._name(i)}.nii.gz").exists()
        ]
        if existing and not self.overwrite:
            raise FileExistsError(
                f"{len(existing)} volumes, such as {existing[0]}, exist in {self.output_dir}: "
                "choose another output_dir or first_index, or set overwrite to true"
            )

    def write(
        self,
        index: int,
        image: np.ndarray,
        *,
        affine: np.ndarray,
        sidecar: dict[str, Any],
        labels: np.ndarray | None = None,
        schema: LabelSchema | None = None,
    ) -> Path:
        """Write one volume; returns the image's file."""
        name = f"{self._name(index)}"
        if labels is not None:
            integer = np.min_scalar_type(int(labels.max()))
            write_nifti(self.output_dir / "labels" / f"{name}.nii.gz", labels, affine, dtype=integer)
        content = json.dumps(sidecar, indent=2, sort_keys=True).encode()
        write_atomically(self.output_dir / "sidecars" / f"{name}.json", content)
        if schema is not None:
            write_atomically(self.output_dir / "labels.json", json.dumps(schema.to_dict(), indent=2).encode())
        return write_nifti(self.output_dir / "images" / f"{name}.nii.gz", image, affine, dtype=image.dtype)

    @staticmethod
    def _name(index: int) -> str:
        return f"synthetic_{index:04d}"
