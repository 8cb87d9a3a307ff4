"""What of a trainer's data loader and steps a saved state must agree with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medldm.training.case_order import EpochSampler
from medldm.training.resume.resumable_trainer import START_ANEW
from medldm.training.resume.state_files import StateError


def sampler_of(trainer: Any) -> EpochSampler:
    """Return what draws a trainer's cases.

    Raises:
        TypeError: if its place in an epoch cannot be kept.
    """
    sampler = getattr(getattr(trainer.data_loader, "batch_sampler", None), "sampler", None)
    if not isinstance(sampler, EpochSampler):
        raise TypeError(
            f"the training's data loader draws with a {type(sampler).__name__}, whose place cannot be kept: "
            "make the loader with medldm.training.training_loader"
        )
    return sampler


def batch_size_of(trainer: Any) -> int:
    """Return the cases of a batch, of all processes together."""
    return trainer.data_loader.batch_sampler.batch_size


def cases_of_step(trainer: Any) -> list[int]:
    """Return the numbers of the cases of all batches of the step that just ended."""
    size, per_step = batch_size_of(trainer), trainer.optimiser_steps[0].accumulation_steps
    last = (trainer.state.iteration - 1) % trainer.state.epoch_length
    return sampler_of(trainer).cases(last // per_step * per_step * size, (last + 1) * size)


def describe_setting(trainer: Any) -> dict[str, int]:
    """Return what must be equal for the state of one run to fit another."""
    return {
        "number of training cases": len(sampler_of(trainer)),
        "batch_size": batch_size_of(trainer),
        "accumulation_steps": trainer.optimiser_steps[0].accumulation_steps,
        "seed": sampler_of(trainer).seed,
    }


def check_setting(saved: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Refuse a state whose setting is not this training's.

    Raises:
        StateError: naming what differs.
    """
    differing = [
        f"{name} is {own[name]} here and {saved.get(name)} there"
        for name in own
        if saved.get(name) != own[name]
    ]
    if differing:
        raise StateError(f"the saved state is of another training ({'; '.join(differing)}): {START_ANEW}")
