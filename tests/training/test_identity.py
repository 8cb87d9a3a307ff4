"""The identity of a training: nothing of what the next batch depends on is left out."""

from __future__ import annotations

import inspect
import os
import shutil
from dataclasses import dataclass

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import CacheDataset, Dataset

from benchmarks.tiny_trainings import make_first_stage, make_second_stage, make_third_stage
from medldm import ConditioningConfig
from medldm.configs import Config
from medldm.training import (
    assembly,
    case_transforms,
    encode_cases,
    label_maps,
    measure_space,
    open_cohort,
    volume_transforms,
)
from medldm.training.decoder import build_decoder_training
from medldm.training.identity import MAY_CHANGE, TrainingIdentity, describe, flatten, hash_cases
from medldm.training.resume.setting import check_setting
from medldm.training.resume.state_files import StateError

NOT_OF_A_BATCH = {
    "extend_card": "the card alone",
    "split": "the card alone; its cases take part",
    "preview": "a look",
    "recipe": "the card alone; what it says takes part",
    "sharding": "states hold whole tensors: any way to share goes on",
    "quarantine": "its cases are part of the state; how many are borne may change",
    "handlers": "the user's",
    "val_handlers": "the user's",
}
NAMES = {
    "training_set": "training cases",
    "validation_set": "validation cases",
    "config": "learning_rate",
    "run": "batch_size",
    "make_evaluator": "evaluator",
    "model": "denoiser.down_channels",
    "network": "network.down_channels",
    "loss": "loss weights",
}


@pytest.fixture
def cohort(make_cohort):
    return open_cohort(str(make_cohort(4)), validation_fraction=0.25, seed=0)


def identity_of(make, folder) -> TrainingIdentity:
    identity = make(folder).state_handler.identity
    assert identity is not None
    return identity


@pytest.mark.parametrize(
    ("make", "build"),
    [
        (make_first_stage, assembly.build_autoencoder_training),
        (make_second_stage, assembly.build_diffusion_training),
        (make_third_stage, build_decoder_training),
    ],
)
def test_every_argument_of_an_assembly_takes_part(tmp_path, make, build) -> None:
    values = identity_of(make, tmp_path).values
    for name in inspect.signature(build).parameters.keys() - NOT_OF_A_BATCH.keys():
        wanted = NAMES.get(name, name)
        assert any(each == wanted or each.startswith(f"{wanted}.") for each in values), name


@pytest.mark.parametrize("make", [make_first_stage, make_second_stage, make_third_stage])
def test_every_field_of_a_configuration_takes_part(tmp_path, make) -> None:
    identity = identity_of(make, tmp_path)
    for config in (identity._config, identity._run):
        missing = [
            name for name in config.to_dict() if name not in MAY_CHANGE and name not in identity.values
        ]
        assert missing == []


def test_a_new_field_takes_part_by_itself() -> None:
    @dataclass(kw_only=True)
    class Grown(Config):
        new: int = 3
        n_epochs: int = 5

    assert describe(Grown()) == {"kind": describe(Grown())["kind"], "new": 3}


def test_two_trainings_alike_have_one_identity(tmp_path) -> None:
    one, other = (identity_of(make_first_stage, tmp_path / name) for name in "ab")
    assert one.values == other.values
    assert one.digest == other.digest


@pytest.mark.parametrize("field", ["batch_size"])
def test_what_differs_is_named_with_both_values(tmp_path, field) -> None:
    own = identity_of(make_second_stage, tmp_path).values
    changed = {**own, field: 7, "beta_end": 0.5, "training cases": [*own["training cases"][:-1], "0"]}
    with pytest.raises(StateError) as error:
        check_setting(own, changed)
    message = str(error.value)
    assert f"{field} is 7 here and {own[field]} there" in message
    assert f"beta_end is 0.5 here and {own['beta_end']} there" in message
    assert "the training cases are others: 1 of 5 differ" in message
    with pytest.raises(StateError, match="the training cases are in another order"):
        check_setting(own, {**own, "training cases": own["training cases"][::-1]})
    with pytest.raises(StateError, match="there are 2 training cases here and 5 there"):
        check_setting(own, {**own, "training cases": own["training cases"][:2]})
    with pytest.raises(StateError, match="brand_new is absent here and 1 there"):
        check_setting({**own, "brand_new": 1}, own)
    check_setting(own, dict(own))


