"""A label map goes where its name says, or where it stands alone; every rival claim is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from medldm.data.layouts.masks import MaskFolder
from medldm.data.layouts.names import read_names
from medldm.data.layouts.pairing import Pairs, pair_labels

Files = list[str]


def pair(files: Files) -> tuple[Files, Pairs]:
    """Return the images and the pairs of a tree of .nii files."""
    names = read_names(Path(f"{file}.nii") for file in files)
    images = {path: name for path, name in names.items() if not name.is_label}
    labels = {Path(path): name for path, name in names.items() if name.is_label}
    return [path.with_suffix("").as_posix() for path in images], pair_labels(list(images.values()), labels)


def by_image(files: Files) -> dict[str, str | tuple[str, ...]]:
    images, pairs = pair(files)
    return {
        images[index]: label.with_suffix("").as_posix() if isinstance(label, Path) else label.names
        for index, label in pairs.labels.items()
    }


PAIRED = {
    "folders": (["images/a", "images/b", "labels/a"], {"images/a": "labels/a"}),
    "contrasts share the case's map": (
        ["P/P-t1n", "P/P-t2f", "P/P-seg"],
        {"P/P-t1n": "P/P-seg", "P/P-t2f": "P/P-seg"},
    ),
    "a map of one contrast": (["P/P_t1", "P/P_t2", "P/P_t1_seg"], {"P/P_t1": "P/P_t1_seg"}),
    "bare words in a case folder": (["P/t1", "P/seg"], {"P/t1": "P/seg"}),
    "alone together": (["s/mr", "s/seg/expert"], {"s/mr": "s/seg/expert"}),
    "masks of a case folder": (
        ["s/ct", "s/segmentations/spleen", "s/segmentations/liver"],
        {"s/ct": ("liver", "spleen")},
    ),
    "masks beside the image": (["s/ct", "s/liver_mask", "s/spleen_mask"], {"s/ct": ("liver", "spleen")}),
    "masks named after the case": (
        ["s/s", "s/masks/s_liver", "s/masks/s_spleen"],
        {"s/s": ("liver", "spleen")},
    ),
    "masks in a folder for each case": (
        ["images/p1", "images/p2", "segs/p1/liver", "segs/p2/liver", "segs/p1/spleen"],
        {"images/p1": ("liver", "spleen"), "images/p2": ("liver",)},
    ),
    "structure in the name": (["x", "y", "x_seg-liver", "x_label-spleen"], {"x": ("liver", "spleen")}),
    "bids": (
        ["sub-1/sub-1_T1w", "sub-1/sub-1_T2w", "derivatives/sub-1/sub-1_space-T1w_dseg"],
        {"sub-1/sub-1_T1w": "derivatives/sub-1/sub-1_space-T1w_dseg"},
    ),
    "bids sessions": (
        ["sub-1_ses-1_T1w", "sub-1_ses-2_T1w", "sub-1_ses-2_dseg"],
        {"sub-1_ses-2_T1w": "sub-1_ses-2_dseg"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PAIRED)
def test_names_decide(name: str) -> None:
    files, expected = PAIRED[name]
    assert by_image(files) == expected


LOST = {
    "a map of no name above all cases": ["p1/scan", "p2/scan", "p1/seg", "seg"],
    "what is left over": ["images/a", "images/b", "images/c", "labels/a", "labels/b", "labels/d"],
    "one left on each side": ["images/a", "labels/d"],
    "near two images": ["s/one", "s/two", "s/expert_seg"],
    "another patient's map in the folder": ["P01/P01_ct", "P01/P02_seg", "P02/P02_ct"],
    "another number in the folder": ["P01/ct", "P01/P07_seg"],
    "two folders of the whole input": ["x/scan", "y/expert_seg"],
    "another session": ["sub-1_ses-1_T1w", "sub-1_ses-2_dseg"],
    "another run": ["sub-1_run-1_T1w", "sub-1_run-2_T1w", "sub-1_run-3_dseg"],
    "upper and lower case": ["images/Case_1", "labels/case_1"],
    "a second map beside a pair": ["P/ct", "P/P_seg", "P/extra_seg"],
}


@pytest.mark.parametrize("name", LOST)
def test_what_names_leave_open_is_refused(name: str) -> None:
    images, pairs = pair(LOST[name])
    n_maps = len(LOST[name]) - len(images)
    assert len(pairs.lost) >= 1
    assert len(pairs.labels) + len(pairs.lost) == n_maps
    assert all("label" in reason for reason in pairs.lost.values())


def test_leftovers_do_not_find_each_other() -> None:
    found = by_image(LOST["what is left over"])
    assert found == {"images/a": "labels/a", "images/b": "labels/b"}


CONTESTED = {
    "two maps of one image": (["images/a", "labels/a", "masks/a"], "2 label maps"),
    "two words for one map": (["P/ct", "P/ct_seg", "P/ct_label"], "2 label maps"),
    "map and masks": (["s/ct", "s/seg", "s/segmentations/liver", "s/segmentations/spleen"], "beside it"),
    "two bids maps": (["sub-1_T1w", "sub-1_desc-a_dseg", "sub-1_desc-b_dseg"], "2 label maps"),
    "one bids map of two runs": (["sub-1_run-1_T1w", "sub-1_run-2_T1w", "sub-1_dseg"], "2 images"),
    "one structure twice": (["s/ct", "s/masks/Liver", "s/masks/liver", "s/masks/spleen"], "one name"),
}


@pytest.mark.parametrize("name", CONTESTED)
def test_rival_claims_are_refused_and_never_decided_by_order(name: str) -> None:
    files, reason = CONTESTED[name]
    for order in (files, files[::-1]):
        _, pairs = pair(order)
        assert not pairs.labels
        assert reason in next(iter(pairs.contested.values()))


def test_an_image_twice_in_two_formats_is_contested() -> None:
    names = read_names(map(Path, ("a.nii", "a.nrrd", "a_seg.nii")))
    images = [name for name in names.values() if not name.is_label]
    labels = {Path(path): name for path, name in names.items() if name.is_label}
    pairs = pair_labels(images, labels)
    assert not pairs.labels and len(pairs.contested) == 2


def test_pairs_by_place_are_listed() -> None:
    assert pair(["s/mr", "s/seg/expert"])[1].alone == [0]
    assert pair(["images/a", "labels/a"])[1].alone == []


def test_a_single_mask_is_a_structure_where_other_cases_have_it_among_several() -> None:
    found = by_image(["s1/ct", "s1/masks/foo", "s1/masks/bar", "s2/ct", "s2/masks/foo"])
    assert found == {"s1/ct": ("bar", "foo"), "s2/ct": ("foo",)}


def test_masks_are_files_in_the_order_of_their_names() -> None:
    _, pairs = pair(["s/ct", "s/masks/b", "s/masks/a"])
    label = pairs.labels[0]
    assert isinstance(label, MaskFolder)
    assert [file.stem for file in label.files] == list(label.names) == ["a", "b"]
