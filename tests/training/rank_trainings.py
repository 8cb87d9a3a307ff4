"""A training that several processes share, straight and stopped in between."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Events

from benchmarks.tiny_trainings import LENGTH
from medldm.runtime.distributed import barrier
from medldm.seeds import seed_everything
from medldm.training.handlers import TERMS
from medldm.training.resume.preemption import TrainingStopped
from tests.training.resume.training_states import everything


def smooth(make: Callable[..., Any], folder: Path, **keeping: Any) -> Any:
    """Build a training without Adam's division of tiny gradients by themselves, which magnifies rounding."""
    trainer = make(folder, **keeping)
    for step in trainer.optimiser_steps:
        for group in step.optimizer.param_groups:
            group["eps"] = 1e-2
    return trainer


def follow(trainer: Any) -> list[dict[str, float]]:
    """Return a list that receives the terms of each batch."""
    terms: list[dict[str, float]] = []
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED,
        lambda engine: terms.append({name: float(term) for name, term in engine.state.output[TERMS].items()}),
    )
    return terms


def straight_and_stopped(rank: int, make: Callable[..., Any], folder: Path) -> None:
    """Train straight, and another time with a signal to one process and then from the saved state."""
    trainer = make(folder / "straight")
    terms = follow(trainer)
    trainer.run()
    torch.save((terms, everything_of(trainer)), folder / f"straight_{rank}.pt")
    stopped = make(folder / "stopped")

    def stop(engine: Any) -> None:
        if rank == 1 and engine.state.iteration == LENGTH + 1:
            os.kill(os.getpid(), signal.SIGUSR1)

    stopped.add_event_handler(Events.ITERATION_STARTED, stop)
    with pytest.raises(TrainingStopped) as ending:
        stopped.run()
    if rank == 0:
        shutil.copytree(folder / "stopped", folder / "copied")
    barrier()
    seed_everything(99 + rank)
    last = make(folder / "stopped", resume="must")
    last.run()
    torch.save(
        (ending.value.exit_code, stopped.state.iteration, everything_of(last)), folder / f"stopped_{rank}.pt"
    )


def everything_of(trainer: Any) -> dict[str, Any]:
    """Return all tensors of a training's state, and when all have finished, what the first process wrote."""
    barrier()
    return {**everything(trainer), "plain": ""}


def load(file: Path) -> Any:
    return torch.load(file, weights_only=False)
