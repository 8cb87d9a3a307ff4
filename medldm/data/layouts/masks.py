"""A label map that comes as files of one binary mask each."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from medldm.data.layouts.grids import check_same_grid
from medldm.transforms.errors import VoxelValueError
from medldm.transforms.load import round_label_values
from medldm.transforms.nifti_affine import AffineChoice
from medldm.transforms.orientation import to_ras_affine, turn
from medldm.transforms.raw_volume import DEFAULT_MAX_BYTES, RawVolume
from medldm.transforms.readers import read_raw_volume

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class MaskFolder:
    """Binary masks, one file a structure.

    Args:
        names: of the structures, each once.
        files: in the order of the names.
        max_bytes: cap on each volume in memory.
        affine: "sform" or "qform", which counts in NIfTI files whose two are at odds; None refuses these.
    """

    names: tuple[str, ...]
    files: tuple[Path, ...] = field(repr=False)
    max_bytes: int = DEFAULT_MAX_BYTES
    affine: AffineChoice | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        """Return nothing: a mask says all or is refused."""
        return ()

    def read(self, shape: tuple[int, int, int], affine: np.ndarray) -> Mapping[str, np.ndarray]:
        """Read each mask on an image's grid as it is asked for; see `NamedStructures.read`."""
        return _Masks(self, shape, affine)


class _Masks(Mapping[str, np.ndarray]):
    """The masks of a folder, read one by one: a hundred of them need not be in memory together."""

    def __init__(self, folder: MaskFolder, shape: tuple[int, int, int], affine: np.ndarray) -> None:
        self._files = dict(zip(folder.names, folder.files, strict=True))
        self._shape, self._affine, self._folder = shape, affine, folder

    def __getitem__(self, name: str) -> np.ndarray:
        """Read one mask: (X, Y, Z) bool."""
        folder = self._folder
        raw = read_raw_volume(self._files[name], affine=folder.affine, max_bytes=folder.max_bytes)
        return _mask_of(raw, name, shape=self._shape, affine=self._affine)

    def __iter__(self) -> Iterator[str]:
        """Yield the names."""
        return iter(self._files)

    def __len__(self) -> int:
        """Return the number of masks."""
        return len(self._files)


def _mask_of(raw: RawVolume, name: str, *, shape: tuple[int, int, int], affine: np.ndarray) -> np.ndarray:
    mask_affine, axes, flips = to_ras_affine(raw.affine, raw.array.shape)
    voxels = _without_rounding(turn(raw.array, axes, flips), name)
    check_same_grid(voxels.shape, mask_affine, shape=shape, affine=affine, what=f"its mask of {name}")
    values = np.unique(voxels)
    is_mask = len(values) == 1 or (len(values) == 2 and values[0] == 0)
    if not is_mask or values[0] < 0 or not np.isfinite(values).all():
        raise VoxelValueError(
            f"its mask of {name} holds {len(values)} values from {values[0]:g} to {values[-1]:g}; a mask "
            "holds 0 and one other value; keep either masks of single structures or one label map"
        )
    return np.ascontiguousarray(voxels != 0)


def _without_rounding(voxels: np.ndarray, name: str) -> np.ndarray:
    """Round values that are integers but for what interpolating tools leave; what is none is judged later."""
    try:
        rounded, notes = round_label_values(voxels)
    except VoxelValueError:
        return voxels
    for note in notes:
        logger.warning("a mask of %s: %s", name, note)
    return rounded
