"""Cases without a label map among others: samples without that condition, in both stages."""

from __future__ import annotations

import pytest
import torch
from monai.data import Dataset

from medldm.data.checks import run_check
from medldm.data.cohort import read_cohort
from medldm.data.issues import CohortError
from medldm.errors import ConfigError
from medldm.training import (
    case_transforms,
    conditioning_of,
    encode_cases,
    gather_conditions,
    measure_space,
    open_cohort,
    training_loader,
    volume_transforms,
)


@pytest.fixture
def folder(make_cohort):
    """A cohort of 6 of which 3 have no label map."""
    folder = make_cohort(6)
    for case in (0, 2, 4):
        (folder / "labels" / f"case_{case}.nii.gz").unlink()
    return folder


def open_half(folder, **options):
    return open_cohort(str(folder), validation_fraction=0.34, seed=0, **options)


def space_of(cohort):
    return measure_space(cohort, spacing_mm=(1, 1, 1), size=(16, 20, 16), intensity="mr_percentile")


def test_a_cohort_may_have_label_maps_of_some_cases(folder, caplog) -> None:
    cohort = read_cohort(folder, require_labels=False)
    assert sorted(case["id"] for case in cohort.cases if "label" not in case) == [
        "case_0",
        "case_2",
        "case_4",
    ]
    with pytest.raises(CohortError, match="case_0") as error:
        read_cohort(folder)
    assert len(error.value.issues) == 3


def test_an_image_beside_a_map_of_another_name_is_not_taken_for_unlabelled(folder) -> None:
    (folder / "labels" / "case_1.nii.gz").rename(folder / "labels" / "case_one.nii.gz")
    with pytest.raises(CohortError) as error:
        open_half(folder)
    assert {"images/case_1.nii.gz", "labels/case_one.nii.gz"} <= {issue.file for issue in error.value.issues}


def test_the_check_says_how_many_and_is_content(folder) -> None:
    text, code = run_check(folder)
    assert code == 0
    assert "3 of 6 cases without a label map" in text


def test_where_labels_are_needed_they_are_asked_for_by_name(folder) -> None:
    with pytest.raises(CohortError, match=r"case_0\.nii\.gz: it has no label map"):
        open_half(folder, require_labels=True)


def test_batches_mix_cases_with_and_without(folder) -> None:
    cohort = open_half(folder)
    dataset = Dataset(cohort.training, volume_transforms(space_of(cohort), patch_size=(8, 8, 8)))
    sizes = [len(batch["image"]) for batch in training_loader(dataset, batch_size=4, seed=0)]
    assert sizes == [4]


def test_a_case_without_a_map_lacks_that_condition(folder, make_model, tmp_path, caplog) -> None:
    cohort = open_half(folder)
    config = conditioning_of(cohort, conditioning_type=["label_map"])
    assert "3 of 4 training cases (75 %) have no label map" in caplog.text
    model = make_model(("label_map",))
    dataset = encode_cases(
        model, cohort.training, transform=case_transforms(model.space, config), directory=tmp_path / "cache"
    )
    batch = next(iter(torch.utils.data.DataLoader(dataset, batch_size=4)))
    conditions = gather_conditions(batch, ("label_map",))
    expected = [("label" not in case) for case in cohort.training]
    assert conditions.absent["label_map"].tolist() == expected
    latents = torch.randn(4, 3, 4, 5, 4)
    with torch.no_grad():
        given = model.denoiser(latents, torch.full((4,), 0.5), conditions)
        free = model.denoiser(latents, torch.full((4,), 0.5), None)
    for row, is_absent in enumerate(expected):
        assert torch.allclose(given[row], free[row], atol=1e-6) == is_absent


def test_a_condition_that_no_case_has_is_refused(make_cohort) -> None:
    folder = make_cohort(4)
    for file in (folder / "labels").iterdir():
        file.unlink()
    (folder / "labels").rmdir()
    cohort = open_cohort(str(folder), validation_fraction=0.25, seed=0)
    assert cohort.schema is not None, "labels.json names structures that no map shows"
    with pytest.raises(ConfigError, match="no training case of the cohort has a label map"):
        conditioning_of(cohort, conditioning_type=["label_map"])
    assert conditioning_of(cohort, conditioning_type=[]).names == ()
