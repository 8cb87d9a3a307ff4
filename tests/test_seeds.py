"""What follows from a seed is promised to the bit: the values here are those of version 0.1."""

from __future__ import annotations

import inspect
import itertools
import random
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from medldm import seeds


def test_seeds_of_volumes_maps_and_attempts_are_those_of_earlier_versions() -> None:
    assert seeds.volume_seed(7, 3) == 2530781778362038830
    assert seeds.volume_seed(0, 0) == 7896617691693857887
    assert seeds.label_map_seed(7) == 5730826186778930994
    assert seeds.attempt_seed(7, 3, 1) == 7645226603002592135
    assert seeds.numbered_seed(7, 3) == 10
    assert seeds.dropout_seed(7, 3) == seeds.volume_seed(7, 3)


def test_seeds_of_cases_are_those_of_earlier_versions_and_below_two_to_the_32() -> None:
    assert seeds.case_seed(7, attempt=0, epoch=2, case=5) == 2687258636
    assert seeds.case_seed(-1, attempt=0, epoch=2, case=5) == 1102558197


def test_streams_are_those_of_earlier_versions() -> None:
    streams = [
        seeds.order_generator(7, attempt=0, epoch=2, start=5),
        seeds.demo_brain_generator(7, 3),
        seeds.demo_text_generator(7, 3),
        seeds.label_noise_generator(7),
    ]
    drawn = [int(stream.integers(2**32)) for stream in streams]
    assert drawn == [3105587274, 3126384070, 3084496849, 3737738445]


def test_the_rank_of_a_subject_is_that_of_earlier_versions() -> None:
    known = "90806abc7be997dbec8328f41c73bbeab7ef88f815cae3a6ed0f1de1e63584ec"
    assert seeds.subject_rank(7, "anna").hex() == known


def test_first_attempt_is_the_seed_itself_and_later_ones_follow_from_all_three() -> None:
    assert seeds.attempt_seed(7, 3, 0) == 7
    found = {seeds.attempt_seed(s, i, t) for s in (7, 8) for i in (3, 4) for t in (1, 2)}
    assert len(found) == 8 and all(seed >= 0 for seed in found)


MAKERS = {
    "volume_seed": lambda seed, index, _: seeds.volume_seed(seed, index),
    "label_map_seed": lambda seed, *_: seeds.label_map_seed(seed),
    "texture_seed": lambda seed, index, _: seeds.texture_seed(seed, index),
    "appearance_seed": lambda seed, *_: seeds.appearance_seed(seed),
    "texture_level_seed": lambda seed, *_: seeds.texture_level_seed(seed),
    "attempt_seed": lambda seed, index, attempt: seeds.attempt_seed(seed, index, max(1, attempt)),
    "case_seed": lambda seed, epoch, case: seeds.case_seed(seed, attempt=0, epoch=epoch, case=case),
    "order_generator": lambda seed, epoch, start: seeds.order_generator(
        seed, attempt=0, epoch=epoch, start=start
    ),
    "augmentation_generator": lambda seed, index, copy: seeds.augmentation_generator(
        seed, content=str(index), copy=copy
    ),
    "copy_generator": lambda seed, *_: seeds.copy_generator(seed),
    "demo_brain_generator": lambda seed, index, _: seeds.demo_brain_generator(seed, index),
    "demo_text_generator": lambda seed, index, _: seeds.demo_text_generator(seed, index),
    "label_noise_generator": lambda seed, *_: seeds.label_noise_generator(seed),
    "rounding_generator": lambda seed, index, _: seeds.rounding_generator(f"{seed:08x}{index:08x}"),
    "dropout_seed": lambda seed, index, _: seeds.dropout_seed(seed, index),
}
NOT_MIXED = {"seed_everything", "restart_noise", "numbered_seed", "subject_rank"}
"""They return the seed itself, a number near it, or a rank."""
NOISE = ("volume_seed", "label_map_seed", "texture_seed", "texture_level_seed", "attempt_seed")
"""What volumes begin from. The others draw orders, shapes and masks, and keep what they have ever drawn."""


def words_of(maker: str, monkeypatch: pytest.MonkeyPatch) -> set[tuple[int, ...]]:
    """Return all that a maker's numbers follow from, for seeds, indices and attempts at every limit."""
    found: set[tuple[int, ...]] = set()
    original = np.random.SeedSequence

    def listen(numbers: Sequence[int]) -> np.random.SeedSequence:
        words: list[int] = []
        for number in numbers:
            words += [number >> shift & 2**32 - 1 for shift in range(0, max(1, number.bit_length()), 32)]
        found.add((*words, *[0] * (4 - len(words))))
        return original(numbers)

    limits = (0, 1, 2, 3, 2**31 - 1, 2**31, 2**32 - 1)
    with monkeypatch.context() as patch:
        patch.setattr(np.random, "SeedSequence", listen)
        patch.setattr(np.random, "PCG64", lambda numbers: np.random.MT19937(listen(numbers)))
        for numbers in itertools.product(limits, limits, limits):
            MAKERS[maker](*numbers)
    return found


def test_noise_never_begins_where_any_other_noise_does(monkeypatch: pytest.MonkeyPatch) -> None:
    words = {name: words_of(name, monkeypatch) for name in NOISE}
    for one, other in itertools.combinations(NOISE, 2):
        assert not words[one] & words[other], (one, other)
    assert all(len(each) == 4 for found in words.values() for each in found)
    assert [len(words[name]) for name in NOISE] == [49, 7, 49, 7, 7 * 7 * 6]


def test_four_words_are_told_from_any_other_four() -> None:
    """The words are known for disjoint; that their mixture keeps them apart is NumPy's promise."""
    rng = np.random.default_rng(0)
    drawn = {tuple(rng.integers(0, 4, size=4).tolist()) for _ in range(4000)}
    pools = {tuple(np.random.SeedSequence(each).pool.tolist()) for each in drawn}
    assert len(pools) == len(drawn) == 256


def test_every_maker_of_seeds_is_known_here() -> None:
    made = {name for name, each in vars(seeds).items() if inspect.isfunction(each) and name[0] != "_"}
    assert made == {*MAKERS, *NOT_MIXED}


def test_label_maps_begin_from_other_noise_than_any_volume_of_their_seed() -> None:
    assert seeds.label_map_seed(7) not in {seeds.volume_seed(7, index) for index in range(1000)}


def test_texture_is_drawn_from_noise_that_no_volume_and_no_attempt_begins_from() -> None:
    assert seeds.texture_seed(7, 3) == 4168159850378333817
    found = {seeds.texture_seed(7, index) for index in range(50)}
    others = {seeds.attempt_seed(7, index, attempt) for index in range(50) for attempt in range(20)}
    others |= {seeds.volume_seed(7, index) for index in range(50)} | {seeds.label_map_seed(7)}
    assert len(found) == 50 and not found & others


def test_all_generators_of_the_process_follow_from_one_seed() -> None:
    def draw() -> tuple[float, float, float]:
        seeds.seed_everything(2**32 + 5)
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        first = draw()
        random.random(), np.random.rand(), torch.rand(3)
        assert draw() == first
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
