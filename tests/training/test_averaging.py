"""The average of the weights follows its recursion."""

from __future__ import annotations

import pytest
import torch

from medldm.training import average_weights


def test_average_follows_its_recursion() -> None:
    module = torch.nn.Linear(1, 1, bias=False)
    average = average_weights(module, 0.9)
    expected = None
    for step, value in enumerate((1.0, 5.0, -2.0, 3.0)):
        torch.nn.init.constant_(module.weight, value)
        average.update_parameters(module)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = value if expected is None else decay * expected + (1 - decay) * value
        assert average.module.weight.item() == pytest.approx(expected)


def test_decay_0_keeps_the_latest_weights() -> None:
    module = torch.nn.Linear(1, 1)
    average = average_weights(module, 0.0)
    for value in (1.0, 5.0):
        torch.nn.init.constant_(module.weight, value)
        average.update_parameters(module)
    assert average.module.weight.item() == 5.0


def test_all_weights_at_once_give_the_numbers_of_one_after_the_other() -> None:
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Conv3d(2, 3, 3), torch.nn.BatchNorm3d(3))
    average = average_weights(module, 0.999)
    expected = None
    for n in range(20):
        for weight in module.parameters():
            weight.data.normal_()
        average.update_parameters(module)
        share = 1 - min(0.999, (1 + n) / (10 + n))
        pairs = zip(expected or module.parameters(), module.parameters(), strict=True)
        expected = [old.detach().lerp(new.detach(), share) for old, new in pairs]
        expected = [new.detach().clone() for new in module.parameters()] if n == 0 else expected
    assert all(torch.equal(*pair) for pair in zip(average.module.parameters(), expected, strict=True))
