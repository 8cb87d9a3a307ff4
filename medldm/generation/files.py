"""The files of synthetic volumes: the geometry of the volumes they are made from, and whole writing.

A label map or an image is brought to the networks' grid, the image made there is brought back to the file's
own grid and affine, to the bit.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose
from torch import Tensor

from medldm.configs import read_switch
from medldm.data.channels import CHANNELS_FILE, describe_channels, read_channels_file
from medldm.data.issues import Issue
from medldm.data.labels import LabelSchema
from medldm.data.preparation.labels import LabelTable
from medldm.errors import ConfigError, OutputExistsError
from medldm.files import require_writable, write_atomically
from medldm.latent_diffusion.volume_space import VolumeSpace
from medldm.transforms import (
    CentreCropOrPad,
    LoadVolume,
    ResampleToSpacing,
    restore_file_geometry,
    write_nifti,
)
from medldm.transforms.window import Fill

logger = logging.getLogger(__name__)

CHANNEL_ENDINGS = ("name", "number")


class FileGrid:
    """Bring a volume to the space of the networks, and an image made there back to the file's grid.

    The networks' grid has the training spacing and at least the training size; nothing of the volume is cut
    off.

    Args:
        file: the volume.
        space: of the networks.
        multiple: for each axis, what its size is made a multiple of.
        is_label: whether it is a label map.

    Attributes:
        volume: as loaded, RAS+ (1, X, Y, Z).
        shape: voxels (X, Y, Z) of the volume at the networks' spacing.
        size: of the networks' grid, at least that.
    """

    def __init__(
        self, file: str | Path, space: VolumeSpace, *, multiple: Sequence[int], is_label: bool = False
    ) -> None:
        self.volume = LoadVolume(is_label=is_label)(str(file))
        self._spacing_mm = space.spacing_mm
        resampled = ResampleToSpacing(space.spacing_mm, is_label=is_label)(self.volume)
        shape = tuple(int(n) for n in resampled.shape[1:])
        self.shape = shape
        self.size = tuple(
            max(-(-n // each) * each, own) for n, each, own in zip(shape, multiple, space.size, strict=True)
        )
        if any(n > own for n, own in zip(self.size, space.size, strict=True)):
            logger.warning(
                "a volume of %s voxels exceeds the training size %s: the model extrapolates there",
                shape,
                space.size,
            )
        self._way = Compose([ResampleToSpacing(space.spacing_mm), CentreCropOrPad(self.size)])
        self._template = self._way(self.volume.clone())

    def to_network_grid(
        self, volume: MetaTensor, *, is_label: bool = False, fill: Fill = "minimum"
    ) -> Tensor:
        """Bring a volume on the file's grid, loaded RAS+ (1, X, Y, Z), to the networks' grid."""
        resampled = ResampleToSpacing(self._spacing_mm, is_label=is_label)(volume)
        return CentreCropOrPad(self.size, fill=fill)(resampled).as_tensor()

    def cut_padding(self, volume: Tensor) -> Tensor:
        """Return the part (C, *shape) of a volume (C, *size) on the networks' grid that the file covers."""
        for axis, (size, n) in enumerate(zip(self.size, self.shape, strict=True), start=volume.ndim - 3):
            volume = volume.narrow(axis, (size - n) // 2, n)
        return volume

    def to_file_grid(self, image: Tensor) -> np.ndarray:
        """Bring one channel of an image (1, X, Y, Z) on the networks' grid to the file's axes and grid."""
        tensor = MetaTensor(image.detach().cpu().float()).copy_meta_from(self._template)
        # A copy: inverting takes the operations off the list.
        tensor.applied_operations = list(self._template.applied_operations)
        return restore_file_geometry(self._way.inverse(tensor)).as_tensor()[0].numpy()

    @property
    def affine(self) -> np.ndarray:
        """The affine of the file, to the bit."""
        return np.asarray(self.volume.meta["original_affine"])


class LabelGrid(FileGrid):
    """The grid of a label map, and the map itself.

    Args:
        file: the label map.
        space: of the networks.
        multiple: for each axis, what its size is made a multiple of.
        table: how the file's values become the model's; None leaves them.

    Attributes:
        prepared: the map on the networks' grid (1, X, Y, Z).
    """

    def __init__(
        self,
        file: str | Path,
        space: VolumeSpace,
        *,
        multiple: Sequence[int],
        table: LabelTable | None = None,
    ) -> None:
        super().__init__(file, space, multiple=multiple, is_label=True)
        if table is not None:
            values = torch.from_numpy(table.apply(self.volume.numpy()).astype(np.int64))
            self.volume = MetaTensor(values).copy_meta_from(self.volume)
        self.prepared = self.to_network_grid(self.volume, is_label=True, fill=0.0)

    def file_labels(self) -> np.ndarray:
        """Return the map on the file's grid, with the model's values."""
        return restore_file_geometry(self.volume).as_tensor()[0].numpy()


class SyntheticWriter:
    """Write images, label maps and sidecars; each file whole or not at all.

    Args:
        output_dir: receives images/, labels/, sidecars/.
        overwrite: allow replacing volumes that exist.
        channel_endings: what ends the name of each channel's file: "name", or "number" for 0000, 0001, ...,
            as nnU-Net has them.

    Attributes:
        channels: names of the channels of the volumes, see `for_channels`; () for one without a name.

    Raises:
        FileExistsError: from `refuse_existing`, before anything is generated.
        ConfigError: for other endings.
    """

    folder, noun = "images", "volumes"

    def __init__(
        self, output_dir: str | Path, *, overwrite: bool = False, channel_endings: str = "name"
    ) -> None:
        if channel_endings not in CHANNEL_ENDINGS:
            raise ConfigError(f"channel_endings is {channel_endings!r}: choose from {list(CHANNEL_ENDINGS)}")
        self.output_dir = Path(output_dir)
        self.overwrite = read_switch(overwrite, name="overwrite")
        self.channel_endings = channel_endings
        self.channels: tuple[str, ...] = ()

    def for_channels(self, channels: Sequence[str]) -> SyntheticWriter:
        """Return a writer of the same files for volumes of these channels."""
        writer = copy(self)
        writer.channels = tuple(channels)
        return writer

    @property
    def endings(self) -> tuple[str, ...]:
        """What stands between the name of a volume and the suffix of each channel's file."""
        if self.channel_endings == "name":
            return self.channels
        return tuple(f"{place:04d}" for place in range(len(self.channels)))

    def file_of(self, index: int) -> Path:
        """Return the file of a volume of one channel without a name, or of a label map."""
        return self.output_dir / self.folder / f"{self._name(index)}.nii.gz"

    def files_of(self, index: int) -> list[Path]:
        """Return the files of a volume, one for each channel."""
        own = self.file_of(index)
        return [own.with_name(f"{self._name(index)}_{ending}.nii.gz") for ending in self.endings] or [own]

    def refuse_existing(self, indices: Sequence[int]) -> None:
        """Refuse to replace volumes unless `overwrite` is set, and to mix them with those of others.

        Raises:
            StorageError: where the folder cannot be written into, or a link in it leads elsewhere.
        """
        require_writable(self.output_dir, parts=("images", "labels", "sidecars"))
        self._refuse_other_channels()
        existing = [file for index in indices for file in self.files_of(index) if file.exists()]
        if existing and not self.overwrite:
            raise OutputExistsError(
                f"{len(existing)} {self.noun}, such as {existing[0].name}, exist in {existing[0].parent}: "
                "choose another output_dir or first_index, or set overwrite to true"
            )

    def _refuse_other_channels(self) -> None:
        """Refuse a folder that holds volumes of other channels: together they would be no cohort."""
        issues: list[Issue] = []
        known = read_channels_file(self.output_dir, issues=issues)
        images = self.output_dir / "images"
        is_used = issues or known[0] or (images.is_dir() and any(images.iterdir()))
        if is_used and self.folder == "images" and known != (self.channels, self.endings):
            found = f"the channels {list(known[0])}" if known[0] else "one channel without a name"
            own = f"the channels {list(self.channels)}" if self.channels else "one channel without a name"
            raise OutputExistsError(
                f"{self.output_dir} holds volumes of {found}, named otherwise than those of {own} that would "
                "join them: choose another output_dir"
            )

    def write(
        self,
        index: int,
        image: np.ndarray | Sequence[np.ndarray],
        *,
        affine: np.ndarray,
        sidecar: dict[str, Any],
        labels: np.ndarray | None = None,
        schema: LabelSchema | None = None,
    ) -> Path:
        """Write one volume; returns the file of its last channel.

        Args:
            index: of the volume.
            image: (X, Y, Z), or one for each channel; each is stored in its own type.
            affine: of all of them.
            sidecar: what is said of the volume.
            labels: (X, Y, Z).
            schema: of the labels.
        """
        images = [image] if isinstance(image, np.ndarray) else list(image)
        name = self._name(index)
        if labels is not None:
            integer = np.min_scalar_type(int(labels.max()))
            write_nifti(self.output_dir / "labels" / f"{name}.nii.gz", labels, affine, dtype=integer)
        self._write_sidecar(name, sidecar)
        if schema is not None:
            self._write_schema(schema)
        if self.channels:
            content = describe_channels(self.channels, endings=self.endings)
            write_atomically(self.output_dir / CHANNELS_FILE, content)
        files = zip(self.files_of(index), images, strict=True)
        return [write_nifti(file, each, affine, dtype=each.dtype) for file, each in files][-1]

    def _write_sidecar(self, name: str, sidecar: Mapping[str, Any]) -> None:
        content = json.dumps(sidecar, indent=2, sort_keys=True).encode()
        write_atomically(self.output_dir / "sidecars" / f"{name}.json", content)

    def _write_schema(self, schema: LabelSchema) -> None:
        write_atomically(self.output_dir / "labels.json", json.dumps(schema.to_dict(), indent=2).encode())

    @staticmethod
    def _name(index: int) -> str:
        return f"synthetic_{index:04d}"
