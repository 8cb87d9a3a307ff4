"""Conditions: presence, dropping and slicing."""

from __future__ import annotations

import torch

from medldm import Conditions

CPU = torch.device("cpu")


def test_a_name_without_values_is_absent_everywhere() -> None:
    assert Conditions({}).is_absent("class", 3, CPU).tolist() == [True] * 3


def test_dropping_adds_to_what_is_absent_and_leaves_the_original_alone() -> None:
    conditions = Conditions({"class": torch.arange(3)}, {"class": torch.tensor([True, False, False])})
    dropped = conditions.drop({"class": torch.tensor([False, False, True]), "text": torch.ones(3).bool()})
    assert dropped.is_absent("class", 3, CPU).tolist() == [True, False, True]
    assert conditions.is_absent("class", 3, CPU).tolist() == [True, False, False]
    assert "text" not in dropped.absent


def test_slices_take_values_and_masks_along() -> None:
    conditions = Conditions({"class": torch.arange(3)}, {"class": torch.tensor([True, False, False])})
    assert conditions[slice(1, 3)].values["class"].tolist() == [1, 2]
    assert conditions[slice(0, 2)].absent["class"].tolist() == [True, False]
