from __future__ import annotations

from pathlib import Path

import pytest

from medldm.data.layouts.names import read_name
from medldm.data.preparation.sources import find_sources

LAYOUTS = {
    "folders": ("images/a.nii.gz", "labels/a.nii.gz"),
    "nnunet": ("imagesTr/case_7_0000.nii.gz", "labelsTr/case_7.nii.gz"),
    "suffix": ("s1/scan.nii", "s1/scan_seg.nii"),
    "pair in a folder": ("s1/image.nii.gz", "s1/label.nii.gz"),
    "bids": ("sub-01/anat/sub-01_T1w.nii.gz", "derivatives/sub-01/anat/sub-01_T1w_dseg.nii.gz"),
    "other name, alone": ("s1/mr.nii.gz", "s1/seg/expert.nii.gz"),
}


def make(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_label_map_finds_its_image(layout: str, tmp_path: Path) -> None:
    image, label = LAYOUTS[layout]
    make(tmp_path, image, label)
    if layout != "bids":
        make(tmp_path, "other/x/images/zz.nii.gz", "other/x/labels/zz.nii.gz")
    found = find_sources(tmp_path)
    pairs = {(source.images[""], source.label) for source in found.sources}
    assert (tmp_path / image, tmp_path / label) in pairs
    assert found.lost == ()


def test_label_map_near_several_images_is_not_guessed(tmp_path: Path) -> None:
    make(tmp_path, "s/one.nii.gz", "s/two.nii.gz", "s/expert_seg.nii.gz")
    found = find_sources(tmp_path)
    assert [source.label for source in found.sources] == [None, None]
    assert len(found.lost) == 1 and "expert" not in found.lost[0]


def test_label_files_are_told_by_folder_or_ending() -> None:
    assert all(
        read_name(name).is_label
        for name in (
            "labelsTr/a.nii.gz",
            "x/a-label.nrrd",
            "x/a.seg.mha",
            "x/aparc+aseg.nii.gz",
            "masks/b.nii",
        )
    )
    assert not any(
        read_name(name).is_label for name in ("images/a.nii.gz", "x/vasegment.nii", "x/labelled_t1.nii")
    )


def test_pairing_key_drops_the_words_for_image_and_label() -> None:
    assert read_name("p/imagesTr/c_0000.nii.gz").key == read_name("p/labelsTr/c.nii.gz").key == ("p", "c")
