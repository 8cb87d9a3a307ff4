"""Which label maps are conditioned on is chosen once, and what would be ignored is refused."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from medldm.data.cohort import read_cohort
from medldm.label_maps.choice import choose_label_maps


def choose(model, cohort, **options):
    settings = {"label_dir": None, "validation_fraction": 0.25, "split_seed": 0} | options
    return choose_label_maps(model, dataset_dir=str(cohort), **settings)


def test_the_maps_are_those_of_the_validation_or_of_the_training_cases(
    make_model, make_cohort, caplog
) -> None:
    model, folder = make_model(("label_map",)), make_cohort(4)
    cohort = read_cohort(folder, validation_fraction=0.25, seed=0)
    assert choose(model, folder) == [case["label"] for case in cohort.validation]
    assert "anatomy of people" not in caplog.text
    with caplog.at_level(logging.WARNING):
        assert choose(model, folder, labels="training") == [case["label"] for case in cohort.training]
    assert "3 label maps of training cases: they show the anatomy of people" in caplog.text


def test_none_are_taken_on_purpose_alone(make_model, make_cohort) -> None:
    model, folder = make_model(("label_map",)), make_cohort(4)
    assert choose(model, folder, unconditional=True) is None
    with pytest.raises(
        ValueError, match=r"0 validation cases, none with a label map: give label_dir.*uncondit"
    ):
        choose(model, folder, validation_fraction=0.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": "all"}, "choose 'synthetic' or 'training'"),
        ({"labels": "synthetic", "label_dir": "x"}, "labels is 'synthetic' and label_dir is 'x'"),
        ({"labels": "training", "unconditional": True}, "exclude each other"),
        ({"label_dir": "x", "unconditional": True}, "exclude each other"),
        ({"drawing": {"conditions": {"age": 1}}}, "labelmap_conditions: no maps are drawn"),
        ({"drawing": {"checkpoint": "x"}}, "labelmap_checkpoint: no maps are drawn"),
    ],
)
def test_choices_that_exclude_each_other_are_refused(make_model, make_cohort, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        choose(make_model(("label_map",)), make_cohort(4), **options)


@pytest.mark.parametrize("options", [{"labels": "synthetic"}, {"labels": "training"}, {"label_dir": "x"}])
def test_maps_for_a_model_without_are_refused(make_model, make_cohort, options) -> None:
    model, folder = make_model(("class",)), make_cohort(4)
    assert choose(model, folder) is None
    with pytest.raises(ValueError, match="trained without label maps: leave it out"):
        choose(model, folder, **options)


def test_a_folder_is_listed_in_order(make_model, make_cohort) -> None:
    folder = make_cohort(3)
    found = choose(make_model(("label_map",)), folder, label_dir=str(folder / "labels"))
    assert [Path(file).name for file in found] == ["case_0.nii.gz", "case_1.nii.gz", "case_2.nii.gz"]
