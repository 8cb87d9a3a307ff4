"""Conditions of a sampling: kept by value, with nulls where a pass or the sample lacks them."""

from __future__ import annotations

import torch

from medldm import Conditions
from medldm.conditioning import ConditionEncoder
from medldm.sampling.conditions import SamplingConditions

ALL, NULL = frozenset({"class", "label_map"}), frozenset()


def make_conditions() -> Conditions:
    maps = torch.randint(0, 3, (2, 1, 16, 20, 16), generator=torch.Generator().manual_seed(1))
    return Conditions({"class": torch.tensor([0, 2]), "label_map": maps})


def test_equal_passes_are_joined_once_whoever_made_them(make_model) -> None:
    told = SamplingConditions(make_model().denoiser.conditioning, make_conditions())
    x = torch.zeros(4, 3, 4, 5, 4)
    first = told.in_passes((NULL, ALL), x)
    assert told.in_passes((frozenset(), frozenset({"label_map", "class"})), x.clone()) is first
    assert told.in_passes((ALL, NULL), x) is not first
    assert told.in_passes((ALL,), x[:2]).tokens is not first.tokens


def test_rows_are_told_what_a_batch_of_their_own_would_be(make_model) -> None:
    encoder: ConditionEncoder = make_model().denoiser.conditioning
    conditions = make_conditions()
    conditions = Conditions(conditions.values, {"class": torch.tensor([True, False])})
    x = torch.zeros(6, 3, 4, 5, 4)
    passes = (NULL, ALL, frozenset({"label_map"}))
    told = SamplingConditions(encoder, conditions).in_passes(passes, x)
    for number, group in enumerate(passes):
        drop = {name: torch.full((2,), name not in group) for name in ALL}
        alone = encoder(conditions, batch_size=2, latent_size=x.shape[2:], drop=drop)
        rows = slice(2 * number, 2 * number + 2)
        assert torch.equal(told.tokens[rows], alone.tokens)
        assert torch.equal(told.spatial[rows], alone.spatial)
