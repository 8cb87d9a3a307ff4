"""The three parts of a cohort: what is cut, what is stated, and what moves when a share changes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from medldm.data import CohortError, read_cohort
from medldm.data.export import export_cohort
from medldm.data.splits import complete_split, split_by_subject
from medldm.errors import ConfigError
from medldm.evaluation.cases.reading import split_cohort
from medldm.label_maps.choice import choose_label_maps
from medldm.seeds import subject_rank
from tests.data.export.export_cases import write_cohort
from tests.data.layouts.made import image_of, labels_of, make_nnunet, write


def subjects(n: int, *, labelled: bool = True) -> list[dict[str, str]]:
    label = {"label": "x"} if labelled else {}
    return [{"id": f"{number}", "subject": f"{number}", **label} for number in range(n)]


def ids(cases: list[dict[str, str]]) -> set[str]:
    return {case["id"] for case in cases}


@pytest.mark.parametrize("n", [2, 9, 10, 17, 40])
@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.4])
def test_without_a_test_share_the_split_is_the_first_ranked_as_ever(n: int, fraction: float) -> None:
    cases = subjects(n)
    ranked = sorted(ids(cases), key=lambda name: subject_rank(5, name))
    n_validation = max(1, round(fraction * n)) if fraction else 0
    training, validation, test = split_by_subject(cases, validation_fraction=fraction, seed=5)
    assert ids(validation) == set(ranked[:n_validation]) and test == []
    assert ids(training) == set(ranked[n_validation:])


def test_another_share_of_one_part_moves_no_case_of_the_other() -> None:
    cases = subjects(50)
    parts = {
        shares: [
            ids(part)
            for part in split_by_subject(
                cases, validation_fraction=shares[0], test_fraction=shares[1], seed=1
            )
        ]
        for shares in ((0.1, 0.0), (0.1, 0.1), (0.1, 0.3), (0.2, 0.1))
    }
    assert parts[0.1, 0.0][1] == parts[0.1, 0.1][1] == parts[0.1, 0.3][1]
    assert parts[0.1, 0.1][2] == parts[0.2, 0.1][2] < parts[0.1, 0.3][2]
    assert [len(part) for part in parts[0.1, 0.3]] == [30, 5, 15]
    for training, validation, test in parts.values():
        assert (
            training | validation | test == ids(cases) and len(training) + len(validation) + len(test) == 50
        )


@pytest.mark.parametrize(("n", "expected"), [(9, 0), (10, 1), (24, 2)])
def test_a_small_cohort_has_no_test_set(n: int, expected: int) -> None:
    parts = split_by_subject(subjects(n), validation_fraction=0.1, test_fraction=0.1, seed=0)
    assert len(parts[2]) == expected and len(parts[0]) > 0


def test_large_shares_leave_a_subject_to_train_on_or_are_refused() -> None:
    parts = split_by_subject(subjects(10), validation_fraction=0.5, test_fraction=0.49, seed=0)
    assert [len(part) for part in parts] == [1, 5, 4]
    with pytest.raises(ConfigError, match=r"validation_fraction is 0.5 and test_fraction 0.5.*less than 1"):
        read_cohort(".", validation_fraction=0.5, test_fraction=0.5)
    with pytest.raises(ConfigError, match=r"test_fraction is -0\.1"):
        read_cohort(".", test_fraction=-0.1)


def test_stated_lists_come_before_shares() -> None:
    cases, shares = subjects(30), {"validation_fraction": 0.1, "test_fraction": 0.1, "seed": 0}
    whole = complete_split({"training": cases[:20], "validation": cases[20:]}, **shares)
    assert whole == {"training": cases[:20], "validation": cases[20:], "test": []}
    with_test = complete_split({"training": cases[:20], "test": cases[20:]}, **shares)
    assert with_test["test"] == cases[20:] and len(with_test["validation"]) == 2
    bare = subjects(3, labelled=False)
    published = complete_split({"training": cases, "test": bare}, **shares)
    assert published["test"][:3] == bare and len(published["test"]) == 6
    unlabelled = complete_split({"training": subjects(20, labelled=False), "test": bare}, **shares)
    assert unlabelled["test"] == bare


@pytest.fixture
def make_list(make_cohort: Callable[..., Path]) -> Callable[..., Path]:
    def make(**lists: list[int]) -> Path:
        root = make_cohort(6)
        content = {
            split: [{"image": f"images/case_{n}.nii.gz", "label": f"labels/case_{n}.nii.gz"} for n in numbers]
            for split, numbers in lists.items()
        }
        (root / "cohort.json").write_text(json.dumps(content))
        return root

    return make


def test_a_datalist_states_a_test_list_and_unlabelled_images_are_left_out(
    make_list: Callable[..., Path],
) -> None:
    root = make_list(training=[0, 1, 2], validation=[3], test=[4, 5])
    cohort = read_cohort(root, test_fraction=0.3)
    assert [len(part) for part in cohort.splits.values()] == [3, 1, 2]
    assert ids(cohort.cases) == {f"case_{n}" for n in range(6)}
    content = json.loads((root / "cohort.json").read_text())
    content["test"][1] = "images/case_5.nii.gz"
    (root / "cohort.json").write_text(json.dumps(content))
    cohort = read_cohort(root)
    assert ids(cohort.test) == {"case_4"}
    assert any("1 test images without label map are left out" in issue.message for issue in cohort.issues)


def test_a_subject_in_the_test_and_another_list_is_a_leak(make_list: Callable[..., Path]) -> None:
    root = make_list(training=[0, 1], validation=[2], test=[3])
    content = json.loads((root / "cohort.json").read_text())
    content["test"][0]["subject"] = content["training"][0]["subject"] = "one"
    (root / "cohort.json").write_text(json.dumps(content))
    from medldm.data import check_cohort

    found = [issue.message for issue in check_cohort(read_cohort(root)) if issue.check == "subject leak"]
    assert found == ["the subject is in training and in test; put all its cases on one side"]


def test_the_evaluation_compares_with_the_test_cases_or_says_what_chose_the_epoch(
    make_list: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    root = make_list(training=[0, 1, 2], validation=[3], test=[4, 5])
    train, real = split_cohort(root, validation_fraction=0.1, seed=0)
    assert ids(train.cases) == {"case_0", "case_1", "case_2"} and ids(real.cases) == {"case_4", "case_5"}
    assert "chose the epoch" not in caplog.text
    root = make_list(training=[0, 1, 2], validation=[3])
    _, real = split_cohort(root, validation_fraction=0.1, seed=0)
    assert ids(real.cases) == {"case_3"}
    assert [issue.check for issue in real.issues].count("chose epoch") == 1
    assert "validation cases, which also chose the epoch" in caplog.text


def test_label_maps_to_synthesise_from_are_those_of_the_test(
    make_model, make_list: Callable[..., Path]
) -> None:
    root = make_list(training=[0, 1, 2], validation=[3], test=[4, 5])
    maps = choose_label_maps(
        make_model(("label_map",)),
        label_dir=None,
        dataset_dir=str(root),
        validation_fraction=0.1,
        split_seed=0,
    )
    assert [Path(file).name for file in maps or ()] == ["case_4.nii.gz", "case_5.nii.gz"]


def test_nnunets_test_cases_with_label_maps_are_the_test_set(tmp_path: Path) -> None:
    make_nnunet(tmp_path)
    write(tmp_path / "imagesTs/case_100_0000.nii.gz", image_of(7))
    bare = read_cohort(tmp_path, validation_fraction=0.0, require_labels=False)
    assert ids(bare.test) == {"case_100"} and len(bare.training) == 3
    write(tmp_path / "labelsTs/case_100.nii.gz", labels_of(7))
    labelled = read_cohort(tmp_path, validation_fraction=0.0)
    assert ids(labelled.test) == {"case_100"} and len(labelled.training) == 3


@pytest.mark.parametrize("layout", ["nnunet", "msd"])
def test_an_export_holds_the_test_set_apart_and_reads_back(layout: str, tmp_path: Path) -> None:
    root = write_cohort(tmp_path / "real", [f"c{number:02d}" for number in range(12)])
    own = read_cohort(root, test_fraction=0.25)
    export_cohort(root, tmp_path / "out", format=layout, options=_options(test_fraction=0.25))
    back = read_cohort(tmp_path / "out", validation_fraction=0.0)
    assert ids(own.test) == ids(back.test) and len(back.test) == 3
    assert len(list((tmp_path / "out" / "labelsTs").iterdir())) == 3


def _options(**options: float):
    from medldm.data.export import ExportOptions

    return ExportOptions(**options)


def test_a_test_case_with_a_bad_file_is_still_named(make_list: Callable[..., Path]) -> None:
    root = make_list(training=[0, 1], validation=[2], test=[3])
    (root / "labels" / "case_3.nii.gz").unlink()
    with pytest.raises(CohortError, match="case_3"):
        read_cohort(root)
