"""The field of view of the head-and-neck cohort: where the box lies, and what a cut volume keeps."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from medldm.data.cohort import read_cohort
from medldm.transforms import write_nifti

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


def test_what_was_contoured_is_read_as_such_and_outside_of_the_box_it_is_known(tmp_path) -> None:
    """Case a has a larynx that the box does not reach, case b none that anybody drew."""
    (tmp_path / "source").mkdir()
    for name, has_larynx in (("a", True), ("b", False)):
        labels = np.zeros((60, 70, 120), dtype=np.uint8)
        labels[20:24, 30:40, 80:90], labels[40:44, 34:44, 80:90] = 4, 3
        labels[30, 30, 80], labels[30, 32, 78] = 1, 2
        labels[30, 30, 5] = 6 if has_larynx else 0
        for kind, values in (("image", labels.astype(np.int16)), ("label", labels)):
            file = tmp_path / "source" / f"{name}_{kind}.nii.gz"
            nib.save(nib.Nifti1Image(values, np.diag([4.0, 4.0, 3.0, 1.0])), file)
        paths = [str(tmp_path / "source" / f"{name}_{kind}.nii.gz") for kind in ("image", "label")]
        image, cropped, contoured = crop_headneck.crop_case(*paths)
        assert contoured == [1, 2, 3, 4, *([6] if has_larynx else [])]
        for folder, volume in (("images", image), ("labels", cropped)):
            write_nifti(tmp_path / folder / f"{name}.nii.gz", volume, volume.affine, dtype=np.int16)
    (tmp_path / "labels.json").write_text(crop_headneck.describe_labels(tuple(crop_headneck.STRUCTURES)))
    covered = {"a": [1, 2, 3, 4, 6], "b": [1, 2, 3, 4]}
    (tmp_path / "subjects.csv").write_text(crop_headneck.describe_covered(covered))
    cohort = read_cohort(tmp_path, validation_fraction=0)
    names = {case["id"]: case["structures_in_map"] for case in cohort.training}
    always = ["brainstem", "spinal_cord", "parotid_right", "parotid_left"]
    assert names == {"a": [*always, "larynx"], "b": always}
    assert not [issue for issue in cohort.issues if issue.severity == "error"]
    assert "partly_labelled" not in json.loads(crop_headneck.describe_labels(crop_headneck.IN_EVERY_CASE))
