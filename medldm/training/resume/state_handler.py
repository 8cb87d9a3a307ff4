"""Go on where a training stopped: bit for bit, after a kill at any moment.

The state after a batch is everything that the next batch depends on. It is saved before anything of an
epoch's end has run (validation, checkpoints); a training that goes on from an epoch's last batch runs the
epoch's end first. It is saved again when the training has ended, after its last validation, so that a
training that is made longer knows of it.

Of several processes the first one saves, since all have the same state.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events

from medldm.errors import ConfigError, MedldmError
from medldm.runtime.distributed import barrier, broadcast_from_first, is_main_process
from medldm.runtime.output_lock import locked_output
from medldm.training.batches import has_common_batch
from medldm.training.identity import TrainingIdentity
from medldm.training.quarantine import FOUND, Quarantine
from medldm.training.resume.divergence import DivergenceConfig, DivergenceGuard, RollBackError
from medldm.training.resume.preemption import StopSignals, TrainingStopped
from medldm.training.resume.random_state import capture_random_state, restore_random_state
from medldm.training.resume.resumable_trainer import HasState, ResumableTrainer
from medldm.training.resume.setting import (
    batch_size_of,
    cases_of_step,
    check_setting,
    describe_setting,
    sampler_of,
)
from medldm.training.resume.state_files import StateError
from medldm.training.resume.state_folders import SavedState, StateFolders

logger = logging.getLogger(__name__)

RESUME = ("auto", "never", "must")
_LONGEST_SHARE = 0.01
_LIGHT = ("training", "handlers", "random")
"""The parts of a state that an epoch's end changes."""


