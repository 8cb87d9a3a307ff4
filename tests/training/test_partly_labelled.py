"""Partly labelled cohorts in the second stage: what a batch says, copies, weights of regions, resuming."""

from __future__ import annotations

import pytest
import torch

from benchmarks.tiny_trainings import make_latents
from medldm import LatentDiffusionConfig
from medldm.errors import ConfigError
from medldm.training import (
    Augmentation,
    AugmentationConfig,
    LatentDataset,
    RunConfig,
    build_diffusion_training,
    case_transforms,
    conditioning_of,
    encode_cases,
    gather_conditions,
    measure_space,
    open_cohort,
)
from medldm.training.identity import hash_case
from medldm.training.region_weights import resolve_region_weights
from medldm.transforms import CentreCropOrPadd
from tests.training.small_trainings import run_killed_after

PARTLY = '{"1": "shell", "5": "core", "partly_labelled": ["core"]}'
TABLE = "source,structures_in_map\ncase_0,shell\ncase_1,shell\n"


def open_partly(make_cohort, *, names: str = PARTLY, table: str = TABLE):
    folder = make_cohort(4)
    (folder / "labels.json").write_text(names)
    (folder / "subjects.csv").write_text(table)
    return open_cohort(str(folder), validation_fraction=0.25, seed=0)


def test_a_batch_says_what_a_map_does_not_cover(make_cohort, make_model) -> None:
    cohort = open_partly(make_cohort)
    config = conditioning_of(cohort, conditioning_type=["label_map"])
    assert config.partly_labelled == ("core",)
    space = measure_space(cohort, spacing_mm=(1, 1, 1), size=(16, 20, 16), intensity="mr_percentile")
    transform = case_transforms(space, config)
    for case in cohort.cases:
        batch = transform(case)
        assert batch["unknown:label_map"].tolist() == [False, "core" not in case["structures_in_map"]]
    model = make_model(("label_map",), partly_labelled=["core"])
    dataset = encode_cases(model, cohort.training, transform=transform)
    rows = [dataset[index]["unknown:label_map"] for index in range(len(dataset))]
    batch = {"label": torch.stack([dataset[i]["label"] for i in range(len(dataset))])}
    told = gather_conditions({**batch, "unknown:label_map": torch.stack(rows)}, ["label_map"])
    assert told.unknown["label_map"].sum() == sum(
        case["structures_in_map"] == ["shell"] for case in cohort.training
    )


def test_a_whole_cohort_says_nothing(make_cohort) -> None:
    cohort = open_partly(make_cohort, table="source,subject\ncase_0,case_0\n")
    config = conditioning_of(cohort, conditioning_type=["label_map"])
    assert config.partly_labelled == ()
    space = measure_space(cohort, spacing_mm=(1, 1, 1), size=(16, 20, 16), intensity="mr_percentile")
    assert "unknown:label_map" not in case_transforms(space, config)(cohort.training[0])


def test_a_structure_that_no_map_covers_is_refused(make_cohort) -> None:
    rows = "".join(f"case_{n},shell\n" for n in range(4))
    cohort = open_partly(make_cohort, table="source,structures_in_map\n" + rows)
    with pytest.raises(ConfigError, match="no training case has a label map that covers 'core'"):
        conditioning_of(cohort, conditioning_type=["label_map"])


def test_what_a_map_covers_is_part_of_what_a_case_holds(make_cohort) -> None:
    cohort = open_partly(make_cohort)
    config = conditioning_of(cohort, conditioning_type=["label_map"])
    space = measure_space(cohort, spacing_mm=(1, 1, 1), size=(16, 20, 16), intensity="mr_percentile")
    transform = case_transforms(space, config)
    case = cohort.training[0]
    hashes = {
        hash_case(case | {"structures_in_map": names}, transform) for names in (["shell"], ["shell", "core"])
    }
    assert len(hashes) == 2


def test_a_mirrored_copy_changes_sides_of_what_is_unknown() -> None:
    crop = CentreCropOrPadd(["image"], (8, 8, 8))
    augmentation = Augmentation(
        AugmentationConfig(),
        spacing_mm=(1, 1, 1),
        copies=20,
        seed=0,
        mirror_names={"left": "right"},
        flip=True,
    )
    draws = [augmentation.draw("case", copy, size=(8, 8, 8)) for copy in range(1, 20)]
    sides = {
        each.deformation.flip: augmentation.apply(
            {"image": torch.zeros(1, 8, 8, 8), "structures_in_map": ["left", "top"]},
            each,
            keys=("image",),
            crop=crop,
        )["structures_in_map"]
        for each in draws
    }
    assert sides == {False: ["left", "top"], True: ["right", "top"]}


def test_inverse_volumes_are_those_of_the_cases_that_cover_a_structure(make_model) -> None:
    def weights_of(unknown) -> dict[str, float]:
        labels = torch.zeros(1, 16, 16, 16, dtype=torch.uint8)
        labels[:, :8] = 1
        labels[:, 8:12] = 2
        bare = torch.where(labels == 2, 0, labels)
        latents = {"mean": torch.zeros(3, 4, 4, 4), "std": torch.ones(3, 4, 4, 4)}
        entries = [{**latents, "label": labels}, {**latents, "label": bare} | unknown]
        config = LatentDiffusionConfig(region_weights="inverse_volume")
        return resolve_region_weights(config, make_model(), LatentDataset(entries)).region_weights

    assert weights_of({}) == {"shell": 1.0, "core": 4.0}
    assert weights_of({"unknown:label_map": torch.tensor([False, True])}) == {"shell": 1.0, "core": 2.0}


def make_training(make_model, folder):
    entries = [
        {
            **entry,
            "label": torch.randint(0, 3, (1, 16, 15, 14), generator=torch.Generator().manual_seed(number)),
            "unknown:label_map": torch.tensor([False, number == 0]),
        }
        for number, entry in enumerate(make_latents(3))
    ]
    model = make_model(("label_map",), partly_labelled=["core"], structure_dropout=0.5)
    training = build_diffusion_training(
        model,
        LatentDataset(entries),
        config=LatentDiffusionConfig(n_epochs=3, warmup_steps=0),
        run=RunConfig(output_dir=str(folder), batch_size=2, save_batches=1),
    )
    return training.trainer, model


def weights_of(model) -> dict[str, torch.Tensor]:
    return {name: weight.clone() for name, weight in model.denoiser.state_dict().items()}


def test_unknown_structures_are_learnt_and_resumed_bit_for_bit(make_model, tmp_path) -> None:
    trainer, model = make_training(make_model, tmp_path / "straight")
    before = weights_of(model)
    trainer.run()
    straight = weights_of(model)
    assert (
        straight["conditioning.conditioners.0.unknown"] != before["conditioning.conditioners.0.unknown"]
    ).all()
    trainer, _ = make_training(make_model, tmp_path / "killed")
    run_killed_after(trainer, 3)
    trainer, model = make_training(make_model, tmp_path / "killed")
    trainer.run()
    for name, weight in weights_of(model).items():
        assert torch.equal(weight, straight[name]), name
