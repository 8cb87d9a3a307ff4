"""A small sound cohort that tests break in one place each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from medldm.transforms import write_nifti

MakeCohort = Callable[..., Path]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the cache of checks inside the test's folder."""
    monkeypatch.setenv("MEDLDM_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def make_cohort(tmp_path: Path) -> MakeCohort:
    """Write images/ and labels/ with `n_cases` cases named case_0, case_1, ... and return the folder."""

    def make(n_cases: int = 4, *, names: list[str] | None = None) -> Path:
        for number, name in enumerate(names or [f"case_{number}" for number in range(n_cases)]):
            write_case(tmp_path / "cohort", name, seed=number)
        return tmp_path / "cohort"

    return make


def write_case(root: Path, name: str, *, seed: int, shape: tuple[int, int, int] = (8, 7, 6)) -> None:
    """Write one image and its label map with structures 1 and 2."""
    generator = np.random.default_rng(seed)
    labels = np.zeros(shape)
    labels[2:5, 2:5, 2:4], labels[5:7, 2:5, 2:4] = 1, 2
    image = labels * 100 + generator.normal(200, 5, shape)
    write_nifti(root / "images" / f"{name}.nii.gz", image, np.eye(4))
    write_nifti(root / "labels" / f"{name}.nii.gz", labels, np.eye(4), dtype=np.uint8)
