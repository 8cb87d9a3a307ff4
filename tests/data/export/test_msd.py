"""The MSD export: lists, values as they are, several channels in one file."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medldm.data.export import export_cohort
from tests.data.export.export_cases import (
    AFFINES,
    affine_of,
    label_map,
    save,
    voxels,
    write_cohort,
    write_synthetic,
)


def test_lists_name_files_that_are_there(tmp_path: Path) -> None:
    write_cohort(tmp_path / "real", ["a", "b", "c"])
    write_synthetic(tmp_path / "made")
    out = tmp_path / "Task42_Organs"
    export_cohort(tmp_path / "real", out, format="msd", synthetic=[tmp_path / "made"])
    content = json.loads((out / "dataset.json").read_text(encoding="utf-8"))
    assert content["labels"] == {
        "0": "background",
        "3": "Große Niere (links)",
        "7": "liver",
        "1005": "third one",
    }
    assert content["numTraining"] == len(content["training"]) == 4
    assert (content["tensorImageSize"], content["modality"]) == ("3D", {"0": "MRI"})
    entries = content["training"] + content["validation"]
    assert all((out / entry[key]).is_file() for entry in entries for key in ("image", "label"))
    assert {entry["image"] for entry in content["training"]} > {
        f"./imagesTr/{name}.nii.gz" for name in content["synthetic"]
    }
    assert not any("synthetic" in entry["image"] for entry in content["validation"])
    assert len(content["validation"]) == 1


@pytest.mark.parametrize("affine", AFFINES)
@pytest.mark.parametrize("kind", ["int16", "float32"])
def test_channels_are_the_fourth_axis(affine: str, kind: str, tmp_path: Path) -> None:
    cohort = write_cohort(tmp_path / "real", ["a", "b"], affines=[affine], channels=["t1n", "t2w"], kind=kind)
    export_cohort(cohort, tmp_path / "out", format="msd")
    image = nib.load(tmp_path / "out" / "imagesTr" / "a.nii.gz")
    assert image.shape == (9, 11, 7, 2)
    assert image.get_data_dtype() == np.dtype(kind)
    np.testing.assert_array_equal(image.affine, AFFINES[affine])
    for number, channel in enumerate(("t1n", "t2w")):
        source = voxels(cohort / "images" / f"a_{channel}.nii.gz")
        np.testing.assert_array_equal(np.asarray(image.dataobj)[..., number], source)
    content = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert content["modality"] == {"0": "t1n", "1": "t2w"}
    assert content["tensorImageSize"] == "4D"


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int16])
def test_label_maps_of_any_type_are_stored_as_integers_of_the_same_values(kind: type, tmp_path: Path) -> None:
    cohort = write_cohort(tmp_path / "real", ["a", "b"])
    save(cohort / "labels" / "a.nii.gz", label_map(0).astype(kind), AFFINES["ras"])
    export_cohort(cohort, tmp_path / "out", format="msd")
    written = nib.load(tmp_path / "out" / "labelsTr" / "a.nii.gz")
    assert written.get_data_dtype().kind in "iu"
    np.testing.assert_array_equal(np.asarray(written.dataobj), label_map(0))


def test_a_label_map_takes_the_affine_of_its_image_to_the_bit(tmp_path: Path) -> None:
    cohort = write_cohort(tmp_path / "real", ["a", "b"])
    near = AFFINES["ras"].copy()
    near[0, 3] = 2e-4
    save(cohort / "labels" / "a.nii.gz", label_map(0), near)
    export_cohort(cohort, tmp_path / "out", format="msd")
    np.testing.assert_array_equal(affine_of(tmp_path / "out" / "labelsTr" / "a.nii.gz"), AFFINES["ras"])
