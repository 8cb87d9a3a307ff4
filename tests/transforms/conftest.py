"""Small volumes and files for the tests of the transforms."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

OBLIQUE = np.array(
    [[-0.9, 0.2, 0.1, 31.5], [0.25, 1.1, -0.4, -20.25], [0.0, 0.5, 2.4, 7.125], [0, 0, 0, 1.0]]
)


@pytest.fixture
def oblique() -> np.ndarray:
    """An oblique, flipped, anisotropic affine whose entries float32 rounds."""
    return OBLIQUE.copy()


@pytest.fixture
def save_nifti(tmp_path: Path) -> Callable[..., Path]:
    """Save an array with nibabel and return the path."""

    def save(array: np.ndarray, affine: np.ndarray | None = None, *, name: str = "case.nii.gz") -> Path:
        path = tmp_path / name
        nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
        return path

    return save
