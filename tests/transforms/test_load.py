"""Loading turns volumes to RAS+ and back to their file's geometry."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.transforms import Compose

from medldm.transforms import (
    LoadVolume,
    LoadVolumed,
    ResampleToSpacingd,
    VolumeError,
    VoxelValueError,
    restore_file_geometry,
)

SaveNifti = Callable[..., Path]
ORIENTATIONS = ["".join(codes) for codes in itertools.product("RL", "AP", "SI")] + [
    "SRA",
    "PIR",
    "ASL",
    "IPR",
]


def affine_of(codes: str, oblique: np.ndarray) -> np.ndarray:
    """Turn the axes of an oblique affine so that nibabel calls them `codes`."""
    transform = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(oblique), nib.orientations.axcodes2ornt(codes)
    )
    return oblique @ nib.orientations.inv_ornt_aff(transform, (4, 5, 6))


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_loaded_volume_is_nibabels_closest_canonical(
    save_nifti: SaveNifti, oblique: np.ndarray, codes: str
) -> None:
    array = np.random.default_rng(0).integers(-1000, 1000, (4, 5, 6)).astype(np.int16)
    path = save_nifti(array, affine_of(codes, oblique))
    volume = LoadVolume()(path)
    canonical = nib.as_closest_canonical(nib.load(path))
    assert volume.dtype == torch.float32
    np.testing.assert_array_equal(volume[0].numpy(), canonical.get_fdata())
    np.testing.assert_allclose(volume.affine.numpy(), canonical.affine, atol=1e-12)
    assert "".join(nib.aff2axcodes(volume.affine.numpy())) == "RAS"


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_file_geometry_comes_back_to_the_bit(save_nifti: SaveNifti, oblique: np.ndarray, codes: str) -> None:
    path = save_nifti(
        np.random.default_rng(0).normal(size=(4, 5, 6)).astype(np.float32), affine_of(codes, oblique)
    )
    restored = restore_file_geometry(LoadVolume()(path))
    np.testing.assert_array_equal(restored[0].numpy(), nib.load(path).get_fdata())
    np.testing.assert_array_equal(restored.affine.numpy(), nib.load(path).affine)


def test_file_geometry_is_not_restored_on_another_grid(save_nifti: SaveNifti) -> None:
    volume = LoadVolume()(save_nifti(np.zeros((4, 5, 6), dtype=np.float32)))
    with pytest.raises(VolumeError, match="invert the resampling"):
        restore_file_geometry(volume[:, :3])


def test_dictionary_form_inverts_through_compose(save_nifti: SaveNifti, oblique: np.ndarray) -> None:
    labels = np.zeros((12, 10, 8), dtype=np.uint8)
    labels[3:9, 2:8, 2:6] = 4
    path = save_nifti(labels, oblique)
    chain = Compose([LoadVolumed(["image", "label"]), ResampleToSpacingd(["image", "label"], None)])
    case = chain.inverse(chain({"image": str(path), "label": str(path)}))
    np.testing.assert_array_equal(case["label"][0].numpy(), labels)
    np.testing.assert_array_equal(case["image"].affine.numpy(), nib.load(path).affine)


@pytest.mark.parametrize("value", [0.5, -1.0, 2.0**25])
def test_label_map_with_other_than_integers_is_refused(save_nifti: SaveNifti, value: float) -> None:
    array = np.zeros((3, 3, 3), dtype=np.float64)
    array[0, 0, 0] = value
    path = save_nifti(array)
    LoadVolume()(path)
    with pytest.raises(VoxelValueError, match=r"case\.nii\.gz: 1 voxels"):
        LoadVolume(is_label=True)(path)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e200])
def test_voxels_float32_cannot_hold_are_refused(save_nifti: SaveNifti, value: float) -> None:
    array = np.zeros((3, 3, 3), dtype=np.float64)
    array[1, 1, 1] = value
    with pytest.raises(VoxelValueError, match="NaN or Inf"):
        LoadVolume()(save_nifti(array))


def test_two_loads_do_not_share_memory(save_nifti: SaveNifti) -> None:
    path = save_nifti(np.zeros((3, 3, 3), dtype=np.float32), name="a.nii")
    first = LoadVolume()(path)
    first += 1
    assert float(LoadVolume()(path).max()) == 0


def test_cap_must_be_positive() -> None:
    with pytest.raises(ValueError, match="max_bytes is 0"):
        LoadVolume(max_bytes=0)


def test_bundle_configs_name_the_transforms_by_target(save_nifti: SaveNifti) -> None:
    parser = ConfigParser({"load": {"_target_": "medldm.transforms.LoadVolumed", "keys": "image"}})
    case = parser.get_parsed_content("load")({"image": str(save_nifti(np.ones((3, 4, 5), dtype=np.float32)))})
    assert tuple(case["image"].shape) == (1, 3, 4, 5)
