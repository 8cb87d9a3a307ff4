"""The order of the cases: every case once, a function of seed and epoch, kept after a stop."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from monai.data import Dataset
from monai.transforms import Compose, RandomizableTransform
from torch.utils.data import default_collate

from medldm.training.data_order import EpochSampler, training_loader


def passes(sampler: EpochSampler, n: int) -> list[list[int]]:
    return [[int(case) for case in sampler] for _ in range(n)]


def test_every_epoch_has_every_case_in_an_order_of_its_own() -> None:
    orders = passes(EpochSampler(50, seed=1), 3)
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3
    assert passes(EpochSampler(50, seed=1), 3) == orders
    assert passes(EpochSampler(50, seed=2), 3) != orders
    assert passes(EpochSampler(5, seed=1, shuffle=False), 2) == [[0, 1, 2, 3, 4]] * 2


def test_a_placed_sampler_gives_the_rest_of_the_epoch_and_then_the_next() -> None:
    orders = passes(EpochSampler(10, seed=1), 3)
    first = EpochSampler(10, seed=1)
    passes(first, 2)
    other = EpochSampler(10, seed=1)
    other.load_state_dict(first.state_dict())
    other.place(epoch=1, start=4)
    assert passes(other, 2) == [orders[1][4:], orders[2]]


def test_another_order_of_the_rest_still_has_every_case_once() -> None:
    sampler = EpochSampler(30, seed=1)
    (order,) = passes(sampler, 1)
    sampler.place(epoch=0, start=10)
    sampler.reorder(1)
    rest, after = passes(sampler, 2)
    assert sorted(order[:10] + rest) == list(range(30))
    assert rest != order[10:]
    assert after != passes(EpochSampler(30, seed=1), 2)[1]
    assert sampler.state_dict()["attempt"] == 1
    other = EpochSampler(30, seed=1)
    sampler.place(epoch=0, start=10)
    sampler._tails = [[0, 0], [10, 1]]
    other.load_state_dict(sampler.state_dict())
    other.place(epoch=0, start=15)
    assert passes(other, 1)[0] == rest[5:]
    assert other.cases(10, 15) == rest[:5]


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


def test_no_cases_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        EpochSampler(0, seed=0)
