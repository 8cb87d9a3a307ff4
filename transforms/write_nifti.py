"""Write NIfTI files whole or not at all, with a header that carries geometry and nothing else."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import torch

from medldm.errors import ConfigError
from medldm.files import atomic_file
from medldm.transforms.errors import VoxelValueError
from medldm.transforms.raw_volume import check_affine


def write_nifti(
    path: str | Path,
    array: np.ndarray | torch.Tensor,
    affine: np.ndarray | torch.Tensor,
    *,
    dtype: str | np.dtype | type = np.float32,
    scaling: tuple[float, float] = (1.0, 0.0),
) -> Path:
    """Write a volume to .nii or .nii.gz.

    The header is fresh: no description, no extensions, no identity. sform and qform hold the same affine
    where a quaternion can express it. An affine read from a file comes back to the bit through nibabel.

    Args:
        path: ends in .nii or .nii.gz; the folder is made where it is missing.
        array: (X, Y, Z) or (1, X, Y, Z).
        affine: (4, 4) voxel index to RAS+ millimetres.
        dtype: stored type; integer types take rounded values and refuse those that do not fit.
        scaling: slope and intercept to store; readers apply them to the values given here.

    Returns:
        The path written.

    Raises:
        ConfigError: for other suffixes or shapes.
        GeometryError: for an affine that could not be read back.
        VoxelValueError: for NaN, Inf, or values the dtype cannot hold.
        StorageError: if the folder or the file cannot be written.
    """
    path = Path(path)
    if not path.name.endswith((".nii", ".nii.gz")):
        raise ConfigError(f"{path.name} does not end in .nii or .nii.gz; choose one of them")
    matrix = np.asarray(torch.as_tensor(affine).cpu(), dtype=np.float64)
    check_affine(matrix)
    image = nib.Nifti1Image(_as_stored(array, np.dtype(dtype), path), None)
    image.header.set_xyzt_units("mm")
    if scaling != (1.0, 0.0):
        image.header.set_slope_inter(*scaling)
    set_geometry(image, matrix)
    with atomic_file(path) as temporary:
        nib.save(image, temporary)
    return path


def set_geometry(image: nib.Nifti1Image, affine: np.ndarray) -> None:
    """Store the affine as sform, or, where float32 cannot hold it but a quaternion can, as qform alone."""
    image.header.set_qform(affine, code="scanner", strip_shears=True)
    is_quaternion = np.array_equal(image.header.get_qform(), affine)
    is_float32 = np.array_equal(affine.astype(np.float32).astype(np.float64), affine)
    if is_float32 or not is_quaternion:
        image.header.set_sform(affine, code="scanner")
    has_shear = not np.allclose(image.header.get_qform(), affine, atol=1e-3)
    if has_shear:
        image.header["qform_code"] = 0


def _as_stored(array: np.ndarray | torch.Tensor, dtype: np.dtype, path: Path) -> np.ndarray:
    voxels = np.asarray(array.detach().cpu() if isinstance(array, torch.Tensor) else array)
    if voxels.ndim == 4 and voxels.shape[0] == 1:
        voxels = voxels[0]
    if voxels.ndim != 3 or 0 in voxels.shape:
        raise ValueError(f"the array has shape {voxels.shape}; (X, Y, Z) or (1, X, Y, Z) is written")
    if voxels.dtype.kind == "f" and not np.isfinite(voxels).all():
        raise VoxelValueError("NaN or Inf voxels are not written", file=path)
    if dtype.kind not in "iu":
        return voxels.astype(dtype)
    rounded = np.rint(voxels) if voxels.dtype.kind == "f" else voxels
    limits = np.iinfo(dtype)
    if rounded.min() < limits.min or rounded.max() > limits.max:
        raise VoxelValueError(
            f"values {rounded.min()} to {rounded.max()} do not fit {dtype} ({limits.min} to {limits.max}); "
            "choose a wider dtype",
            file=path,
        )
    return rounded.astype(dtype)
