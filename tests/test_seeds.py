"""What follows from a seed is promised to the bit: the values here are those of version 0.1."""

from __future__ import annotations

import random

import numpy as np
import torch

from medldm import seeds


def test_seeds_of_volumes_maps_and_attempts_are_those_of_earlier_versions() -> None:
    assert seeds.volume_seed(7, 3) == 2530781778362038830
    assert seeds.volume_seed(0, 0) == 7896617691693857887
    assert seeds.label_map_seed(7) == 5730826186778930994
    assert seeds.attempt_seed(7, 3, 1) == 6665335680343557524
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
