"""What a bundle names of a training that is put together."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from medldm.errors import ConfigError
from medldm.training import Training, trainer_of


@pytest.fixture
def training() -> Training:
    trainer = SimpleNamespace(state=SimpleNamespace(max_epochs=3))
    return Training(trainer=trainer, evaluator=None, handlers=[])


def test_the_trainer_is_that_of_the_training(training) -> None:
    assert trainer_of(training, max_epochs=3) is training.trainer


def test_epochs_that_the_training_was_not_put_together_for_are_refused(training) -> None:
    with pytest.raises(ConfigError, match=r"max_epochs is 4, but the training was put together for 3"):
        trainer_of(training, max_epochs=4)
