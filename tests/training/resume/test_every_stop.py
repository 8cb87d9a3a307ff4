"""A kill or a stop at any moment changes nothing of what a training leaves: states, history, checkpoints."""

from __future__ import annotations

import hashlib
import shutil
import signal
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from ignite.engine import Events

import benchmarks.tiny_trainings as tiny
from benchmarks.tiny_trainings import EPOCHS, LENGTH, make_first_stage, make_second_stage
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
    """Count the moments of a training, and act at each.

    Args:
        act: is called with a moment's number, from 0.
    """

    def __init__(self, act: Callable[[int], None] = lambda number: None) -> None:
        self.act = act
        self.names: list[str] = []

    def mark(self, name: str) -> None:
        self.names.append(name)
        self.act(len(self.names) - 1)

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


def train_along(kind: str, folder: Path, monkeypatch, moments: Moments) -> dict[str, Any]:
    """Train straight, marking moments, and return what that has left."""
    with monkeypatch.context() as patch:
        trainer = MAKERS[kind](folder)
        moments.follow(patch, trainer)
        trainer.run()
    assert {"after save", "after save_checkpoint", "before _write"} <= set(moments.names)
    return left_by(trainer, folder)


def go_on(kind: str, folder: Path) -> dict[str, Any]:
    """Run what was stopped again, and return what that has left."""
    seed_everything(99)
    last = MAKERS[kind](folder)
    last.run()
    return left_by(last, folder)


def digest_of(folder: Path) -> str:
    """Return a hash of all files but TensorBoard's, which no training reads."""
    total = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        if file.is_file() and not file.name.startswith("events."):
            total.update(f"{file.relative_to(folder)}:{file.stat().st_size}:".encode() + file.read_bytes())
    return total.hexdigest()


def check_kills(kind: str, tmp_path: Path, monkeypatch, *, every: int = 1) -> None:
    """Go on from what a kill would leave at each moment; of moments that leave the same files, from one."""
    folder = tmp_path / "straight"
    kept: dict[str, Path] = {}

    def keep(number: int) -> None:
        if (digest := digest_of(folder)) not in kept:
            kept[digest] = tmp_path / f"killed_{number}"
            shutil.copytree(folder, kept[digest])

    moments = Moments(keep)
    straight = train_along(kind, folder, monkeypatch, moments)
    assert len(kept) > EPOCHS * LENGTH
    failed = {}
    for copy in list(kept.values())[::every]:
        if wrong := differences(straight, go_on(kind, copy)):
            failed[f"{copy.name}: {moments.names[int(copy.name.split('_')[1])]}"] = wrong
    assert failed == {}


def check_signals(kind: str, tmp_path: Path, monkeypatch, *, every: int) -> None:
    """Send a signal at some moments, each in a training of its own, and go on."""
    moments = Moments()
    straight = train_along(kind, tmp_path / "straight", monkeypatch, moments)
    failed = {}
    for at in range(0, len(moments.names), every):
        folder = tmp_path / f"stopped_{at}"
        trainer = MAKERS[kind](folder)

        def act(number: int, trainer: Any = trainer, at: int = at) -> None:
            if number == at:
                trainer.state_handler.signals.received = signal.SIGTERM

        with monkeypatch.context() as patch:
            Moments(act).follow(patch, trainer)
            with suppress(TrainingStopped):
                trainer.run()
        if wrong := differences(straight, go_on(kind, folder)):
            failed[f"{at}: {moments.names[at]}"] = wrong
    assert failed == {}


def test_a_kill_at_some_moments_changes_nothing(tmp_path, monkeypatch) -> None:
    check_kills("vae", tmp_path, monkeypatch, every=9)


def test_a_signal_at_some_moments_changes_nothing(tmp_path, monkeypatch) -> None:
    check_signals("vae", tmp_path, monkeypatch, every=23)


def test_a_kill_of_an_augmented_training_changes_nothing(tmp_path, monkeypatch) -> None:
    check_kills("augmented", tmp_path, monkeypatch, every=9)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["vae", "diffusion"])
def test_a_kill_at_any_moment_changes_nothing(tmp_path, monkeypatch, kind) -> None:
    check_kills(kind, tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["vae", "diffusion"])
def test_a_signal_at_any_fourth_moment_changes_nothing(tmp_path, monkeypatch, kind) -> None:
    check_signals(kind, tmp_path, monkeypatch, every=4)


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