def test_transforms_are_named_only_where_nothing_else_says_it(cohort) -> None:
    def values(size, seed) -> dict[str, object]:
        space = measure_space(cohort, spacing_mm=(1, 1, 1), size=size, intensity="mr_percentile")
        steps = volume_transforms(space, patch_size=(8, 8, 8), seed=seed)
        return {**flatten(describe(space), "space"), **flatten(describe(steps), "training transforms")}

    with pytest.raises(StateError) as error:
        check_setting(values((16, 16, 16), 0), values((24, 16, 16), 0))
    assert "space.size is [24, 16, 16] here and [16, 16, 16] there" in str(error.value)
    assert "transforms" not in str(error.value)
    check_setting(values((16, 16, 16), 0), values((16, 16, 16), 1))
    own = values((16, 16, 16), 0)
    name = next(name for name in own if name.startswith("training transforms") and name.endswith("size"))
    with pytest.raises(StateError, match=r"training transforms\..*size is"):
        check_setting(own, {**own, name: [4, 4, 4]})


def hashes(cohort, **options) -> list[str]:
    space = measure_space(cohort, spacing_mm=(1, 1, 1), size=(16, 16, 16), intensity="mr_percentile")
    return hash_cases(Dataset(cohort.training, volume_transforms(space, **options)))


def open_again(folder):
    return open_cohort(str(folder), validation_fraction=0.25, seed=0)


def test_a_moved_or_touched_cohort_is_the_same(cohort, tmp_path) -> None:
    shutil.copytree(cohort.root, tmp_path / "elsewhere")
    for file in (tmp_path / "elsewhere").rglob("*.nii.gz"):
        os.utime(file, ns=(1, 1))
    assert hashes(open_again(tmp_path / "elsewhere")) == hashes(cohort)


def rewrite(file, change) -> None:
    volume = nib.load(file)
    array = np.asarray(volume.dataobj).copy()
    affine = np.array(volume.affine)
    change(array, affine)
    nib.save(nib.Nifti1Image(array, affine), file)


def test_voxels_grids_and_order_take_part(cohort) -> None:
    own, first = hashes(cohort), cohort.training[0]["image"]

    def differing() -> int:
        found = hashes(open_again(cohort.root))
        return sum(one != other for one, other in zip(own, found, strict=True))

    def brighten(array, affine) -> None:
        array[0, 0, 0] += 1

    def stretch(array, affine) -> None:
        affine[:3, :3] *= 1.001

    rewrite(first, brighten)
    assert differing() == 1
    for file in (first, cohort.training[0]["label"]):
        rewrite(file, stretch)
    assert differing() == 1
    assert hashes(cohort)[::-1] != hashes(cohort)


def test_only_what_the_transforms_read_takes_part(cohort) -> None:
    def clear(array, affine) -> None:
        array[array == 5] = 1

    plain, labelled = hashes(cohort), hashes(cohort, schema=cohort.schema)
    rewrite(cohort.training[0]["label"], clear)
    again = open_again(cohort.root)
    assert hashes(again) == plain
    assert hashes(again, schema=cohort.schema)[1:] == labelled[1:]
    assert hashes(again, schema=cohort.schema)[0] != labelled[0]


def test_of_label_maps_the_images_do_not_take_part(cohort) -> None:
    space = measure_space(cohort, spacing_mm=(1, 1, 1), size=(16, 16, 16), intensity="mr_percentile")
    steps = label_maps.label_map_transforms(space, schema=cohort.schema)
    own = hash_cases(CacheDataset(cohort.training, steps, cache_rate=0.0, progress=False))

    def brighten(array, affine) -> None:
        array[0, 0, 0] += 1

    rewrite(cohort.training[0]["image"], brighten)
    assert hash_cases(Dataset(open_again(cohort.root).training, steps)) == own


def test_conditions_of_a_case_take_part_in_the_second_stage(cohort, make_model) -> None:
    config = ConditioningConfig(conditioning_type=("class",), num_classes=4)
    model = make_model(("class",), num_classes=4)
    model.space = measure_space(cohort, spacing_mm=(1, 1, 1), size=(16, 20, 16), intensity="mr_percentile")

    def encoded(classes) -> list[str]:
        cases = [case | {"class": number} for case, number in zip(cohort.training, classes, strict=True)]
        dataset = encode_cases(model, cases, transform=case_transforms(model.space, config))
        return hash_cases(dataset)

    assert encoded([0, 1, 2]) == encoded([0, 1, 2])
    changed = [one != other for one, other in zip(encoded([0, 1, 2]), encoded([0, 3, 2]), strict=True)]
    assert changed == [False, True, False]


def test_an_autoencoder_that_was_trained_anew_is_another(tmp_path, monkeypatch) -> None:
    own = identity_of(make_second_stage, tmp_path / "a").values
    other = make_second_stage(tmp_path / "b")
    torch.nn.init.normal_(next(other.model.autoencoder.parameters()))
    with pytest.raises(StateError, match=r"autoencoder weights is .* here and .* there"):
        check_setting(own, other.state_handler.identity.values)
