"""The learning rate of a training from weights, where the user leaves it open."""

from __future__ import annotations

import logging

import pytest

from medldm.errors import ConfigError
from medldm.training.warm_start import StartCheckpoint, choose_rates

START = StartCheckpoint(stage="diffusion", path="a", file_sha256="0", card={}, weights=None)


def test_from_nothing_the_rates_are_those_of_before(caplog) -> None:
    with caplog.at_level(logging.INFO):
        found = choose_rates(default_rate=1e-3)
    assert (found.learning_rate, found.warmup_steps) == (1e-3, 100)
    assert not caplog.text


def test_from_weights_the_rate_is_a_third_and_the_log_says_so(caplog) -> None:
    with caplog.at_level(logging.INFO):
        found = choose_rates(default_rate=3e-4, start=START)
    assert found.learning_rate == pytest.approx(1e-4)
    assert found.warmup_steps == 500
    assert "learning_rate 0.0001 (0.0003 from nothing) after 500 warm-up steps" in caplog.text


def test_what_the_user_says_is_taken(caplog) -> None:
    with caplog.at_level(logging.INFO):
        found = choose_rates(default_rate=1e-3, learning_rate=5e-3, warmup_steps=0, start=START)
    assert (found.learning_rate, found.warmup_steps) == (5e-3, 0)
    assert not caplog.text
    with pytest.raises(ConfigError, match="warmup_steps is 'soon': auto, or a number"):
        choose_rates(default_rate=1e-3, warmup_steps="soon")  # type: ignore[arg-type]
