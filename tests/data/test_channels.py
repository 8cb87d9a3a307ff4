"""Several contrasts of a subject are one case, whose channels go by name."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from medldm.data import CohortError, check_cohort, read_cohort
from medldm.data.case_checks import image_files, main_file, only_image, volume_files
from medldm.data.channels import check_channel_names, describe_channels, split_names
from medldm.data.checks import run_check
from medldm.data.cohort import count_channels
from medldm.errors import ConfigError
from medldm.transforms import write_nifti

WriteChannels = Callable[..., Path]


@pytest.fixture
def write_channels(tmp_path: Path) -> WriteChannels:
    """Write a cohort of the named channels, case_0, case_1, ..., and return its folder."""

    def write(channels: Sequence[str] = ("t1n", "t2w"), *, n_cases: int = 4) -> Path:
        root = tmp_path / "cohort"
        for number in range(n_cases):
            name = f"case_{number}"
            generator = np.random.default_rng(number)
            for place, channel in enumerate(channels):
                image = generator.normal(100 * (place + 1), 5, (8, 7, 6))
                write_nifti(root / "images" / f"{name}_{channel}.nii.gz", image, np.eye(4))
            labels = np.zeros((8, 7, 6))
            labels[2:5, 2:5, 2:4] = 1
            write_nifti(root / "labels" / f"{name}.nii.gz", labels, np.eye(4), dtype=np.uint8)
        (root / "channels.json").write_bytes(describe_channels(channels))
        return root

    return write


def endings(case: dict) -> list[str]:
    return [Path(file).name.removesuffix(".nii.gz").rsplit("_", 1)[1] for file in image_files(case)]


def test_the_channels_of_a_case_are_one_case_in_the_order_of_the_file(write_channels: WriteChannels) -> None:
    # Not the alphabet's order, nor that in which files are listed.
    cohort = read_cohort(write_channels(("t2w", "flair", "t1n")))
    assert cohort.channels == ("t2w", "flair", "t1n")
    assert len(cohort.cases) == 4
    for case in cohort.cases:
        assert endings(case) == ["t2w", "flair", "t1n"]
        assert Path(case["label"]).name == f"{case['id']}.nii.gz"
        assert main_file(case) == case["image"][0]
        assert [key for key, _ in volume_files(case)] == ["image"] * 3 + ["label"]
    assert check_cohort(cohort, full=True) == []


def test_wanted_channels_come_in_the_wanted_order(write_channels: WriteChannels) -> None:
    root = write_channels(("t2w", "flair", "t1n"))
    cohort = read_cohort(root, channels=["t1n", "t2w"])
    assert cohort.channels == ("t1n", "t2w")
    assert all(endings(case) == ["t1n", "t2w"] for case in cohort.cases)


def test_one_wanted_channel_is_one_path(write_channels: WriteChannels) -> None:
    cohort = read_cohort(write_channels(), channels=["t2w"])
    assert cohort.channels == ("t2w",)
    for case in cohort.cases:
        assert isinstance(case["image"], str)
        assert only_image(case) == case["image"]


def test_what_needs_one_channel_never_takes_the_first(write_channels: WriteChannels) -> None:
    case = read_cohort(write_channels()).cases[0]
    with pytest.raises(ConfigError, match="2 image files; one channel is needed"):
        only_image(case)


@pytest.mark.parametrize("wanted", [["t1n", "t3"], ["t3"]])
def test_an_unknown_channel_is_refused_with_the_known_ones(
    write_channels: WriteChannels, wanted: list[str]
) -> None:
    with pytest.raises(ConfigError, match=r"Unknown channel 't3'.*t1n, t2w"):
        read_cohort(write_channels(), channels=wanted)


def test_channels_of_a_cohort_without_names_are_refused(write_channels: WriteChannels) -> None:
    root = write_channels(("t1n",))
    (root / "channels.json").unlink()
    for file in (root / "images").iterdir():
        file.rename(file.with_name(file.name.replace("_t1n", "")))
    assert read_cohort(root).channels == ()
    with pytest.raises(ConfigError, match="the cohort names no channels"):
        read_cohort(root, channels=["t1n"])


def test_a_missing_contrast_is_named_by_case(write_channels: WriteChannels) -> None:
    root = write_channels()
    (root / "images" / "case_1_t2w.nii.gz").unlink()
    (root / "images" / "case_3_t1n.nii.gz").unlink()
    with pytest.raises(CohortError) as caught:
        read_cohort(root)
    assert "case_1: the case lacks t2w" in str(caught.value)
    assert "case_3: the case lacks t1n" in str(caught.value)
    # Who does not ask for the contrast does not miss it.
    assert sum(case["id"] == "case_1" for case in read_cohort_of(root, "t1n")) == 1


def read_cohort_of(root: Path, *channels: str) -> list[dict]:
    return read_cohort(root, channels=channels, drop_incomplete=True).cases


def test_incomplete_cases_are_left_out_with_a_count(
    write_channels: WriteChannels, caplog: pytest.LogCaptureFixture
) -> None:
    root = write_channels()
    (root / "images" / "case_1_t2w.nii.gz").unlink()
    with caplog.at_level(logging.WARNING):
        cohort = read_cohort(root, drop_incomplete=True)
    assert sorted(case["id"] for case in cohort.cases) == ["case_0", "case_2", "case_3"]
    assert "1 cases that lack a contrast are left out: case_1 (t2w)" in caplog.text
    assert [issue.severity for issue in cohort.issues] == ["warning"]


def test_a_channel_on_another_grid_is_an_error(write_channels: WriteChannels) -> None:
    root = write_channels()
    write_nifti(root / "images" / "case_0_t2w.nii.gz", np.random.rand(8, 7, 5), np.eye(4))
    write_nifti(root / "images" / "case_1_t2w.nii.gz", np.random.rand(8, 7, 6), np.diag([1.0, 1.0, 2.0, 1.0]))
    found = {
        issue.file: issue.check for issue in check_cohort(read_cohort(root)) if issue.severity == "error"
    }
    assert found == {"images/case_0_t2w.nii.gz": "shape", "images/case_1_t2w.nii.gz": "affine"}


def test_every_channel_is_checked(write_channels: WriteChannels) -> None:
    root = write_channels()
    write_nifti(root / "images" / "case_0_t2w.nii.gz", np.ones((8, 7, 6)), np.eye(4))
    (root / "images" / "case_1_t2w.nii.gz").write_bytes(b"no image")
    (root / "images" / "case_2_t2w.nii.gz").write_bytes((root / "images" / "case_3_t2w.nii.gz").read_bytes())
    cohort = read_cohort(root, validation_fraction=0.0)
    found = {(issue.check, issue.file) for issue in check_cohort(cohort, full=True)}
    assert ("constant", "images/case_0_t2w.nii.gz") in found
    assert ("unreadable", "images/case_1_t2w.nii.gz") in found
    assert ("duplicate", "images/case_3_t2w.nii.gz") in found


def test_a_file_of_no_channel_is_an_error(write_channels: WriteChannels) -> None:
    root = write_channels()
    (root / "images" / "case_0_t2w.nii.gz").rename(root / "images" / "case_0_swi.nii.gz")
    with pytest.raises(
        CohortError, match=r"images/case_0_swi.nii.gz: its name is no case and one of _t1n, _t2w"
    ):
        read_cohort(root)


@pytest.mark.parametrize("entries", ["lists", "mappings"])
def test_a_datalist_names_its_channels(write_channels: WriteChannels, entries: str) -> None:
    root = write_channels(n_cases=3)

    def image(number: int) -> list[str] | dict[str, str]:
        files = [f"images/case_{number}_{name}.nii.gz" for name in ("t2w", "t1n")]
        return files if entries == "lists" else {"t1n": files[1], "t2w": files[0]}

    cases = [{"image": image(number), "label": f"labels/case_{number}.nii.gz"} for number in range(3)]
    content = {"channels": ["t2w", "t1n"], "training": cases[:2], "validation": cases[2:]}
    (root / "cohort.json").write_text(json.dumps(content))
    cohort = read_cohort(root)
    assert cohort.channels == ("t2w", "t1n")
    assert [case["id"] for case in cohort.cases] == ["case_0", "case_1", "case_2"]
    assert all(endings(case) == ["t2w", "t1n"] for case in cohort.cases)
    assert all(Path(file).is_file() for case in cohort.cases for file in image_files(case))
    chosen = read_cohort(root, channels=["t1n", "t2w"])
    assert all(endings(case) == ["t1n", "t2w"] for case in chosen.cases)


@pytest.mark.parametrize(
    ("channels", "image", "message"),
    [
        (None, ["a.nii", "b.nii"], "has several files as"),
        (["t1n", "t2w"], ["a.nii"], "it has 1 files; one for each channel is needed: t1n, t2w"),
        (["t1n", "t2w"], {"t3": "a.nii"}, "Unknown channel 't3'"),
        (["t1n", "t2w"], 3, "a path for each channel is needed"),
        (["t1n", "t1n"], ["a.nii", "b.nii"], "listed twice"),
    ],
)
def test_a_datalist_that_does_not_name_each_file_is_refused(
    write_channels: WriteChannels, channels: list[str] | None, image: object, message: str
) -> None:
    root = write_channels()
    content = {"channels": channels, "training": [{"image": image, "label": "labels/case_0.nii.gz"}]}
    (root / "cohort.json").write_text(json.dumps(content))
    with pytest.raises(CohortError, match=message):
        read_cohort(root)


def test_a_null_in_a_datalist_is_a_missing_contrast(write_channels: WriteChannels) -> None:
    root = write_channels()
    first, second = (
        {"image": [f"images/case_{n}_t1n.nii.gz", other], "label": f"labels/case_{n}.nii.gz"}
        for n, other in ((0, None), (1, "images/case_1_t2w.nii.gz"))
    )
    content = {"channels": ["t1n", "t2w"], "training": [first, second]}
    (root / "cohort.json").write_text(json.dumps(content))
    with pytest.raises(CohortError, match="case_0: the case lacks t2w"):
        read_cohort(root, validation_fraction=0)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "a list of names"),
        ("t1n", "a list of names"),
        (["t1", "t1"], "listed twice"),
        (["t1", "post_t1"], "ends in '_t1', another channel"),
        (["t1/../x"], "no plain name"),
        ([""], "no plain name"),
        ([1], "no plain name"),
    ],
)
def test_names_that_cannot_tell_files_apart_are_refused(names: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_channel_names(names)


def test_a_broken_channels_file_is_an_error_of_its_own(write_channels: WriteChannels) -> None:
    root = write_channels()
    for content, message in (
        ("{", "channel"),
        ('{"channels": ["a", "a"]}', "twice"),
        ("{}", "names no channels"),
    ):
        (root / "channels.json").write_text(content)
        with pytest.raises(CohortError, match=r"channels.json: .*" + message):
            read_cohort(root, channels=["t1n"])


def test_the_check_names_the_channels(write_channels: WriteChannels) -> None:
    root = write_channels()
    text, code = run_check(root)
    assert code == 0 and "of the channels t1n, t2w" in text
    assert json.loads(run_check(root, as_json=True)[0])["channels"] == ["t1n", "t2w"]


def test_dropping_cases_moves_no_subject_to_the_other_side(write_channels: WriteChannels) -> None:
    """Else a training on some contrasts would have seen the test subjects of another."""
    root = write_channels(n_cases=12)
    before = read_cohort(root, validation_fraction=0.34)
    for name in ("case_2", "case_7", "case_9"):
        (root / "images" / f"{name}_t2w.nii.gz").unlink()
    after = read_cohort(root, validation_fraction=0.34, drop_incomplete=True)
    of_one = read_cohort(root, validation_fraction=0.34, channels=["t1n"])
    assert [case["id"] for case in of_one.validation] == [case["id"] for case in before.validation]
    assert {case["id"] for case in after.validation} <= {case["id"] for case in before.validation}
    assert {case["id"] for case in after.training} <= {case["id"] for case in before.training}
    assert len(after.cases) == 9


@pytest.mark.parametrize("channels", [("t1n", "t2w"), ("a", "b", "c")])
def test_channels_are_counted_by_their_names(
    write_channels: WriteChannels, tmp_path: Path, channels: tuple[str, ...]
) -> None:
    root = write_channels(channels)
    assert count_channels(root) == len(channels)
    assert count_channels(root, channels[:1]) == 1
    assert count_channels(tmp_path / "nothing yet") == 1
    assert count_channels(tmp_path / "nothing yet", ["a", "b"]) == 2


def test_files_may_end_in_numbers(write_channels: WriteChannels) -> None:
    root = write_channels(("0000", "0001"))
    (root / "channels.json").write_bytes(describe_channels(["t2w", "ct"], endings=["0000", "0001"]))
    cohort = read_cohort(root)
    assert cohort.channels == ("t2w", "ct")
    assert all(endings(case) == ["0000", "0001"] for case in cohort.cases)
    (root / "channels.json").write_text('{"channels": ["t2w", "ct"], "endings": ["0000"]}')
    with pytest.raises(CohortError, match="it has 2 channels and 1 endings"):
        read_cohort(root)


def test_some_channels_of_a_cohort_come_by_name(write_channels: WriteChannels) -> None:
    cohort = read_cohort(write_channels(("t2w", "flair", "t1n"))).with_channels(["t1n", "t2w"])
    assert cohort.channels == ("t1n", "t2w")
    assert all(endings(case) == ["t1n", "t2w"] for case in cohort.cases)
    assert all(isinstance(case["image"], str) for case in cohort.with_channels(["t2w"]).cases)
    with pytest.raises(ConfigError, match="Unknown channel 'flair'"):
        cohort.with_channels(["flair"])


def test_the_check_can_look_at_some_contrasts(write_channels: WriteChannels) -> None:
    root = write_channels()
    (root / "images" / "case_1_t2w.nii.gz").unlink()
    assert run_check(root)[1] == 1
    assert run_check(root, channels=["t1n"])[1] == 0
    text, code = run_check(root, drop_incomplete=True)
    assert code == 0 and "1 cases that lack a contrast are left out: case_1 (t2w)" in text


def test_a_command_names_channels_in_one_text() -> None:
    assert split_names("t1n, t2w") == ("t1n", "t2w") and split_names(None) is None
    with pytest.raises(ConfigError, match="no plain name"):
        split_names("t1n,,t2w")
