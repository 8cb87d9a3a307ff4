"""The field of view of the head-and-neck cohort: where the box lies, and what a cut volume keeps."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

FILE = Path(__file__).resolve().parents[2] / "benchmarks" / "fidelity" / "crop_headneck.py"
spec = importlib.util.spec_from_file_location("crop_headneck", FILE)
assert spec is not None and spec.loader is not None
crop_headneck = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = crop_headneck
spec.loader.exec_module(crop_headneck)


def test_box_is_centred_between_the_parotids() -> None:
    labels = np.zeros((60, 70, 80), dtype=np.uint8)
    labels[20:24, 30:40, 40:50], labels[40:44, 34:44, 40:50] = 4, 3
    start = crop_headneck.first_voxel(labels)
    assert tuple(start + np.array(crop_headneck.SIZE) // 2) == (32, 37, 45)


def test_one_parotid_is_refused() -> None:
    labels = np.zeros((8, 8, 8), dtype=np.uint8)
    labels[2, 2, 2] = 3
    with pytest.raises(ValueError, match="no parotid_left"):
        crop_headneck.first_voxel(labels)


@pytest.mark.parametrize("start", [(-5, 3, -20), (2, -1, 7), (30, 0, 0)])
def test_box_keeps_every_voxel_at_its_place_in_the_world(start: tuple[int, int, int]) -> None:
    values = torch.rand(1, 50, 60, 40)
    affine = np.array([[-4.0, 0, 0, 9], [0, 4, 0, -7], [0, 0, 3, 5], [0, 0, 0, 1]])
    box = crop_headneck.cut_box(MetaTensor(values, affine=affine), np.array(start), fill=-1.0)
    assert tuple(box.shape[1:]) == crop_headneck.SIZE
    to_source = np.linalg.inv(affine) @ np.asarray(box.affine)
    for voxel in np.random.default_rng(0).integers(crop_headneck.SIZE, size=(200, 3)):
        at = np.round(to_source @ [*voxel, 1]).astype(int)[:3]
        inside = ((at >= 0) & (at < values.shape[1:])).all()
        assert float(box[0][tuple(voxel)]) == (float(values[0][tuple(at)]) if inside else -1.0)
