"""Steps make whole epochs."""

from __future__ import annotations

import math

import pytest

from medldm.errors import ConfigError
from medldm.training.length import DEFAULT_STEPS, count_epochs, steps_per_epoch


@pytest.mark.parametrize(
    ("n_cases", "batch_size", "accumulation"), [(1, 8, 1), (180, 8, 1), (5, 2, 2), (7, 1, 3)]
)
@pytest.mark.parametrize("n_steps", [1, 17, 1000])
def test_the_epochs_are_the_fewest_that_hold_the_steps(n_cases, batch_size, accumulation, n_steps) -> None:
    of_epoch = math.ceil(math.ceil(n_cases / batch_size) / accumulation)
    assert steps_per_epoch(n_cases, batch_size, accumulation) == of_epoch
    found = count_epochs(
        n_steps=n_steps,
        n_epochs=None,
        cases=range(n_cases),
        batch_size=batch_size,
        accumulation_steps=accumulation,
    )
    assert (found - 1) * of_epoch < n_steps <= found * of_epoch


def test_epochs_stay_epochs_and_there_is_a_default() -> None:
    assert count_epochs(n_steps=None, n_epochs=7, cases=range(10), batch_size=2) == 7
    assert count_epochs(n_steps=None, n_epochs=None, cases=range(10), batch_size=1) == DEFAULT_STEPS // 10


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"n_steps": 5, "n_epochs": 2}, "n_steps is 5 and n_epochs is 2: both say"),
        ({"n_steps": 0, "n_epochs": None}, "n_steps is 0"),
        ({"n_steps": None, "n_epochs": 1.5}, r"n_epochs is 1\.5"),
    ],
)
def test_a_length_that_cannot_be_is_refused(given, message) -> None:
    with pytest.raises(ConfigError, match=message):
        count_epochs(**given, cases=range(10), batch_size=2)
