"""A kill or a stop at any moment changes nothing of what a training leaves: states, history, checkpoints."""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from ignite.engine import Events

import benchmarks.tiny_trainings as tiny
from benchmarks.tiny_trainings import make_first_stage, make_second_stage
from medldm.latent_diffusion.checkpoints import load_checkpoint, read_card
from medldm.seeds import seed_everything
from medldm.training import TrainingLog, handlers
from medldm.training.resume.preemption import TrainingStopped
from medldm.training.resume.state_folders import StateFolders
from tests.training.resume.training_states import differences, everything
from tests.training.small_trainings import Killed, run_killed_after

MAKERS: dict[str, Callable[..., Any]] = {
    "vae": partial(make_first_stage, kind="vae", val_interval=2),
    "diffusion": partial(make_second_stage, val_interval=2),
    "augmented": partial(make_second_stage, val_interval=2, is_augmented=True),
}
"""The last of three epochs is validated although it is off the interval."""


class Moments:
    """Count the moments of a training, and act at one of them.

    Args:
        at: number of the moment from 0; -1 only counts.
        act: is called then.
    """

    def __init__(self, at: int = -1, act: Callable[[], None] = lambda: None) -> None:
        self.at, self.act = at, act
        self.names: list[str] = []

    def mark(self, name: str) -> None:
        self.names.append(name)
        if len(self.names) == self.at + 1:
            self.act()

    def around(self, monkeypatch, owner: Any, name: str) -> None:
        """Mark the moments before and after a function's work."""
        work = getattr(owner, name)

        def marked(*arguments: Any, **options: Any) -> Any:
            self.mark(f"before {name}")
            result = work(*arguments, **options)
            self.mark(f"after {name}")
            return result

        monkeypatch.setattr(owner, name, marked)

    def follow(self, monkeypatch, trainer: Any) -> None:
        """Mark batches, validations, and whatever is written."""
        evaluator = trainer.state_handler.evaluator
        for engine, kind in ((trainer, "training"), (evaluator, "validation")):
            for event in (Events.ITERATION_STARTED, Events.ITERATION_COMPLETED, Events.EPOCH_COMPLETED):
                engine.add_event_handler(event, lambda _, name=f"{kind} {event.value}": self.mark(name))
        self.around(monkeypatch, StateFolders, "save")
        self.around(monkeypatch, handlers, "save_checkpoint")
        self.around(monkeypatch, TrainingLog, "_write")


def left_by(trainer: Any, folder: Path) -> dict[str, Any]:
    """Return all that a finished training has left."""
    writer = trainer.state_handler.handlers[1]
    files = {file.name: file.read_bytes() for file in sorted(folder.glob("*.safetensors"))}
    return {**everything(trainer), **files, "writer": writer.state_dict()}


def run_straight(kind: str, folder: Path) -> dict[str, Any]:
    trainer = MAKERS[kind](folder)
    trainer.run()
    return left_by(trainer, folder)


def stop_and_go_on(kind: str, folder: Path, monkeypatch, *, at: int, how: str) -> dict[str, Any]:
    """Train with a kill or a signal at a moment, then run the same again."""
    trainer = MAKERS[kind](folder)

    def act() -> None:
        if how == "kill":
            raise Killed
        trainer.state_handler.signals.received = signal.SIGTERM

    with monkeypatch.context() as patch:
        Moments(at, act).follow(patch, trainer)
        with suppress(Killed, TrainingStopped):
            trainer.run()
    seed_everything(99)
    last = MAKERS[kind](folder)
    last.run()
    return left_by(last, folder)


def count_moments(kind: str, folder: Path, monkeypatch) -> list[str]:
    moments = Moments()
    with monkeypatch.context() as patch:
        trainer = MAKERS[kind](folder)
        moments.follow(patch, trainer)
        trainer.run()
    return moments.names


def check_moments(kind: str, how: str, tmp_path: Path, monkeypatch, *, every: int) -> None:
    straight = run_straight(kind, tmp_path / "straight")
    names = count_moments(kind, tmp_path / "counted", monkeypatch)
    assert {"after save", "after save_checkpoint", "before _write"} <= set(names)
    failed = {}
    for at in range(0, len(names), every):
        found = stop_and_go_on(kind, tmp_path / f"stopped_{at}", monkeypatch, at=at, how=how)
        if wrong := differences(straight, found):
            failed[f"{at}: {names[at]}"] = wrong
    assert failed == {}


@pytest.mark.parametrize("how", ["kill", "signal"])
def test_a_stop_at_some_moments_changes_nothing(tmp_path, monkeypatch, how) -> None:
    check_moments("vae", how, tmp_path, monkeypatch, every=13)


def test_a_kill_of_an_augmented_training_changes_nothing(tmp_path, monkeypatch) -> None:
    check_moments("augmented", "kill", tmp_path, monkeypatch, every=23)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "how", "every"),
    [("vae", "kill", 1), ("vae", "signal", 4), ("diffusion", "kill", 4), ("diffusion", "signal", 4)],
)
def test_a_stop_at_any_moment_changes_nothing(tmp_path, monkeypatch, kind, how, every) -> None:
    """Every moment of one training; of the others, which go the same ways, every fourth."""
    check_moments(kind, how, tmp_path, monkeypatch, every=every)


