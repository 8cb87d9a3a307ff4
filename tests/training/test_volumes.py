"""From a cohort to batches."""

from __future__ import annotations

import pytest
import torch

from medldm import ConditioningConfig
from medldm.data.issues import CohortError
from medldm.errors import ConfigError
from medldm.training import case_transforms, gather_conditions, measure_space, open_cohort, volume_transforms


@pytest.fixture
def cohort(make_cohort):
    return open_cohort(str(make_cohort(5)), validation_fraction=0.2, seed=0)


def test_volumes_come_in_the_space_of_the_networks(cohort) -> None:
    space = measure_space(cohort, spacing_mm=(1, 1, 1), size=(16, 20, 24), intensity="mr_percentile")
    case = volume_transforms(space, schema=cohort.schema)(cohort.training[0])
    assert case["image"].shape == case["label"].shape == (1, 16, 20, 24)
    assert case["image"].min() == -1.0
    assert case["image"].max() == 1.0
    assert set(case["label"].unique().tolist()) == {0, 1, 2}
    core, surround = case["image"][case["label"] == 2].mean(), case["image"][case["label"] == 0].mean()
    assert core > surround + 1


def test_patches_are_cut_at_the_same_place_from_image_and_label(cohort) -> None:
    space = measure_space(cohort, spacing_mm=(1, 1, 1), size=(16, 20, 24), intensity="mr_percentile")
    whole = volume_transforms(space, schema=cohort.schema)(cohort.training[0])
    cut = volume_transforms(space, schema=cohort.schema, patch_size=(8, 8, 8), seed=3)
    patch = cut(cohort.training[0])
    again = volume_transforms(space, schema=cohort.schema, patch_size=(8, 8, 8), seed=3)
    assert torch.equal(again(cohort.training[0])["image"], patch["image"])
    assert not torch.equal(again(cohort.training[0])["image"], patch["image"])
    found = [
        (x, y, z)
        for x in range(9)
        for y in range(13)
        for z in range(17)
        if torch.equal(whole["image"][:, x : x + 8, y : y + 8, z : z + 8], patch["image"])
    ]
    x, y, z = found[0]
    assert torch.equal(whole["label"][:, x : x + 8, y : y + 8, z : z + 8], patch["label"])


def test_patches_larger_than_the_volume_are_refused(cohort) -> None:
    space = measure_space(cohort, spacing_mm=(1, 1, 1), size=(16, 16, 16), intensity="mr_percentile")
    with pytest.raises(ConfigError, match="no larger than the volume's"):
        volume_transforms(space, patch_size=(32, 8, 8))


def test_every_offending_file_is_listed_at_once(make_cohort) -> None:
    folder = make_cohort(4)
    (folder / "labels" / "case_1.nii.gz").unlink()
    (folder / "images" / "case_2.nii.gz").unlink()
    with pytest.raises(CohortError) as error:
        open_cohort(str(folder), validation_fraction=0.2, seed=0)
    assert "case_1.nii.gz" in str(error.value)
    assert "case_2.nii.gz" in str(error.value)


def test_a_batch_gives_the_conditions_it_has() -> None:
    batch = {"label": torch.zeros(2, 1, 4, 4, 4), "mean": torch.zeros(2)}
    assert set(gather_conditions(batch, ("class", "label_map")).values) == {"label_map"}


def test_a_case_gives_all_its_conditions_and_says_which_it_lacks(cohort) -> None:
    space = measure_space(cohort, spacing_mm=(1, 1, 1), size=(16, 20, 24), intensity="mr_percentile")
    config = ConditioningConfig(
        conditioning_type=["label_map", "class", "scalars", "text", "image"],
        classes={"sex": ["F", "M"]},
        scalars={"age": [20, 80]},
        text_embed_dim=3,
        text_tokens=4,
        structures=cohort.schema.structures,
        image_intensity=space.intensity.to_dict(),
    )
    case = dict(cohort.training[0])
    transform = case_transforms(space, config)
    full = case | {
        "classes": {"sex": "M"},
        "scalars": {"age": 61.0},
        "text": torch.ones(2, 3),
        "condition_image": case["image"],
    }
    found = transform(full)
    assert (int(found["sex"]), float(found["age"])) == (1, 61.0)
    assert torch.equal(found["condition_image"], found["image"])
    names = ["label_map", "sex", "age", "text", "image"]
    assert [bool(found[f"absent:{name}"]) for name in names] == [False] * 5
    bare = transform(case)
    assert [bool(bare[f"absent:{name}"]) for name in names] == [False, True, True, True, True]
    assert bare["text"].shape == (4, 3)
    assert bare["condition_image"].shape == bare["image"].shape


