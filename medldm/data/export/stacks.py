"""Write the channels of a case into one NIfTI file, whose fourth axis they are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np

from medldm.data.export.files import storage_type
from medldm.files import atomic_file
from medldm.transforms.readers import read_raw_volume
from medldm.transforms.write_nifti import set_geometry


def place_stack(images: Sequence[Path], target: Path) -> None:
    """Write images of one grid as (I, J, K, C), in the smallest type that holds the values of all.

    Args:
        images: one for each channel, in order.
        target: a .nii.gz file; it has the affine of the first image, to the bit.
    """
    volumes = [read_raw_volume(image) for image in images]
    stacked = np.stack([volume.array for volume in volumes], axis=-1)
    stack = nib.Nifti1Image(stacked.astype(storage_type(stacked)), None)
    stack.header.set_xyzt_units("mm")
    set_geometry(stack, volumes[0].affine)
    with atomic_file(target) as temporary:
        nib.save(stack, temporary)
