from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medldm.data.layouts.masks import MaskFolder
from medldm.data.preparation.labels import LabelTable
from medldm.data.preparation.structures import absent_structures, merge_structures, structure_values
from medldm.errors import ConfigError
from medldm.transforms.errors import GeometryError, VoxelValueError

SHAPE = (4, 3, 2)


def mask(*slices: slice) -> np.ndarray:
    array = np.zeros(SHAPE, dtype=bool)
    array[slices] = True
    return array


def test_values_are_those_of_the_table_or_of_the_alphabet() -> None:
    assert structure_values(["spleen", "liver", "spleen"], LabelTable()) == {"liver": 1, "spleen": 2}
    table = LabelTable(names={5: "Liver", 1: "left kidney"})
    assert structure_values(["liver", "left_kidney"], table) == {"liver": 5, "left_kidney": 1}
    with pytest.raises(ConfigError, match="no structure spleen"):
        structure_values(["liver", "spleen"], table)


def test_masks_merge_to_their_values() -> None:
    masks = {"a": mask(slice(0, 1)), "b": mask(slice(2, 4))}
    merged = merge_structures(masks, ["b", "a"], shape=SHAPE, values={"a": 3, "b": 300})
    np.testing.assert_array_equal(merged, masks["a"] * 3 + masks["b"] * 300)
    assert merged.dtype == np.uint16


def test_overlaps_are_refused_with_names_and_count_whatever_the_order() -> None:
    masks = {"a": mask(slice(0, 2)), "b": mask(slice(1, 4))}
    for names in (["a", "b"], ["b", "a"]):
        with pytest.raises(VoxelValueError, match=r"a and b overlap in 6 voxels.*--priority a,b"):
            merge_structures(masks, names, shape=SHAPE, values={"a": 1, "b": 2})


@pytest.mark.parametrize(("priority", "winner"), [(["a"], 1), (["b"], 2), (["B", "a"], 2)])
def test_priority_resolves_overlaps(priority: list[str], winner: int) -> None:
    masks = {"a": mask(slice(0, 2)), "b": mask(slice(1, 4))}
    merged = merge_structures(masks, ["a", "b"], shape=SHAPE, values={"a": 1, "b": 2}, priority=priority)
    assert (merged[1] == winner).all() and (merged[0] == 1).all() and (merged[2:] == 2).all()


def test_structures_of_one_value_may_overlap() -> None:
    masks = {"a": mask(slice(0, 2)), "b": mask(slice(1, 4))}
    merged = merge_structures(masks, ["a", "b"], shape=SHAPE, values={"a": 7, "b": 7})
    assert (merged == 7).all()


def test_absent_structures_are_counted() -> None:
    assert absent_structures([("liver", "spleen"), ("liver",), ()]) == [
        "spleen has no mask in 1 of 2 cases and is absent there"
    ]


def test_a_mask_is_read_on_the_grid_of_its_image_or_refused(tmp_path: Path) -> None:
    affine = np.diag([-1.0, 2, 1, 1])
    voxels = np.zeros(SHAPE, np.uint8)
    voxels[0, 0, 0] = 255
    nib.save(nib.Nifti1Image(voxels, affine), tmp_path / "liver.nii.gz")
    folder = MaskFolder(names=("liver",), files=(tmp_path / "liver.nii.gz",))
    ras = nib.as_closest_canonical(nib.Nifti1Image(voxels, affine))
    read = folder.read(SHAPE, ras.affine)
    np.testing.assert_array_equal(read["liver"], np.asarray(ras.dataobj) == 255)
    assert read["liver"].dtype == bool and list(read) == ["liver"] and len(read) == 1
    with pytest.raises(GeometryError, match="mask of liver"):
        folder.read(SHAPE, ras.affine + np.array([[0, 0, 0, 1.0], *[[0, 0, 0, 0]] * 3]))["liver"]
    with pytest.raises(GeometryError, match="mask of liver"):
        folder.read((4, 3, 3), ras.affine)["liver"]


@pytest.mark.parametrize("values", [(0, 1, 2), (1, 2), (-1, 0), (0, 0.3, 0.7)])
def test_what_is_no_mask_is_refused_by_its_values(values: tuple[float, ...], tmp_path: Path) -> None:
    voxels = np.resize(np.array(values, np.float32), SHAPE)
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), tmp_path / "x.nii.gz")
    folder = MaskFolder(names=("x",), files=(tmp_path / "x.nii.gz",))
    with pytest.raises(VoxelValueError, match=f"holds {len(values)} values"):
        folder.read(SHAPE, np.eye(4))["x"]


@pytest.mark.parametrize("value", [0, 1])
def test_an_empty_and_a_full_mask_are_masks(value: int, tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.full(SHAPE, value, np.uint8), np.eye(4)), tmp_path / "x.nii.gz")
    read = MaskFolder(names=("x",), files=(tmp_path / "x.nii.gz",)).read(SHAPE, np.eye(4))
    assert (read["x"] == bool(value)).all()