def test_a_batch_says_which_samples_lack_a_condition() -> None:
    batch = {"age": torch.tensor([3.0, 0.0]), "absent:age": torch.tensor([False, True])}
    conditions = gather_conditions(batch, ("age",))
    assert conditions.is_absent("age", 2, torch.device("cpu")).tolist() == [False, True]


def test_a_model_without_conditions_takes_the_image_alone(cohort) -> None:
    space = measure_space(cohort, spacing_mm=(1, 1, 1), size=(16, 20, 24), intensity="mr_percentile")
    assert set(case_transforms(space, ConditioningConfig())(cohort.training[0])) == {"image"}


@pytest.fixture
def channels(make_cohort):
    """A cohort of two channels, not in the order of the alphabet."""
    folder = make_cohort(5, channels=("t2w", "ct"))
    return open_cohort(str(folder), validation_fraction=0.2, seed=0)


SPACE = {"spacing_mm": (1, 1, 1), "size": (16, 20, 24)}


def test_each_channel_comes_as_if_it_were_alone(channels) -> None:
    kinds = {"ct": "ct_window", "t2w": "mr_percentile"}
    space = measure_space(channels, **SPACE, intensity=kinds)
    assert space.channels == ("t2w", "ct")
    joined = volume_transforms(space, schema=channels.schema)(channels.training[0])
    assert joined["image"].shape == (2, 16, 20, 24) and joined["label"].shape == (1, 16, 20, 24)
    for place, name in enumerate(space.channels):
        cohort = channels.with_channels([name])
        own = measure_space(cohort, **SPACE, intensity=kinds[name])
        assert own.intensities == (space.intensities[place],)
        alone = volume_transforms(own, schema=cohort.schema)(cohort.training[0])
        assert torch.equal(alone["image"], joined["image"][place : place + 1])
        assert torch.equal(alone["label"], joined["label"])


def test_the_order_of_the_channels_is_the_one_that_was_asked_for(channels) -> None:
    cohort = channels.with_channels(["ct", "t2w"])
    images = [
        volume_transforms(measure_space(each, **SPACE, intensity="mr_percentile"))(
            next(case for case in each.cases if case["id"] == "case_1")
        )["image"]
        for each in (channels, cohort)
    ]
    assert torch.equal(images[0].flip(0), images[1])


@pytest.mark.parametrize("kinds", [{"t2w": "mr_percentile"}, {"t2w": "ct_window", "ct": "x", "pd": "x"}])
def test_kinds_of_other_channels_are_refused(channels, kinds) -> None:
    with pytest.raises(ConfigError, match=r"the cohort's channels are \['t2w', 'ct'\]"):
        measure_space(channels, **SPACE, intensity=kinds)


def test_a_named_kind_for_a_channel_without_a_name_is_refused(cohort) -> None:
    with pytest.raises(ConfigError, match=r"the cohort's channels are \[\]"):
        measure_space(cohort, **SPACE, intensity={"t1n": "mr_percentile"})


def test_a_condition_image_that_a_case_lacks_has_one_channel(channels) -> None:
    space = measure_space(channels, **SPACE, intensity="mr_percentile")
    mapping = space.intensities[0].to_dict()
    config = ConditioningConfig(conditioning_type=["image"], image_intensity=mapping)
    bare = case_transforms(space, config)(channels.training[0])
    assert bare["condition_image"].shape == (1, 16, 20, 24) and bare["image"].shape == (2, 16, 20, 24)
