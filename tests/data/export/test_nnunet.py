"""The nnU-Net export keeps the rules of nnU-Net's own check, and synthetic cases out of validation."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medldm.data.export import ExportOptions, export_cohort
from medldm.errors import ConfigError
from tests.data.export.export_cases import (
    AFFINES,
    SCHEMA,
    VALUES,
    affine_of,
    voxels,
    write_cohort,
    write_synthetic,
)


def require_sound(folder: Path) -> dict:
    """Hold a data set to the rules of `nnunetv2.experiment_planning.verify_dataset_integrity`."""
    content = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    assert {"labels", "channel_names", "numTraining", "file_ending"} <= set(content)
    ending, n_channels = content["file_ending"], len(content["channel_names"])
    assert list(content["channel_names"]) == [str(number) for number in range(n_channels)]
    values = list(content["labels"].values())
    assert values == list(range(len(values)))
    assert content["labels"]["background"] == 0
    files = sorted((folder / "imagesTr").iterdir())
    cases = sorted({path.name[: -len(ending) - 5] for path in files})
    assert len(cases) == content["numTraining"]
    assert cases == sorted(path.name.removesuffix(ending) for path in (folder / "labelsTr").iterdir())
    for case in cases:
        label = nib.load(folder / "labelsTr" / f"{case}{ending}")
        assert set(np.unique(label.dataobj)) <= set(values)
        for number in range(n_channels):
            image = nib.load(folder / "imagesTr" / f"{case}_{number:04d}{ending}")
            assert image.shape == label.shape
            np.testing.assert_array_equal(image.affine, label.affine)
            assert np.isfinite(image.get_fdata()).all()
    for split in json.loads((folder / "splits_final.json").read_text()):
        assert not set(split["train"]) & set(split["val"])
        assert set(split["train"]) | set(split["val"]) <= set(cases)
        assert not set(split["val"]) & set(content["synthetic"])
    return content


def test_a_mixed_data_set_is_sound(tmp_path: Path) -> None:
    write_cohort(tmp_path / "real", ["a", "b b", "ü"], affines=list(AFFINES), channels=["t1n", "CT-x"])
    write_synthetic(tmp_path / "made", channels=["t1n", "CT-x"])
    out = tmp_path / "Dataset001_X"
    export_cohort(tmp_path / "real", out, format="nnunet", synthetic=[tmp_path / "made"])
    content = require_sound(out)
    assert content["channel_names"] == {"0": "t1n", "1": "CT-x"}
    assert content["synthetic"] == ["synthetic_0000", "synthetic_0001"]
    assert "2 synthetic cases" in content["description"]
    assert not (out / "imagesTs").exists()


def test_values_become_consecutive_and_names_and_colours_stay(tmp_path: Path) -> None:
    cohort = write_cohort(tmp_path / "real", ["a", "b"], affines=["oblique"])
    out = tmp_path / "out"
    export_cohort(cohort, out, format="nnunet")
    content = require_sound(out)
    assert content["labels"] == {"background": 0, "Große Niere (links)": 1, "liver": 2, "third one": 3}
    table = json.loads((out / "export.json").read_text())["values"]
    assert table == {"1": 3, "2": 7, "3": 1005}
    back = np.array([0, *VALUES])[voxels(out / "labelsTr" / "a.nii.gz")]
    np.testing.assert_array_equal(back, voxels(cohort / "labels" / "a.nii.gz"))
    # labels.json speaks of the values in labelsTr.
    schema = json.loads((out / "labels.json").read_text())
    assert list(schema.values()) == list(SCHEMA.values())
    assert list(schema) == ["1", "2", "3"]


def test_voxels_and_affines_are_those_of_the_cohort(tmp_path: Path) -> None:
    cohort = write_cohort(tmp_path / "real", list(AFFINES), affines=list(AFFINES), kind="float32")
    export_cohort(cohort, tmp_path / "out", format="nnunet")
    for name in AFFINES:
        source, target = (
            cohort / "images" / f"{name}.nii.gz",
            tmp_path / "out" / "imagesTr" / f"{name}_0000.nii.gz",
        )
        np.testing.assert_array_equal(voxels(target), voxels(source))
        np.testing.assert_array_equal(affine_of(target), affine_of(source))
        labels = tmp_path / "out" / "labelsTr" / f"{name}.nii.gz"
        np.testing.assert_array_equal(affine_of(labels), affine_of(source))


def test_unlabelled_real_cases_are_test_images(tmp_path: Path) -> None:
    write_cohort(tmp_path / "real", ["a", "b", "c", "d"], labelled=[True, True, True, False])
    cohort = json_list(tmp_path / "real", ["a", "b"], ["c"], bare=["d"])
    export_cohort(cohort, tmp_path / "out", format="nnunet")
    require_sound(tmp_path / "out")
    assert [path.name for path in (tmp_path / "out" / "imagesTs").iterdir()] == ["d_0000.nii.gz"]


def json_list(root: Path, training: list[str], validation: list[str], *, bare: list[str]) -> Path:
    def entry(name: str) -> dict:
        return {"id": name, "image": f"images/{name}.nii.gz"} | (
            {} if name in bare else {"label": f"labels/{name}.nii.gz"}
        )

    lists = {
        "training": [entry(name) for name in [*training, *bare]],
        "validation": [entry(name) for name in validation],
    }
    (root / "cohort.json").write_text(json.dumps(lists))
    return root


def test_unlabelled_synthetic_cases_never_become_test_images(tmp_path: Path) -> None:
    write_cohort(tmp_path / "real", ["a", "b"])
    made = write_synthetic(tmp_path / "made")
    shutil.rmtree(made / "labels")
    with pytest.raises(ConfigError, match="2 synthetic cases have no label map"):
        export_cohort(tmp_path / "real", tmp_path / "out", format="nnunet", synthetic=[made])


def test_a_synthetic_case_on_a_validation_label_map_is_not_trained_on(tmp_path: Path) -> None:
    write_cohort(tmp_path / "real", ["a", "b", "c"])
    json_list(tmp_path / "real", ["a", "b"], ["c"], bare=[])
    made = write_synthetic(tmp_path / "made")
    shutil.copy(tmp_path / "real" / "labels" / "c.nii.gz", made / "labels" / "synthetic_0001.nii.gz")
    result = export_cohort(tmp_path / "real", tmp_path / "out", format="nnunet", synthetic=[made])
    splits = json.loads((tmp_path / "out" / "splits_final.json").read_text())
    # nnU-Net draws a split of its own for a fold that the file does not hold.
    assert splits == [{"train": ["a", "b", "synthetic_0000"], "val": ["c"]}] * 5
    assert any("1 synthetic cases, such as synthetic_0001" in note for note in result.notes)


@pytest.mark.parametrize("name", ["ignore", "background", "Ignore"])
def test_names_that_nnunet_reserves_are_refused(name: str, tmp_path: Path) -> None:
    cohort = write_cohort(tmp_path / "real", ["a", "b"])
    (cohort / "labels.json").write_text(json.dumps(SCHEMA | {"7": name}))
    with pytest.raises(ConfigError, match=f"a structure is named '{name}'"):
        export_cohort(cohort, tmp_path / "out", format="nnunet")


def test_sheared_grids_ask_for_a_reader_that_takes_them(tmp_path: Path) -> None:
    cohort = write_cohort(tmp_path / "real", ["a", "b"])
    sheared = np.eye(4)
    sheared[0, 1] = 0.1
    for part in ("images", "labels"):
        for name in "ab":
            path = cohort / part / f"{name}.nii.gz"
            image = nib.load(path)
            nib.save(nib.Nifti1Image(np.asarray(image.dataobj), sheared), path)
    export_cohort(cohort, tmp_path / "out", format="nnunet", options=ExportOptions())
    assert require_sound(tmp_path / "out")["overwrite_image_reader_writer"] == "NibabelIO"


def test_a_cohort_without_label_maps_is_refused(tmp_path: Path) -> None:
    cohort = write_cohort(tmp_path / "real", ["a", "b"], labelled=[False])
    for format in ("nnunet", "msd"):
        with pytest.raises(ConfigError, match="no case has a label map"):
            export_cohort(cohort, tmp_path / "out", format=format)
