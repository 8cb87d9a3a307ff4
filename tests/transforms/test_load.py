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
from medldm.transforms.load import round_label_values

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


@pytest.mark.parametrize("value", [2.9995, 3.0008, -0.0004, 0.9999])
def test_label_values_but_for_rounding_are_rounded_with_a_note(
    save_nifti: SaveNifti, caplog: pytest.LogCaptureFixture, value: float
) -> None:
    array = np.full((3, 3, 3), 2.0)
    array[0, 0, 0] = value
    path = save_nifti(array)
    volume = LoadVolume(is_label=True)(path)
    assert sorted(set(volume.flatten().tolist())) == sorted({2.0, float(np.rint(value))})
    assert not torch.signbit(volume).any()
    assert "1 label values up to" in caplog.text
    assert float(LoadVolume()(path)[0, 0, 0, 0]) == pytest.approx(value)


def test_round_label_values_leaves_whole_numbers_as_they_are() -> None:
    voxels = np.arange(8, dtype=np.int16).reshape(2, 2, 2)
    assert round_label_values(voxels) == (voxels, ())
    whole = voxels.astype(np.float32)
    assert round_label_values(whole)[0] is whole


@pytest.mark.parametrize("value", [1.0011, 0.002, -0.5, np.nan, np.inf])
def test_label_values_beyond_rounding_are_refused(value: float) -> None:
    voxels = np.zeros((2, 2, 2))
    voxels[0, 0, 0] = value
    with pytest.raises(VoxelValueError, match="1 voxels of the label map are no integers"):
        round_label_values(voxels)


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


def turned_copy(array: np.ndarray, codes: str, oblique: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the volume of an array with the affine `oblique`, stored with other axes."""
    transform = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(oblique), nib.orientations.axcodes2ornt(codes)
    )
    turned = nib.orientations.apply_orientation(array, transform)
    return turned, oblique @ nib.orientations.inv_ornt_aff(transform, array.shape)


@pytest.mark.parametrize("codes", ["RAS", "PIR", "LPS"])
def test_the_files_of_a_list_are_the_channels_of_one_volume(
    save_nifti: SaveNifti, oblique: np.ndarray, codes: str
) -> None:
    arrays = [np.random.default_rng(seed).normal(size=(4, 5, 6)) for seed in range(3)]
    paths = [save_nifti(arrays[0], oblique, name="a.nii.gz")]
    paths += [save_nifti(*turned_copy(arrays[1], codes, oblique), name="b.nii.gz")]
    paths += [save_nifti(arrays[2], oblique, name="c.nii.gz")]
    volume = LoadVolumed("image")({"image": [str(path) for path in paths]})["image"]
    assert volume.shape[0] == 3
    for channel, path in zip(volume, paths, strict=True):
        assert torch.equal(channel.as_tensor(), LoadVolume()(path)[0].as_tensor())
    assert torch.equal(volume.affine, LoadVolume()(paths[0]).affine)
    assert volume.meta["channel_files"] == [str(path) for path in paths]
    restored = restore_file_geometry(volume)
    np.testing.assert_array_equal(restored[0].numpy(), nib.load(paths[0]).get_fdata(dtype=np.float32))
    # The order is that of the list, whatever the names.
    swapped = LoadVolume()(paths[::-1])
    assert torch.equal(swapped.as_tensor().flip(0), volume.as_tensor())


def test_a_list_of_one_file_is_that_file(save_nifti: SaveNifti, oblique: np.ndarray) -> None:
    path = save_nifti(np.random.default_rng(0).normal(size=(4, 5, 6)), oblique)
    alone, listed = LoadVolume()(path), LoadVolume()([path])
    assert (
        torch.equal(alone.as_tensor(), listed.as_tensor())
        and dict(alone.meta).keys() == dict(listed.meta).keys()
    )


def test_channels_on_other_grids_are_refused_by_name(save_nifti: SaveNifti) -> None:
    first = save_nifti(np.zeros((4, 5, 6)), name="a.nii.gz")
    shorter = save_nifti(np.zeros((4, 5, 5)), name="b.nii.gz")
    shifted = save_nifti(np.zeros((4, 5, 6)), np.diag([1, 1, 1.02, 1]), name="c.nii.gz")
    rounded = save_nifti(np.zeros((4, 5, 6)), np.diag([1, 1, 1.001, 1]), name="d.nii.gz")
    with pytest.raises(VolumeError, match=r"b.nii.gz: its shape is \(4, 5, 5\)"):
        LoadVolume()([first, shorter])
    with pytest.raises(VolumeError, match=r"c.nii.gz: its affine puts a corner 0.1 mm"):
        LoadVolume()([first, shifted])
    assert LoadVolume()([first, rounded]).shape[0] == 2


@pytest.mark.parametrize(("is_label", "n_files"), [(True, 2), (False, 0)])
def test_lists_that_are_no_channels_are_refused(save_nifti: SaveNifti, is_label: bool, n_files: int) -> None:
    path = save_nifti(np.zeros((4, 5, 6)))
    with pytest.raises(ValueError, match=f"{n_files} files are given as one volume"):
        LoadVolume(is_label=is_label)([path] * n_files)
