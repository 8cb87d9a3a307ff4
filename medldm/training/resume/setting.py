"""What of a trainer's data loader and steps a saved state must agree with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from medldm.training.case_order import EpochSampler
from medldm.training.identity import TrainingIdentity
from medldm.training.resume.resumable_trainer import START_ANEW
from medldm.training.resume.state_files import StateError

_ABSENT = "absent"
_MOST_NAMED, _LONGEST = 8, 80


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


def describe_setting(trainer: Any, identity: TrainingIdentity | None = None) -> dict[str, Any]:
    """Return what must be equal for the state of one run to fit another, by name.

    Args:
        trainer: whose loader and steps are looked at.
        identity: of the training; None for the loader and the steps alone.
    """
    return {
        **({} if identity is None else identity.values),
        "number of training cases": len(sampler_of(trainer)),
        "batch_size": batch_size_of(trainer),
        "accumulation_steps": trainer.optimiser_steps[0].accumulation_steps,
        "seed": sampler_of(trainer).seed,
    }


def check_setting(saved: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Refuse a state whose setting is not this training's.

    Raises:
        StateError: naming what differs, with both values.
    """
    names = [name for name in {**own, **saved} if own.get(name, _ABSENT) != saved.get(name, _ABSENT)]
    # Transforms repeat the space and the conditions; they are named where nothing else says it.
    names = [name for name in names if " transforms" not in name] or names
    differing = [_word(name, own.get(name, _ABSENT), saved.get(name, _ABSENT)) for name in names]
    if differing:
        more = "" if len(differing) <= _MOST_NAMED else f"; and {len(differing) - _MOST_NAMED} more"
        raise StateError(
            f"the saved state is of another training ({'; '.join(differing[:_MOST_NAMED])}{more}): "
            f"{START_ANEW}"
        )


def _word(name: str, own: Any, saved: Any) -> str:
    if name.endswith(" cases") and isinstance(own, list) and isinstance(saved, list):
        return _word_cases(name, own, saved)
    here, there = (_ABSENT if value == _ABSENT else f"{value!s:.{_LONGEST}}" for value in (own, saved))
    return f"{name} is {here} here and {there} there"


def _word_cases(name: str, own: list[str], saved: list[str]) -> str:
    if len(own) != len(saved):
        return f"there are {len(own)} {name} here and {len(saved)} there"
    n_others = sum((Counter(own) - Counter(saved)).values())
    if n_others == 0:
        return f"the {name} are in another order"
    return f"the {name} are others: {n_others} of {len(own)} differ"