def with_losses(trainer: Any, losses: list[float]) -> Any:
    """Let validations give these losses, one after the other."""
    left = list(losses)

    def put(evaluator: Any) -> None:
        evaluator.state.metrics[evaluator.state.key_metric_name] = left.pop(0)

    trainer.state_handler.evaluator.add_event_handler(Events.EPOCH_COMPLETED, put)
    return trainer


def epochs_of(trainer: Any) -> list[int]:
    lines = everything(trainer)["history"]
    return [line["epoch"] for line in lines if line["stage"] == "validation"]


def test_a_longer_training_keeps_best_and_history_of_the_shorter(tmp_path, monkeypatch, caplog) -> None:
    """The last validation is off the interval; a better checkpoint must not give way to a worse one."""
    with_losses(make_second_stage(tmp_path, val_interval=2), [2.0, 1.0]).run()
    file = tmp_path / "latent_diffusion.safetensors"
    assert read_card(file)["training"]["epoch"] == tiny.EPOCHS == 3
    content = file.read_bytes()
    monkeypatch.setattr(tiny, "EPOCHS", 6)
    longer = with_losses(make_second_stage(tmp_path, val_interval=2), [1.5, 1.2])
    longer.run()
    assert file.read_bytes() == content
    assert longer.state_handler.handlers[1].best == 1.0
    assert epochs_of(longer) == [2, 3, 4, 6]
    assert "n_epochs is 6 here and was 3" in caplog.text


def test_better_weights_that_are_newer_than_the_state_stay(tmp_path, monkeypatch) -> None:
    """Killed after the checkpoint of a validation, then made longer, so that it is not validated again."""
    trainer = with_losses(make_second_stage(tmp_path, val_interval=2), [2.0, 1.0])
    evaluator = trainer.state_handler.evaluator

    def die(_: Any) -> None:
        if trainer.state.epoch == 3:
            raise Killed

    evaluator.add_event_handler(Events.COMPLETED, die)
    with pytest.raises(Killed):
        trainer.run()
    file = tmp_path / "latent_diffusion.safetensors"
    assert read_card(file)["training"]["epoch"] == 3
    monkeypatch.setattr(tiny, "EPOCHS", 6)
    longer = with_losses(make_second_stage(tmp_path, val_interval=2), [1.5, 1.2])
    longer.run()
    assert read_card(file)["training"]["epoch"] == 3
    assert longer.state_handler.handlers[1].best == 1.0


def test_a_training_that_begins_anew_replaces_what_the_former_left(tmp_path) -> None:
    with_losses(make_second_stage(tmp_path), [1.0, 1.0, 1.0]).run()
    again = with_losses(make_second_stage(tmp_path, resume="never"), [3.0, 2.0, 4.0])
    again.run()
    card = load_checkpoint(tmp_path / "latent_diffusion.safetensors").card["training"]
    assert (card["epoch"], card["validation_loss"]) == (2, 2.0)


def test_a_lost_checkpoint_of_the_best_weights_is_written_again(tmp_path, caplog) -> None:
    run_killed_after(with_losses(make_second_stage(tmp_path), [1.0, 3.0, 2.0]), 5)
    (tmp_path / "latent_diffusion.safetensors").unlink()
    with_losses(make_second_stage(tmp_path), [3.0, 2.0]).run()
    card = read_card(tmp_path / "latent_diffusion.safetensors")["training"]
    assert (card["epoch"], card["validation_loss"]) == (3, 2.0)


def test_how_often_is_validated_changes_no_batch(tmp_path) -> None:
    tensors = []
    for interval in (1, 3):
        trainer = make_first_stage(tmp_path / str(interval), kind="vae", val_interval=interval)
        trainer.run()
        tensors.append({k: v for k, v in everything(trainer).items() if k not in ("history", "plain")})
    assert differences(*tensors) == []


def test_a_validation_within_an_epoch_is_not_stopped_and_not_lost(tmp_path) -> None:
    """Only an epoch's end is run again; a signal in any other validation waits for the batch's end."""
    trainer = make_second_stage(tmp_path, val_interval=9)
    evaluator = trainer.state_handler.evaluator

    def told_to_stop(_: Any) -> None:
        if trainer.state.iteration == 4:
            trainer.state_handler.signals.received = signal.SIGTERM

    evaluator.add_event_handler(Events.ITERATION_STARTED, told_to_stop)
    # Before the state handler's own, as a user's handlers are.
    own = list(trainer._event_handlers[Events.ITERATION_COMPLETED])
    trainer._event_handlers[Events.ITERATION_COMPLETED].clear()
    trainer.add_event_handler(Events.ITERATION_COMPLETED(once=4), lambda _: evaluator.run())
    trainer._event_handlers[Events.ITERATION_COMPLETED].extend(own)
    with pytest.raises(TrainingStopped, match="after batch 4"):
        trainer.run()
    last = make_second_stage(tmp_path, val_interval=9)
    last.run()
    assert epochs_of(last) == [2, 3]
