"""Load a volume file guardedly into a channel-first RAS+ MetaTensor, and turn it back to its file's axes."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Transform

from medldm.errors import ConfigError
from medldm.transforms.errors import GeometryError, VolumeError, VoxelValueError
from medldm.transforms.keyed import DEFAULT_LABEL_KEYS, KeyedTransform
from medldm.transforms.nifti_affine import AffineChoice, check_affine_choice
from medldm.transforms.orientation import to_ras_affine, turn, turn_back
from medldm.transforms.raw_volume import DEFAULT_MAX_BYTES, grid_difference
from medldm.transforms.readers import check_voxels_finite, read_raw_volume

logger = logging.getLogger(__name__)

LABEL_TOLERANCE = 1e-3
"""Label values this near to an integer are taken for it."""


class LoadVolume(Transform):
    """Load one volume as (1, X, Y, Z) float32, RAS+; a list of files as the channels of one, (C, X, Y, Z).

    The MetaTensor's meta keeps `affine` (RAS+, float64), `original_affine` and `original_shape` (the file's
    own, to the bit), and `filename_or_obj`; of several files those of the first, and all names under
    `channel_files`. `restore_file_geometry` goes back to the file's axes.

    Args:
        is_label: round voxels that are integers but for rounding, refuse others.
        spacing_mm: mm per voxel for .npy files.
        affine: "sform" or "qform", which counts in a NIfTI file whose two are at odds; None refuses it.
        max_bytes: cap on the volume in memory.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.save(f"{folder}/case.npy", np.zeros((4, 5, 6), np.float32))
        ...     volume = LoadVolume(spacing_mm=(1.0, 1.0, 2.0))(f"{folder}/case.npy")
        >>> tuple(volume.shape), volume.pixdim.tolist()
        ((1, 4, 5, 6), [1.0, 1.0, 2.0])
    """

    def __init__(
        self,
        *,
        is_label: bool = False,
        spacing_mm: tuple[float, float, float] | None = None,
        affine: AffineChoice | None = None,
        max_bytes: int = DEFAULT_MAX_BYTES,
    ) -> None:
        if max_bytes < 1:
            raise ConfigError(f"max_bytes is {max_bytes}; a positive number of bytes is needed")
        self.is_label = is_label
        self.spacing_mm = spacing_mm
        self.affine = check_affine_choice(affine)
        self.max_bytes = max_bytes

    def __call__(self, path: str | Path | Sequence[str | Path]) -> MetaTensor:
        """Load `path`, or the files of the channels in their order.

        Raises:
            VolumeError: naming the file, the value found, what is allowed and what to do; also where the
                files of several channels do not lie on one grid.
            ConfigError: for no file, or several files of a label map.
        """
        if isinstance(path, str | Path):
            return self._load_one(path)
        if not path or (self.is_label and len(path) > 1):
            raise ConfigError(
                f"{len(path)} files are given as one volume; a label map is one file, an image any"
            )
        channels = [self._load_one(file) for file in path]
        for file, channel in zip(path, channels, strict=True):
            require_one_grid(channels[0], channel, file=file)
        result = MetaTensor(torch.cat([channel.as_tensor() for channel in channels]))
        result.copy_meta_from(channels[0])
        if len(path) > 1:
            result.meta["channel_files"] = [str(file) for file in path]
        return result

    def _load_one(self, path: str | Path) -> MetaTensor:
        raw = read_raw_volume(path, spacing_mm=self.spacing_mm, affine=self.affine, max_bytes=self.max_bytes)
        notes = list(raw.notes)
        affine, axes, flips = to_ras_affine(raw.affine, raw.array.shape)
        voxels = _as_contiguous_float32(turn(raw.array, axes, flips))
        if raw.array.dtype.kind == "f":
            check_voxels_finite(voxels, file=path)
        if self.is_label:
            voxels, rounding = round_label_values(voxels, file=path)
            notes += rounding
        for note in notes:
            logger.warning("%s: %s", Path(path).name, note)
        meta = {
            "original_affine": raw.affine,
            "original_shape": tuple(int(size) for size in raw.array.shape),
            "filename_or_obj": str(path),
        }
        return MetaTensor(torch.from_numpy(voxels)[None], affine=torch.from_numpy(affine), meta=meta)


class LoadVolumed(KeyedTransform):
    """Dictionary form of LoadVolume.

    Args:
        keys: entries that hold a path, or a list of paths, one for each channel.
        label_keys: those of them that are label maps.
        spacing_mm: mm per voxel for .npy files.
        affine: as in LoadVolume.
        max_bytes: cap on each volume in memory.
        allow_missing_keys: pass over keys a case does not have.
    """

    def __init__(
        self,
        keys: Hashable | Sequence[Hashable],
        *,
        label_keys: Sequence[Hashable] = DEFAULT_LABEL_KEYS,
        spacing_mm: tuple[float, float, float] | None = None,
        affine: AffineChoice | None = None,
        max_bytes: int = DEFAULT_MAX_BYTES,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(
            keys,
            of_image=LoadVolume(spacing_mm=spacing_mm, affine=affine, max_bytes=max_bytes),
            of_label=LoadVolume(is_label=True, spacing_mm=spacing_mm, affine=affine, max_bytes=max_bytes),
            label_keys=label_keys,
            allow_missing_keys=allow_missing_keys,
        )

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Load every key; volumes on one grid, but for rounding, get the affine of the first."""
        case = super().__call__(data)
        volumes = [case[key] for key in self.key_iterator(case)]
        for volume in volumes[1:]:
            share_grid(volumes[0], volume)
        return case

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Turn the volumes back to the axes of their files."""
        case = dict(data)
        return case | {key: restore_file_geometry(case[key]) for key in self.key_iterator(case)}


def require_one_grid(first: MetaTensor, other: MetaTensor, *, file: str | Path) -> None:
    """Refuse a channel (1, X, Y, Z) that does not lie on the grid of the first one, RAS+.

    Raises:
        GeometryError: naming the file.
    """
    shape, own = tuple(first.shape[1:]), tuple(other.shape[1:])
    if own != shape:
        raise GeometryError(
            f"its shape is {own}, that of its case's first channel {shape}; all must lie on one grid; "
            "resample it",
            file=file,
        )
    if difference := grid_difference(first.affine.numpy(), other.affine.numpy(), shape):
        raise GeometryError(
            f"its affine puts {difference}; it must be that of the first channel: resample it or correct "
            "its header",
            file=file,
        )


def restore_file_geometry(volume: MetaTensor) -> MetaTensor:
    """Turn a loaded volume back to the axes of its file; its affine becomes the file's to the bit.

    Args:
        volume: (C, X, Y, Z) RAS+, on the grid on which it was loaded.

    Returns:
        (C, I, J, K) in the file's axes.

    Raises:
        VolumeError: where the grid is not the loaded one any more (resampled or cropped and not inverted).
    """
    affine = np.asarray(volume.meta["original_affine"], dtype=np.float64)
    shape = tuple(int(size) for size in volume.meta["original_shape"])
    turned, axes, flips = to_ras_affine(affine, shape)
    expected = tuple(shape[axis] for axis in axes)
    if tuple(volume.shape[1:]) != expected or grid_difference(turned, volume.affine.numpy(), expected):
        raise VolumeError(
            f"the volume of shape {tuple(volume.shape[1:])} is not on its file's grid of shape {expected}; "
            "invert the resampling and cropping first"
        )
    array = volume.as_tensor().cpu().numpy()
    turned_back = np.stack([turn_back(channel, axes, flips) for channel in array])
    result = MetaTensor(torch.from_numpy(turned_back)).copy_meta_from(volume)
    result.affine = torch.from_numpy(affine)
    return result


def _as_contiguous_float32(array: np.ndarray) -> np.ndarray:
    """Copy to C order, plane by plane: files are in F order, and a copy in one go misses the cache."""
    if array.flags.c_contiguous and array.dtype == np.float32 and array.flags.writeable:
        return array
    result = np.empty(array.shape, dtype=np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        for plane in range(array.shape[1]):
            result[:, plane] = array[:, plane]
    return result


def loaded_grid_difference(first: MetaTensor, second: MetaTensor) -> str:
    """Say how the grids of two loaded volumes (C, X, Y, Z) differ; empty where they are one grid."""
    shapes = [tuple(volume.shape[1:]) for volume in (first, second)]
    if shapes[0] != shapes[1]:
        return f"{shapes[0]} and {shapes[1]} voxels"
    return grid_difference(first.affine.cpu().numpy(), second.affine.cpu().numpy(), shapes[0])


def share_grid(first: MetaTensor, second: MetaTensor) -> None:
    """Give the second volume the first one's affine where they differ by rounding alone.

    Otherwise resampling could round the two to different numbers of voxels. The second one's
    `original_affine` stays its file's.
    """
    if not loaded_grid_difference(first, second):
        second.affine = first.affine.clone()


def round_label_values(
    voxels: np.ndarray, *, file: str | Path | None = None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Round values that are integers but for 0.001, as interpolating tools leave them; refuse others.

    Args:
        voxels: of a label map, any real type.
        file: named in the error.

    Returns:
        The voxels, a copy where any was rounded, and a note that says so.

    Raises:
        VoxelValueError: for values that are no integers from 0 to 2^24 (exact in float32), naming the first.
    """
    rounded = voxels if voxels.dtype.kind in "ui" else np.rint(voxels)
    is_whole = rounded is voxels or np.array_equal(rounded, voxels)
    if is_whole and voxels.min() >= 0 and voxels.max() <= 2**24:
        return voxels, ()
    with np.errstate(invalid="ignore"):
        distance = np.abs(voxels - rounded)
    is_bad = ~(distance <= LABEL_TOLERANCE) | (rounded < 0) | (rounded > 2**24)
    if is_bad.any():
        values = np.unique(voxels[is_bad])[:5].tolist()
        raise VoxelValueError(
            f"{int(is_bad.sum())} voxels of the label map are no integers from 0 to {2**24}: {values}; "
            "store structures as non-negative integers",
            file=file,
        )
    # Adding 0 turns the -0.0 of a rounded small negative number into 0.
    note = f"{int((distance > 0).sum())} label values up to {distance.max():.2g} from an integer were rounded"
    return rounded + 0, (note,)
