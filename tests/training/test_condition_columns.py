"""Conditions described from what a cohort holds."""

from __future__ import annotations

import json

import pytest

from medldm.training import conditioning_of, open_cohort


@pytest.fixture
def cohort(make_cohort):
    folder = make_cohort(4)
    entries = [
        {
            "image": f"images/case_{i}.nii.gz",
            "label": f"labels/case_{i}.nii.gz",
            "class": i,
            "classes": {"sex": "FM"[i % 2]},
            "scalars": {"age": 40.0 + 10 * i},
        }
        for i in range(4)
    ]
    del entries[1]["classes"]
    listing = {"training": entries[:3], "validation": entries[3:]}
    (folder / "cohort.json").write_text(json.dumps(listing))
    return open_cohort(str(folder), validation_fraction=0.2, seed=0)


def test_structures_classes_and_columns_follow_the_cohort(cohort) -> None:
    config = conditioning_of(cohort, conditioning_type=["label_map", "class", "scalars"])
    assert config.structures == {1: "shell", 5: "core"}
    assert config.num_classes == 4
    assert config.classes == {"sex": ("F", "M")}
    assert config.names == ("label_map", "class", "sex", "age")
    low, high = config.scalars["age"]
    assert low <= 40 < 60 <= high < 65


def test_measured_scalars_are_taken_by_name(cohort) -> None:
    config = conditioning_of(cohort, conditioning_type=["scalars"], scalar_columns=["volume_ml:core", "age"])
    volumes = [case["scalars"]["volume_ml:core"] for case in cohort.training]
    low, high = config.scalars["volume_ml:core"]
    assert low <= min(volumes) < max(volumes) <= high


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"conditioning_type": ["scalars"], "scalar_columns": ["weight"]},
            "no case of the cohort has it.*age",
        ),
        ({"conditioning_type": ["class"], "class_columns": ["site"]}, "'site', but no case.*sex"),
        ({"conditioning_type": ["text"]}, "'text', but no case"),
        ({"conditioning_type": ["image"]}, "'condition_image', but no case"),
        (
            {"conditioning_type": ["scalars"], "scalar_columns": ["spacing_mm"]},
            "'spacing_mm': .* does not vary",
        ),
    ],
)
def test_what_the_cohort_lacks_is_named(cohort, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        conditioning_of(cohort, **options)


def test_a_cohort_without_classes_is_refused(make_cohort) -> None:
    plain = open_cohort(str(make_cohort(3)), validation_fraction=0.34, seed=0)
    with pytest.raises(ValueError, match="name 'class', but no case"):
        conditioning_of(plain, conditioning_type=["class"])
