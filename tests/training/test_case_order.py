"""The order of the cases: every case once, a function of seed and epoch, kept after a stop."""

from __future__ import annotations

import pytest

from medldm.training.case_order import EpochSampler


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


def test_no_cases_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        EpochSampler(0, seed=0)