class TrainingStateHandler:
    """Save a trainer's state, go on from it, end on signals, and roll back when numbers go wrong.

    Attach it last, after the handlers whose state it keeps.

    Args:
        directory: of the state folders of this stage, such as outputs/state/autoencoder.
        resume: "auto" goes on from the newest state if there is one, "must" refuses to begin without one,
            "never" moves states that are there out of the way and begins anew.
        handlers: with `state_dict` and `load_state_dict`, such as `TrainingLog` and `CheckpointWriter`.
        evaluator: the validation engine; a signal ends it at once.
        every_minutes: between two savings; longer where saving would take over 1 % of the time.
        every_steps: batches between two savings, beside the minutes; None for the minutes alone.
        keep: states to keep, at least 2.
        divergence: how many bad steps are borne.
        quarantine: that of the training's data loader; its cases are saved, and named at the end.
        identity: of the training; a state of another one is refused.
        output_dir: the folder that the training writes into, which no other run may write into meanwhile;
            None for `directory`.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        resume: str = "auto",
        handlers: Sequence[HasState] = (),
        evaluator: Engine | None = None,
        every_minutes: float = 10.0,
        every_steps: int | None = None,
        keep: int = 2,
        divergence: DivergenceConfig | None = None,
        quarantine: Quarantine | None = None,
        identity: TrainingIdentity | None = None,
        output_dir: str | Path | None = None,
    ) -> None:
        if resume not in RESUME:
            raise ConfigError(f"resume is {resume!r}: choose from {list(RESUME)}")
        self.folders = StateFolders(directory, keep=keep)
        self.output_dir = Path(directory if output_dir is None else output_dir)
        self.resume = resume
        self.handlers = list(handlers)
        self.evaluator = evaluator
        self.every_seconds = 60 * every_minutes
        self.every_steps = every_steps
        self.guard = DivergenceGuard(divergence)
        self.quarantine = quarantine or Quarantine()
        self.signals = StopSignals()
        self.identity = identity
        self._saved_step: int | None = None
        self._has_saved_end = False
        self._saved_at = time.monotonic()
        self._seconds_of_a_save = 0.0
        self._is_rolling_back = False
        self._at_epoch_end: dict[str, Any] | None = None
        self._epoch_end = 0
        self._n_epochs = 0

    def attach(self, trainer: Any) -> None:
        """Keep a `ResumableTrainer`.

        Raises:
            TypeError: if it is none.
        """
        if not isinstance(trainer, ResumableTrainer):
            raise TypeError(f"a {type(trainer).__name__} cannot be kept: make it a ResumableTrainer")
        trainer.state_handler = self
        engine: Any = trainer
        self._n_epochs = engine.state.max_epochs  # patience may make it fewer on the way
        engine.add_event_handler(Events.STARTED, self._begin)
        engine.add_event_handler(Events.ITERATION_STARTED, self._before_batch)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._after_batch)
        engine.add_event_handler(Events.COMPLETED, self._end)
        if self.evaluator is not None:
            self.evaluator.add_event_handler(Events.ITERATION_COMPLETED, self._during_validation, trainer)

    def alone(self) -> AbstractContextManager[None]:
        """Return a context in which no other run may write into the training's output folder."""
        return locked_output(self.output_dir, work="training")

    def run(self, run: Callable[[], None]) -> None:
        """Run a trainer's loop, again from the last saved state after each roll back.

        Raises:
            TrainingStopped: after SIGTERM, SIGUSR1 or Ctrl-C; the state is saved.
            TrainingDivergedError: if rolling back did not help.
        """
        if self.resume == "never" and is_main_process() and (place := self.folders.retire()) is not None:
            logger.info("resume is never: the states of an earlier training were moved to %s", place)
        with self.signals:
            while True:
                try:
                    return run()
                except RollBackError as reason:
                    self.guard.roll_back(reason)
                    self._is_rolling_back = True
                    logger.warning("back to the last saved state, with another order of the data: %s", reason)
                except Exception as error:
                    if self.signals.received is None or isinstance(error, MedldmError):
                        raise
                    raise self._stopped(self._saved_step or 0) from error

    def _begin(self, trainer: Any) -> None:
        sampler = sampler_of(trainer)
        saved = self._load_newest()
        if saved is None:
            if self.resume == "must" or self._is_rolling_back:
                raise StateError(f"there is no state in {self.folders.directory} to go on from")
            self._save(trainer)
            return
        self._restore(trainer, saved)
        if self._is_rolling_back:
            sampler.reorder(self.guard.n_rollbacks)
            self._is_rolling_back = False
        if self._stands_at_epoch_end(trainer) and not self._has_saved_end:
            trainer.fire_event(Events.EPOCH_COMPLETED)

    def _load_newest(self) -> SavedState | None:
        """Let the first process choose a state, and set damaged ones aside; the others read the same one."""
        is_strict = self.resume != "never"
        saved = self.folders.load_newest(is_strict=is_strict) if is_main_process() else None
        step = int(broadcast_from_first(torch.tensor(-1 if saved is None else saved.step)))
        return saved if is_main_process() or step < 0 else self.folders.load(step)

    def _restore(self, trainer: Any, saved: SavedState) -> None:
        light = {name: saved.parts[name] for name in _LIGHT}
        check_setting(light["training"]["setting"], self._setting(trainer))
        self._report_length(light["training"]["n_epochs"])
        trainer.load_training_state({name: part for name, part in saved.parts.items() if name not in _LIGHT})
        self._load_light(trainer, light, step=saved.step)
        self._saved_step, self._saved_at = saved.step, time.monotonic()
        self._has_saved_end = light["training"]["has_ended"]
        total = trainer.state.max_epochs * trainer.state.epoch_length
        logger.info(
            "going on from %s: %d of %d batches are done; resume: never would start anew",
            saved.path,
            saved.step,
            total,
        )

    def _load_light(self, trainer: Any, light: Mapping[str, Any], *, step: int) -> None:
        for handler, state in zip(self.handlers, light["handlers"]["states"], strict=True):
            handler.load_state_dict(state)
        self.guard.load_state_dict(light["training"]["divergence"])
        self.quarantine.load_state_dict(light["training"]["quarantine"])
        epoch, index = divmod(step, trainer.state.epoch_length)
        sampler = sampler_of(trainer)
        sampler.load_state_dict(light["training"]["order"])
        sampler.place(epoch=epoch, start=index * batch_size_of(trainer))
        trainer.state.iteration, trainer.state.epoch = step, epoch
        self._at_epoch_end = dict(light) if self._stands_at_epoch_end(trainer) else None
        self._epoch_end = step
        restore_random_state(light["random"])

    def _before_batch(self, trainer: Any) -> None:
        batch = trainer.state.batch
        found = batch.get(FOUND, ()) if isinstance(batch, Mapping) else ()
        for number, reason in found:
            self.quarantine.add(number, reason, n_cases=len(sampler_of(trainer)))

    def _end(self, trainer: Any) -> None:
        """Keep what belongs to the end; a step that lacks batches cannot be kept, and is trained again."""
        if self.quarantine.numbers:
            logger.warning("at the end: %s", self.quarantine.describe(len(sampler_of(trainer))))
        if trainer.optimiser_steps[0].is_complete:
            self._save(trainer, is_end=True)

    def _report_length(self, n_epochs: int) -> None:
        own = self._n_epochs
        if own != n_epochs:
            logger.warning(
                "n_epochs is %d here and was %d: from here on the learning rate is that of a training of %d "
                "epochs",
                *(own, n_epochs, own),
            )

    def _after_batch(self, trainer: Any) -> None:
        steps = trainer.optimiser_steps
        if not steps[0].is_complete:
            return
        is_bad = any(step.is_bad for step in steps)
        self.guard.record(is_bad=is_bad, cases=cases_of_step(trainer))
        self._at_epoch_end = self._capture(trainer) if self._stands_at_epoch_end(trainer) else None
        self._epoch_end = trainer.state.iteration
        if self.signals.agree():
            self._stop(trainer)
        if not is_bad and self._is_due(trainer):
            self._save(trainer)

    def _during_validation(self, evaluator: Any, trainer: Any) -> None:
        """Stop in an epoch's end, which a training that goes on runs again, and in no other validation."""
        if self._at_epoch_end is None or self._epoch_end != trainer.state.iteration:
            return
        if has_common_batch(evaluator.data_loader, evaluator.state.iteration) and self.signals.agree():
            self._stop(trainer)

    def _stop(self, trainer: Any) -> None:
        self._save(trainer)
        barrier()
        raise self._stopped(trainer.state.iteration)

    def _stopped(self, step: int) -> TrainingStopped:
        """Word the end; the signal may have ended workers too, and so be the cause of any other error."""
        name = self.signals.received.name if self.signals.received is not None else "stop"
        code = self.signals.exit_code
        return TrainingStopped(
            f"{name}: the state after batch {step} is saved; run the same command again to go on "
            f"(exit code {code})",
            exit_code=code,
        )

    def _is_due(self, trainer: Any) -> bool:
        done = trainer.state.iteration
        if done == trainer.state.max_epochs * trainer.state.epoch_length:
            return True
        if self.every_steps is not None and done - (self._saved_step or 0) >= self.every_steps:
            return True
        wait = max(self.every_seconds, self._seconds_of_a_save / _LONGEST_SHARE)
        return time.monotonic() - self._saved_at >= wait

    def _save(self, trainer: Any, *, is_end: bool = False) -> None:
        step = trainer.state.iteration
        if step == self._saved_step and (self._has_saved_end or not is_end):
            return
        started = time.monotonic()
        light = None if is_end else self._at_epoch_end
        state = {**trainer.training_state(), **(light or self._capture(trainer, has_ended=is_end))}
        if is_main_process():
            self.folders.save(state, step=step, is_end=is_end)
        self._saved_step, self._saved_at, self._has_saved_end = step, time.monotonic(), is_end
        self._seconds_of_a_save = self._saved_at - started
        logger.debug("state after batch %d saved in %.2f s", step, self._seconds_of_a_save)

    def _capture(self, trainer: Any, *, has_ended: bool = False) -> dict[str, Any]:
        """Return what an epoch's end changes: all of the state but the trainer's parts."""
        return {
            "training": {
                "setting": self._setting(trainer),
                "n_epochs": self._n_epochs,
                "has_ended": has_ended,
                "divergence": self.guard.state_dict(),
                "quarantine": self.quarantine.state_dict(),
                "order": sampler_of(trainer).state_dict(),
            },
            "handlers": {"states": [dict(handler.state_dict()) for handler in self.handlers]},
            "random": capture_random_state(),
        }

    def _setting(self, trainer: Any) -> dict[str, Any]:
        return describe_setting(trainer, self.identity)

    def _stands_at_epoch_end(self, trainer: Any) -> bool:
        return trainer.state.iteration > 0 and trainer.state.iteration % trainer.state.epoch_length == 0
