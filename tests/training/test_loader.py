"""The training's loader: random transforms follow from seed, epoch and case alone."""

from __future__ import annotations

import random

import numpy as np
import torch
from monai.data import Dataset
from monai.transforms import Compose, RandomizableTransform
from torch.utils.data import default_collate

from medldm.training.case_order import EpochSampler
from medldm.training.loader import training_loader


class Draws(RandomizableTransform):
    """Return numbers from every generator a transform may use."""

    def __call__(self, case):
        return torch.tensor(
            [case, self.R.rand(), np.random.rand(), random.random(), torch.rand(()).item()],
            dtype=torch.float64,
        )


def draw(num_workers: int, epochs: int = 2) -> torch.Tensor:
    loader = training_loader(
        Dataset(list(range(4)), Compose([Draws()])),
        batch_size=2,
        seed=5,
        num_workers=num_workers,
        collate_fn=default_collate,
    )
    return torch.cat([batch for _ in range(epochs) for batch in loader])


def test_random_transforms_follow_from_seed_epoch_and_case_alone() -> None:
    torch.manual_seed(0)
    alone = draw(0)
    torch.manual_seed(1)
    assert torch.equal(draw(1), alone)
    by_case = sorted(alone.tolist())
    assert len({row[1] for row in by_case}) == 8
    sampler = EpochSampler(4, seed=5)
    sampler.place(epoch=1)
    seeds = {int(case): case.seed for case in sampler}
    row = next(row for row in alone[4:].tolist() if row[0] == 2)
    assert row[3] == random.Random(seeds[2]).random()


def test_loading_leaves_the_generators_of_the_training_alone() -> None:
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    draw(0)
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]
