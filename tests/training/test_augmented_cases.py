"""Augmented copies in the latent cache: made once, moved together, taken as seed and epoch say."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import torch

from medldm.conditioning import ConditioningConfig
from medldm.data.cohort import read_cohort
from medldm.errors import ConfigError, MissingFileError
from medldm.latent_diffusion.label_maps import label_map_space
from medldm.training import (
    Augmentation,
    AugmentationConfig,
    LatentDataset,
    case_transforms,
    encode_cases,
    latent_cache,
    training_loader,
)
from medldm.training.augmented_cases import VECTOR, CopyTransforms
from medldm.training.case_order import DrawnCase
from medldm.training.label_maps import label_map_case_transforms
from medldm.training.quarantine import BadCase, Quarantine
from medldm.transforms import Deformation, DeformVolumed


def augmentation(config: AugmentationConfig | None = None, **options: Any) -> Augmentation:
    given = {"spacing_mm": (1, 1, 1), "copies": 3, "seed": 3, "gammas": (0.15,)}
    return Augmentation(config or AugmentationConfig(), **given | options)


@pytest.fixture
def setting(make_cohort, make_model) -> tuple[Any, list[dict[str, Any]], Any]:
    """A model, the cases of a cohort and their transforms."""
    model = make_model(("label_map",))
    cases = read_cohort(make_cohort(4), validation_fraction=0.25).training
    return model, cases, case_transforms(model.space, model.conditioning_config)


def encode(setting, folder=None, made: Augmentation | None = None, **options: Any) -> LatentDataset:
    model, cases, transform = setting
    options = {"transform": transform, "directory": folder, "augmentation": made} | options
    return encode_cases(model, options.pop("cases", cases), **options)


def same(one: Any, other: Any) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def seed_of(made: Augmentation, copy: int) -> int:
    """Return a seed whose draw is a copy."""
    return next(seed for seed in range(999) if made.choose_copy(seed) == copy)


def test_the_case_as_it_is_stays_to_the_bit_and_statistics_are_its_own(setting, tmp_path) -> None:
    made = augmentation()
    plain, found = encode(setting, tmp_path), encode(setting, tmp_path, made)
    memory = encode(setting, None, made)
    for index in range(3):
        expected = {**plain[index], VECTOR: torch.zeros(made.n_channels)}
        assert same(found[index], expected)
        assert same(memory[index], expected)
        assert same(found[DrawnCase(index, seed_of(made, 0))], expected)
        copy = DrawnCase(index, seed_of(made, 2))
        assert same(found[copy], memory[copy])
        assert not torch.equal(found[copy]["mean"], expected["mean"])
        assert found[copy][VECTOR][0] == 1
    assert all(map(torch.equal, found.measure_statistics(), plain.measure_statistics()))
    assert found.case_hashes() == plain.case_hashes()


def test_a_copy_is_the_deformed_case_encoded(setting) -> None:
    model, cases, transform = setting
    made = augmentation(AugmentationConfig(gamma=0.3))
    found = encode(setting, None, made)
    maker = CopyTransforms(transform, made)
    drawn = maker.draw(found.case_hashes()[1], 1)
    before, after = transform.transforms[:3], transform.transforms[4:]
    case = dict(cases[1])
    for step in before:
        case = step(case)
    case = DeformVolumed(("image", "label"), drawn.deformation, spacing_mm=(1, 1, 1), size=(16, 20, 16))(case)
    case["image"] = ((case["image"] + 1) / 2) ** drawn.gammas[0] * 2 - 1
    for step in after:
        case = step(case)
    entry = found[DrawnCase(1, seed_of(made, 1))]
    mean, _ = model.autoencoder.encode_moments(case["image"][None])
    assert torch.equal(entry["mean"], mean[0].detach())
    assert torch.equal(entry["label"].long(), case["label"].long())
    assert set(entry["label"].unique().tolist()) == {0, 1, 2}
    assert entry[VECTOR].tolist() == pytest.approx(list(drawn.vector))


def test_copies_are_the_same_alone_and_among_others(setting) -> None:
    made, (_, cases, _) = augmentation(), setting
    together, alone = encode(setting, None, made), encode(setting, None, made, cases=cases[1:2])
    for copy in range(3):
        seed = seed_of(made, copy)
        assert same(together[DrawnCase(1, seed)], alone[DrawnCase(0, seed)])


def test_two_processes_encode_a_part_of_the_cases_each_with_all_their_copies(
    setting, tmp_path, monkeypatch
) -> None:
    made = augmentation()
    expected = encode(setting, None, made)

    def encode_as(rank: int) -> LatentDataset:
        monkeypatch.setattr(latent_cache, "items_of_rank", lambda items: items[rank::2])
        return encode(setting, tmp_path, made)

    # What a process finds missing before it encodes: nobody waits for anybody here.
    with pytest.raises(MissingFileError, match="3 of 9 cached latents"):
        encode_as(0)
    found = encode_as(1)
    for index in range(3):
        for copy in range(3):
            drawn = DrawnCase(index, seed_of(made, copy))
            assert same(found[drawn], expected[drawn])


def n_encoded(caplog) -> int:
    return int(caplog.messages[-1].split(": ")[1].split()[0])


def test_copies_are_kept_until_what_is_done_to_them_changes(setting, tmp_path, caplog) -> None:
    caplog.set_level(logging.INFO)
    counts = []
    for made in (
        None,
        augmentation(),
        augmentation(),
        augmentation(copies=4),
        augmentation(seed=4),
        augmentation(AugmentationConfig(scale=0.2)),
        augmentation(AugmentationConfig(original_share=0.1)),
        augmentation(gammas=(0.1,)),
    ):
        encode(setting, tmp_path, made)
        counts.append(n_encoded(caplog))
    assert counts == [3, 6, 0, 3, 6, 6, 0, 6]


def test_epochs_draw_copies_again_and_a_placed_training_takes_the_same(setting) -> None:
    dataset = encode(setting, None, augmentation())

    def epochs(loader, n: int) -> list[list[float]]:
        return [
            [float(v) for batch in loader for v in batch["mean"].mean(dim=(1, 2, 3, 4))] for _ in range(n)
        ]

    straight = epochs(training_loader(dataset, batch_size=2, seed=5), 6)
    assert len({tuple(sorted(epoch)) for epoch in straight}) > 3
    assert epochs(training_loader(dataset, batch_size=2, seed=5), 6) == straight
    later = training_loader(dataset, batch_size=2, seed=5)
    later.batch_sampler.sampler.place(epoch=3)
    assert epochs(later, 3) == straight[3:]
    batch = next(iter(training_loader(dataset, batch_size=3, seed=5)))
    assert batch[VECTOR].shape == (3, augmentation().n_channels)


def test_a_condition_image_moves_with_the_image(make_cohort, make_model) -> None:
    model = make_model(("image",), image_intensity={"kind": "mr_percentile"})
    cases = [
        case | {"condition_image": case["image"]}
        for case in read_cohort(make_cohort(2), validation_fraction=0).training
    ]
    transform = case_transforms(model.space, model.conditioning_config)
    made = augmentation(condition_gamma=0.0, gammas=(0.0,))
    maker = CopyTransforms(transform, made)
    (copy,) = maker({"case": cases[0], "draws": [maker.draw("a", 1)]})
    assert torch.equal(copy["condition_image"], copy["image"])
    assert not torch.equal(copy["image"], transform(cases[0])["image"])


def test_a_flip_swaps_the_structures_that_the_schema_pairs(setting) -> None:
    _, cases, transform = setting
    still = {name: 0 for name in ("rotation_deg", "scale", "stretch", "translation", "elastic", "gamma")}
    made = augmentation(AugmentationConfig(**still), flip=True, mirror={1: 5, 5: 1}, gammas=(0.0,))
    maker = CopyTransforms(transform, made)
    contents = [str(i) for i in range(20)]
    flipped = next(drawn for c in contents if (drawn := maker.draw(c, 1)).deformation.flip)  # type: ignore[union-attr]
    (copy,) = maker({"case": cases[0], "draws": [flipped]})
    plain = transform(cases[0])["label"]
    expected = torch.tensor([0, 2, 1])[plain].flip(1)
    # The volume's 17 voxels become 16: its mirror image lies a voxel aside.
    assert torch.equal(copy["label"][:, 1:], expected[:, :-1]) or torch.equal(copy["label"], expected)


def test_a_case_that_cannot_be_loaded_is_quarantined_once_with_its_copies(setting, tmp_path) -> None:
    _, cases, _ = setting
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(b"no volume")
    bad = [*cases[:2], cases[2] | {"image": str(broken)}]
    quarantine = Quarantine(max_bad_share=0.5)
    found = encode(setting, tmp_path / "cache", augmentation(), cases=bad, quarantine=quarantine)
    assert quarantine.numbers == [2]
    assert all(isinstance(found[DrawnCase(2, seed)], BadCase) for seed in range(6))
    assert not isinstance(found[1], BadCase)


def test_transforms_that_crop_nowhere_cannot_be_augmented(setting) -> None:
    with pytest.raises(ConfigError, match="have no CentreCropOrPadd"):
        encode(setting, None, augmentation(), transform=lambda case: case)


def test_identity_without_a_deformation_is_the_case_to_the_bit(setting) -> None:
    _, cases, transform = setting
    still = {name: 0 for name in ("rotation_deg", "scale", "stretch", "translation", "elastic", "gamma")}
    maker = CopyTransforms(transform, augmentation(AugmentationConfig(**still), gammas=(0.0,)))
    drawn = maker.draw("a", 1)
    assert drawn is not None
    assert drawn.deformation == Deformation()
    original, copy = maker({"case": cases[0], "draws": [None, drawn]})
    assert torch.equal(original["image"], transform(cases[0])["image"])
    assert torch.equal(copy["label"], original["label"])
    np.testing.assert_allclose(copy["image"], original["image"], atol=1e-6)


def test_copies_of_label_maps_are_made_and_guarded_though_their_cases_name_an_image(make_cohort) -> None:
    cohort = read_cohort(make_cohort(3), validation_fraction=0.34)
    space = label_map_space((1.0, 1.0, 1.0), (12, 12, 12))
    transform = label_map_case_transforms(
        space, ConditioningConfig(conditioning_type=()), schema=cohort.schema
    )
    made = augmentation()
    maker = CopyTransforms(transform, made, is_guarded=True)
    copies = maker(
        {"case": cohort.training[0], "draws": [maker.draw("some case", copy) for copy in range(2)]}
    )
    for copy in copies:
        assert not isinstance(copy, BadCase)
        assert copy["image"].shape[1:] == (12, 12, 12)
        assert torch.equal(torch.as_tensor(copy["image"]).sum(0), torch.ones(12, 12, 12))
    assert not torch.equal(*(torch.as_tensor(copy["image"]) for copy in copies))
