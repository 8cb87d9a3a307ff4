"""Images as their files store them, so that what is not edited keeps its bits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import nibabel as nib
import numpy as np
from monai.data import MetaTensor
from nibabel.arrayproxy import ArrayProxy

from medldm.transforms import LoadVolume, UnsupportedVolumeError, VolumeError, write_nifti
from medldm.transforms.nifti import read_nifti_header
from medldm.transforms.raw_volume import grid_difference


@dataclass(frozen=True, kw_only=True)
class StoredImage:
    """Hold a NIfTI image both as it is stored and as it is loaded.

    Args:
        stored: (I, J, K) in the file's axes and type, slope and intercept not applied.
        scaling: slope and intercept, intensity = slope * stored + intercept; (1, 0) without.
        loaded: (1, X, Y, Z) float32 RAS+, in intensities.
        affine: of the file, to the bit.
    """

    stored: np.ndarray
    scaling: tuple[float, float]
    loaded: MetaTensor
    affine: np.ndarray

    @property
    def intensities(self) -> np.ndarray:
        """The image (I, J, K) in float64."""
        slope, intercept = self.scaling
        return self.stored.astype(np.float64) * slope + intercept

    def replace(self, region: np.ndarray, intensities: np.ndarray) -> tuple[np.ndarray, int]:
        """Return the stored image with new intensities in a region, and how many the type cannot hold.

        Args:
            region: (I, J, K) bool.
            intensities: (I, J, K); those that the stored type cannot hold take its nearest value.
        """
        slope, intercept = self.scaling
        values = (intensities[region].astype(np.float64) - intercept) / slope
        kind = self.stored.dtype
        n_clipped = 0
        if kind.kind in "iu":
            limits = np.iinfo(kind)
            values = np.rint(values)
            n_clipped = int(((values < limits.min) | (values > limits.max)).sum())
            values = np.clip(values, limits.min, limits.max)
        result = self.stored.copy()
        result[region] = values.astype(kind)
        return result, n_clipped

    def write(self, path: str | Path, stored: np.ndarray) -> Path:
        """Write a stored image with this one's affine, type and scaling; whole or not at all."""
        return write_nifti(path, stored, self.affine, dtype=self.stored.dtype, scaling=self.scaling)


def read_stored_image(file: str | Path) -> StoredImage:
    """Read a NIfTI image.

    Raises:
        UnsupportedVolumeError: for other formats, whose stored values would not be kept.
        VolumeError: for a file that is not a sound volume.
    """
    path = Path(file)
    if not path.name.endswith((".nii", ".nii.gz")):
        raise UnsupportedVolumeError("only .nii and .nii.gz images are edited: convert it first", file=path)
    loaded = LoadVolume()(path)
    header = read_nifti_header(path)
    image = cast(nib.Nifti1Image, nib.load(path))
    raw = np.asanyarray(cast(ArrayProxy, image.dataobj).get_unscaled()).reshape(header.shape)
    return StoredImage(
        stored=raw.astype(raw.dtype.newbyteorder("=")),
        scaling=(header.slope, header.intercept),
        loaded=loaded,
        affine=np.asarray(loaded.meta["original_affine"]),
    )


def require_same_grid(first: MetaTensor, second: MetaTensor, *, names: tuple[str, str]) -> None:
    """Refuse two loaded volumes whose files do not lie on one grid.

    Raises:
        VolumeError: naming shapes, or the distance of their corners.
    """
    shapes = [tuple(volume.meta["original_shape"]) for volume in (first, second)]
    if shapes[0] != shapes[1]:
        raise VolumeError(f"{names[0]} has {shapes[0]} voxels, {names[1]} {shapes[1]}: resample one of them")
    one, other = (np.asarray(volume.meta["original_affine"]) for volume in (first, second))
    if difference := grid_difference(one, other, shapes[0]):
        raise VolumeError(
            f"the affines of {names[0]} and {names[1]} put {difference}: resample one or correct its header"
        )
