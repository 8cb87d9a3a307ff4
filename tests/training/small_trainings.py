"""Stop and kill the tiny trainings of the benchmarks."""

from __future__ import annotations

import pytest
from ignite.engine import Events


class Killed(BaseException):
    """Stands for a kill: nothing of the process survives."""


def run_killed_after(trainer, batches: int) -> None:
    """Run, and die after a number of batches; of two batches one is saved."""

    def die(engine) -> None:
        raise Killed

    trainer.add_event_handler(Events.ITERATION_COMPLETED(once=batches), die)
    with pytest.raises(Killed):
        trainer.run()
