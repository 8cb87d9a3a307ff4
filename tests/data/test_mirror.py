"""Which structures change places in a mirror image, by their names."""

from __future__ import annotations

import pytest

from medldm.data.mirror import find_pairs, other_side, why_no_mirror


@pytest.mark.parametrize(
    "name", ["Left-Hippocampus", "ctx-rh-cuneus", "parotid_L", "KIDNEY RIGHT", "lung_upper_lobe_left"]
)
def test_the_other_side_of_the_other_side_is_the_name(name: str) -> None:
    other = other_side(name)
    assert other is not None
    assert other != name
    assert other_side(other) == name


@pytest.mark.parametrize("name", ["larynx", "liver", "anterior", "renal", "structure_1"])
def test_a_name_without_a_side_has_no_other(name: str) -> None:
    assert other_side(name) is None


def test_pairs_are_found_once_and_only_where_both_are_there() -> None:
    names = ["brainstem", "right parotid", "left parotid", "left lens"]
    assert find_pairs(names) == {"right parotid": "left parotid"}


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["anterior", "posterior"], "no structure is named as left or right"),
        (["left eye", "right eye", "left lens"], "no structure is named as the other side"),
        (["left kidney", "right kidney", "liver"], "on one side of the body"),
        (["left eye", "right eye", "nose"], None),
    ],
)
def test_a_mirror_image_is_sound_only_where_every_side_is_known(names: list[str], reason: str | None) -> None:
    found = why_no_mirror(names, find_pairs(names))
    assert (found is None) if reason is None else (found is not None and reason in found)
