"""What names say, in the styles that public collections use."""

from __future__ import annotations

from pathlib import PurePath

import pytest

from medldm.data.layouts.names import is_not_meant, read_name, read_names

CASES = {
    # path: key, channel, is_label
    "P01/P01-t1n.nii.gz": ("P01", "t1n", False),
    "P01/P01-seg.nii.gz": ("P01", "", True),
    "BraTS2021_00000/BraTS2021_00000_t1ce.nii.gz": ("BraTS2021_00000", "t1ce", False),
    "BraTS-GLI-00001-000-t2f.nii.gz": ("BraTS-GLI-00001-000", "t2f", False),
    "P01/T1_post.nii.gz": ("P01", "t1-post", False),
    "FLAIR/P01.nrrd": ("P01", "flair", False),
    "imagesTr/case_7_0000.nii.gz": ("case_7", "0000", False),
    "labelsTr/case_7.nii.gz": ("case_7", "", True),
    "img/img0001.nii.gz": ("0001", "", False),
    "label/label0001.nii.gz": ("0001", "", True),
    "volume-12.nii": ("12", "", False),
    "segmentation-12.nii": ("12", "", True),
    "s01/ct.nii.gz": ("s01", "ct", False),
    "s01/segmentations/liver.nii.gz": ("s01/liver", "", True),
    "sub-01/ses-2/anat/sub-01_ses-2_acq-high_T1w.nii.gz": ("sub-01_ses-2_acq-high", "t1w", False),
    "derivatives/x/sub-01/sub-01_space-T1w_desc-aseg_dseg.nii.gz": ("sub-01", "t1w", True),
    "vasegment.nii": ("vasegment", "", False),
    "labelled_t1.nii": ("labelled", "t1", False),
    "x/aparc+aseg.mgz": ("x", "", True),
    "P01_0123_scan.mha": ("P01_0123", "", False),
}


@pytest.mark.parametrize("path", CASES)
def test_a_name_says_case_contrast_and_kind(path: str) -> None:
    name = read_name(path)
    assert ("/".join(name.key), name.channel, name.is_label) == CASES[path]


@pytest.mark.parametrize(
    ("path", "structure"),
    [
        ("x_seg-liver.nii.gz", "liver"),
        ("x_label-left_kidney.nii.gz", "left_kidney"),
        ("sub-1_ses-2_label-spleen_mask.nii.gz", "spleen"),
        ("x_seg.nii.gz", ""),
    ],
)
def test_a_name_says_its_structure(path: str, structure: str) -> None:
    assert read_name(path).structure == structure


def test_two_bids_subjects_in_one_path_are_a_contradiction() -> None:
    assert read_name("sub-01/anat/sub-02_T1w.nii.gz").sub == "?"


@pytest.mark.parametrize(
    ("paths", "channels"),
    [
        (["x_0000.nii", "x_0001.nii"], ["0000", "0001"]),
        (["a_0000.nii", "a_0001.nii", "b_0000.nii", "b_0001.nii"], ["0000", "0001"] * 2),
        (["OAS_0031.nii", "OAS_0042.nii"], ["", ""]),
        (["case_0000.nii", "case_0001.nii"], ["", ""]),
        (["images/x_0000.nii", "images/x_0001.nii", "labels/x_0001.nii"], ["", "", ""]),
        ([f"p_{number:04d}.nii" for number in range(12)], [""] * 12),
    ],
    ids=["channels", "two cases", "no start", "counted", "labels say", "many"],
)
def test_four_digits_are_channels_only_where_all_names_together_say_so(
    paths: list[str], channels: list[str]
) -> None:
    assert [name.channel for name in read_names(map(PurePath, paths)).values()] == channels


def test_probability_maps_and_transforms_are_not_meant() -> None:
    assert is_not_meant(PurePath("sub-1_label-GM_probseg.nii.gz")) and is_not_meant(PurePath("a_warp.nii"))
    assert not is_not_meant(PurePath("warped_lands.nii"))
