"""Names of channels in a dataset.json can be part of file names, each once, and changes are said."""

from __future__ import annotations

import pytest

from medldm.data.channels import check_channel_names
from medldm.data.issues import Issue
from medldm.data.layouts.channel_names import declared_channels, plain_names


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["FLAIR", "T1w", "t1gd", "T2w"], ["FLAIR", "T1w", "t1gd", "T2w"]),
        (["t1_post", "t2"], ["t1_post", "t2"]),
        (["a_b", "b"], ["a-b", "b"]),
        (["MRI", "mri", "MRI-2"], ["MRI", "mri-2", "MRI-2-2"]),
        (["T2 (FS)", "../x", "é", ""], ["T2-FS", "x", "channel", "channel-2"]),
        (["x" * 90, "x" * 91], ["x" * 48, "x" * 48 + "-2"]),
    ],
)
def test_names_become_plain_and_each_is_there_once(given: list[str], expected: list[str]) -> None:
    assert list(plain_names(given)) == expected
    assert check_channel_names(expected) == tuple(expected)


def test_channels_are_in_the_order_of_their_numbers() -> None:
    problems: list[Issue] = []
    names = {"10": "k", "0": "a", "2": "c"}
    found = declared_channels({"channel_names": names}, file="dataset.json", problems=problems)
    assert list((found or {}).items()) == [(0, "a"), (2, "c"), (10, "k")]
    assert not problems
    assert declared_channels({}, file="dataset.json", problems=problems) is None


def test_a_changed_name_is_said_and_no_numbers_are_an_error() -> None:
    problems: list[Issue] = []
    declared_channels({"modality": {"0": "T1 w", "1": "T2"}}, file="dataset.json", problems=problems)
    declared_channels({"modality": {"a": "T1", "b": "T2"}}, file="dataset.json", problems=problems)
    assert [issue.severity for issue in problems] == ["warning", "error"]
    assert "T1-w, T2" in problems[0].message
