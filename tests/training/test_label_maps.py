"""The first stage of label maps: transforms, one-hot networks, overlap, and that it learns."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import pytest
import torch
from monai.data import Dataset
from monai.metrics import DiceMetric

from medldm.conditioning import ConditioningConfig
from medldm.data.labels import LabelSchema
from medldm.data.overlap import count_overlap
from medldm.latent_diffusion.label_maps import (
    build_label_map_autoencoder,
    decode_indices,
    describe_with_schema,
    encode_one_hot,
    label_map_space,
    schema_of,
)
from medldm.latent_diffusion.model_files import load_autoencoder
from medldm.training import AutoencoderTrainingConfig, RunConfig, build_autoencoder_training, open_cohort
from medldm.training.label_maps import (
    LabelMapEvaluator,
    OneHotInferer,
    label_map_case_transforms,
    label_map_transforms,
    overlap_metrics,
    to_grey,
)
from medldm.training.losses.label_maps import LabelMapLoss

SCHEMA = LabelSchema(structures={1: "shell", 5: "core"})
SMALL = {"down_channels": (4, 8), "n_groups": 4, "mid_attention": False, "n_res_blocks": 1}


def maps(n: int = 4) -> list[dict[str, torch.Tensor]]:
    grid = torch.stack(torch.meshgrid(*[torch.linspace(-1, 1, 16)] * 3, indexing="ij")).norm(dim=0)
    return [
        {"image": ((grid < 0.7 + 0.05 * i).byte() + (grid < 0.4 + 0.05 * i).byte())[None]} for i in range(n)
    ]


def test_both_transforms_see_the_same_map_as_indices_and_as_one_hot(make_cohort) -> None:
    cohort = open_cohort(str(make_cohort(3)), validation_fraction=0.0, seed=0)
    case, space = cohort.training[0], label_map_space((1.0, 1.0, 1.0), (17, 18, 20))
    as_indices = label_map_transforms(space, schema=SCHEMA)(case)
    config = ConditioningConfig(
        conditioning_type=("scalars",), scalars={"volume_ml:core": (0.0, 1.0), "age": (0.0, 1.0)}
    )
    encoded = label_map_case_transforms(space, config, schema=SCHEMA)(case)
    assert as_indices["image"].dtype == torch.uint8
    assert set(as_indices) == {"image", "label"}
    assert as_indices["image"].shape == (1, 17, 18, 20)
    assert as_indices["image"].unique().tolist() == [0, 1, 2]
    assert encoded["image"].shape == (3, 17, 18, 20)
    assert torch.equal(encoded["image"].sum(0), torch.ones(17, 18, 20))
    assert torch.equal(encoded["image"].argmax(0), as_indices["image"][0].long())
    assert encoded["volume_ml:core"].item() == pytest.approx(case["scalars"]["volume_ml:core"])
    assert bool(encoded["absent:age"])
    assert not bool(encoded["absent:volume_ml:core"])


def test_the_image_of_a_case_is_not_read(make_cohort) -> None:
    folder = make_cohort(2)
    case = {"image": str(folder / "nowhere.nii.gz"), "label": str(folder / "labels" / "case_0.nii.gz")}
    space = label_map_space((1.0, 1.0, 1.0), (16, 16, 16))
    assert label_map_transforms(space, schema=SCHEMA)(case)["image"].any()


def test_patches_are_parts_of_the_map(make_cohort) -> None:
    case = {"label": str(make_cohort(1) / "labels" / "case_0.nii.gz")}
    space = label_map_space((1.0, 1.0, 1.0), (17, 18, 20))
    whole = label_map_transforms(space, schema=SCHEMA)(case)["image"][0].numpy()
    patch = label_map_transforms(space, schema=SCHEMA, patch_size=(8, 9, 10), seed=3)(case)["image"][0]
    windows = np.lib.stride_tricks.sliding_window_view(whole, (8, 9, 10))
    assert (windows == patch.numpy()).all(axis=(3, 4, 5)).any()


def test_the_inferer_gives_the_network_one_hot_volumes(generator) -> None:
    indices = torch.randint(3, (2, 1, 4, 5, 6), generator=generator, dtype=torch.uint8)
    volume = OneHotInferer(3)(indices, lambda one_hot: one_hot)
    assert volume.shape == (2, 3, 4, 5, 6)
    assert torch.equal(decode_indices(volume), indices)


def test_overlap_counts_agree_with_monai_and_with_a_confusion_by_hand(generator) -> None:
    prediction, truth = (torch.randint(4, (2, 1, 5, 6, 7), generator=generator) for _ in range(2))
    counts = count_overlap(prediction, truth, 4)
    by_hand = [
        [((prediction == k) & (truth == k)).sum(), (prediction == k).sum(), (truth == k).sum()]
        for k in range(4)
    ]
    assert counts.tolist() == torch.tensor(by_hand).double().tolist()
    # MONAI's Dice of one case that holds both.
    both = [encode_one_hot(torch.cat(list(part), dim=1)[None], 4) for part in (prediction, truth)]
    dice = DiceMetric(reduction="none")(*both)[0]
    assert torch.allclose((2 * counts[:, 0] / (counts[:, 1] + counts[:, 2])).float(), dice)


def test_metrics_pool_the_voxels_of_all_batches() -> None:
    from ignite.engine import Engine

    outputs = [
        {"counts": torch.tensor([[6.0, 6, 7], [1, 1, 1], [0, 1, 0]]).double()},
        {"counts": torch.tensor([[5.0, 6, 5], [1, 2, 3], [0, 0, 0]]).double()},
    ]
    engine = Engine(lambda _, batch: batch)
    for name, metric in overlap_metrics(["shell", "left core"]).items():
        metric.attach(engine, name)
    for _ in range(2):  # a second validation starts from nothing
        metrics = engine.run(outputs).metrics
    assert metrics["accuracy"] == pytest.approx(13 / 16)
    assert metrics["dice_shell"] == pytest.approx(2 * 2 / (3 + 4))
    assert metrics["volume_ratio_shell"] == pytest.approx(3 / 4)
    assert metrics["dice_left_core"] == 0.0
    assert metrics["dice"] == pytest.approx((4 / 7 + 0) / 2)


def test_indices_are_spread_over_the_grey_values() -> None:
    assert to_grey(torch.tensor([0, 1, 2, 4]), 5).tolist() == [-1.0, -0.5, 0.0, 1.0]


def train(tmp_path, *, epochs: int, **options):
    torch.manual_seed(0)
    training = build_autoencoder_training(
        build_label_map_autoencoder(SCHEMA, **SMALL),
        Dataset(maps()),
        validation_set=Dataset(maps(1)),
        loss=LabelMapLoss(),
        space=label_map_space((1, 1, 1), (16, 16, 16)),
        inferer=OneHotInferer(3),
        make_evaluator=partial(LabelMapEvaluator, schema=SCHEMA),
        extend_card=partial(describe_with_schema, schema=SCHEMA),
        config=AutoencoderTrainingConfig(
            n_epochs=epochs, learning_rate=1e-2, warmup_steps=1, ema_decay=0.9, **options
        ),
        run=RunConfig(output_dir=str(tmp_path), batch_size=2),
    )
    training.trainer.run()
    return training.trainer.average.module.eval(), training.evaluator


def test_the_first_stage_learns_and_its_file_alone_gives_the_stated_dice(tmp_path) -> None:
    _, evaluator = train(tmp_path, epochs=20)
    lines = (tmp_path / "logs" / "autoencoder" / "history.jsonl").read_text().splitlines()
    history = [json.loads(line) for line in lines]
    losses = [line["cross_entropy"] for line in history if line["stage"] == "train"]
    assert losses[-1] < 0.5 * losses[0]
    dices = [line["dice"] for line in history if line["stage"] == "validation"]
    assert evaluator.state.metrics["dice"] == dices[-1] > 0.7
    network, checkpoint = load_autoencoder(tmp_path / "autoencoder.safetensors")
    assert schema_of(checkpoint).structures == SCHEMA.structures
    indices = maps(1)[0]["image"][None]
    mean, _ = network.encode_moments(encode_one_hot(indices, 3))
    counts = count_overlap(decode_indices(network.decode(mean)), indices, 3)
    dice = (2 * counts[1:, 0] / (counts[1:, 1] + counts[1:, 2])).mean()
    assert dice.item() == pytest.approx(max(dices), abs=1e-6)


def test_the_first_stage_runs_in_bfloat16_with_accumulation(tmp_path) -> None:
    network, _ = train(tmp_path, epochs=1, precision="bfloat16", accumulation_steps=2)
    assert all(torch.isfinite(weight).all() for weight in network.state_dict().values())
