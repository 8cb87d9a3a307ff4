"""The average of the weights follows its recursion."""

from __future__ import annotations

import pytest
import torch

from medldm.errors import ConfigError
from medldm.training import average_weights
from medldm.training.averaging import power_of


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


@pytest.mark.parametrize("length", [0.05, 0.1, 0.15, 0.25])
def test_a_power_function_average_weighs_as_its_closed_form(length: float) -> None:
    """Weights of the values 1..t are (i^(gamma + 1) - (i - 1)^(gamma + 1)) / t^(gamma + 1)."""
    power = power_of(length) + 1
    assert (power_of(length) + 1) / ((power_of(length) + 2) ** 2 * (power_of(length) + 3)) == pytest.approx(
        length**2
    )
    n = 60
    module = torch.nn.Linear(n, 1, bias=False).double()
    average = average_weights(module, 0.999, length=length)
    for step in range(n):
        with torch.no_grad():
            module.weight.copy_(torch.eye(n, dtype=torch.float64)[step : step + 1])
        average.update_parameters(module)
    weights = average.module.weight[0].detach()
    edges = (torch.arange(n + 1, dtype=torch.float64) / n) ** power
    torch.testing.assert_close(weights, edges.diff(), rtol=0, atol=1e-12)
    assert weights.sum().item() == pytest.approx(1)


def test_the_width_is_the_share_of_the_training_that_was_asked_for() -> None:
    times = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    for length in (0.05, 0.1, 0.2):
        weights = times ** power_of(length)
        weights /= weights.sum()
        mean = (weights * times).sum()
        assert (weights * (times - mean) ** 2).sum().sqrt().item() == pytest.approx(length, rel=1e-3)


@pytest.mark.parametrize("length", [0.0, 0.28, -1])
def test_a_width_that_no_power_has_is_refused(length: float) -> None:
    with pytest.raises(ConfigError, match="ema_length is"):
        power_of(length)
