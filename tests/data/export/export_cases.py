"""Cohorts to export: odd affines, structures with odd names and large values, real and synthetic ones."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np

SCHEMA = {
    "3": {"name": "Große Niere (links)", "colour": "#1080f0"},
    "7": {
        "name": "liver",
        "code": {"scheme": "SCT", "value": "10200004", "meaning": "Liver"},
        "colour": "#dd8265",
    },
    "1005": {"name": "third one"},
}
VALUES = (3, 7, 1005)


def oblique() -> np.ndarray:
    """An oblique, anisotropic, left-handed affine as a float32 header holds it."""
    a, b = 0.31, -0.17
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_z = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = about_x @ about_z @ np.diag([-0.7, 0.9, 2.5])
    affine[:3, 3] = (31.25, -17.5, 4.125)
    return affine.astype(np.float32).astype(np.float64)


AFFINES = {
    "ras": np.diag([1.0, 1.0, 1.0, 1.0]),
    "las": np.array([[-1.5, 0, 0, 12], [0, 1.5, 0, -7], [0, 0, 3.0, 20], [0, 0, 0, 1]]),
    "lps": np.array([[-1.0, 0, 0, 3], [0, -1.25, 0, 8], [0, 0, 2.0, -11], [0, 0, 0, 1]]),
    "swapped": np.array([[0, 0, -2.0, 5], [1.0, 0, 0, -6], [0, 1.25, 0, 7], [0, 0, 0, 1]]),
    "oblique": oblique(),
}


def label_map(seed: int, shape: tuple[int, int, int] = (9, 11, 7)) -> np.ndarray:
    """Each structure of SCHEMA in a random box, uint16."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, np.uint16)
    for number, value in enumerate(VALUES):
        start = rng.integers(0, 3, 3)
        labels[start[0] + 2 * number : start[0] + 2 * number + 2, start[1] : start[1] + 5, start[2] :] = value
    return labels


def save(path: Path, array: np.ndarray, affine: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)


def write_cohort(
    root: Path,
    names: Sequence[str],
    *,
    affines: Sequence[str] = ("ras",),
    channels: Sequence[str] = (),
    labelled: Sequence[bool] = (True,),
    kind: str = "int16",
    first_seed: int = 0,
    shape: tuple[int, int, int] = (9, 11, 7),
) -> Path:
    """Write images/, labels/, labels.json and, with channels, channels.json; lists go round."""
    rng = np.random.default_rng(first_seed)
    for number, name in enumerate(names):
        affine = AFFINES[affines[number % len(affines)]]
        for channel in channels or ("",):
            image = rng.normal(100, 40, shape)
            image = image.astype(np.float32) if kind == "float32" else np.rint(image).astype(kind)
            suffix = f"_{channel}" if channel else ""
            save(root / "images" / f"{name}{suffix}.nii.gz", image, affine)
        if labelled[number % len(labelled)]:
            save(root / "labels" / f"{name}.nii.gz", label_map(first_seed + number, shape), affine)
    (root / "labels.json").write_text(json.dumps(SCHEMA), encoding="utf-8")
    if channels:
        (root / "channels.json").write_text(json.dumps({"channels": list(channels)}))
    return root


def write_synthetic(root: Path, n_cases: int = 2, **options: object) -> Path:
    """Write what `medldm generate` writes: names synthetic_0000, ..., and a sidecar for each."""
    names = [f"synthetic_{index:04d}" for index in range(n_cases)]
    write_cohort(root, names, first_seed=100, **options)  # type: ignore[arg-type]
    for index, name in enumerate(names):
        (root / "sidecars").mkdir(exist_ok=True)
        sidecar = {"synthetic": True, "index": index, "sampling": {"seed": 0}}
        (root / "sidecars" / f"{name}.json").write_text(json.dumps(sidecar))
    return root


def voxels(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


def affine_of(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).affine)
