"""Handlers of both stages: log, progress bar, sample slices, best and last checkpoint.

Of several processes only the first one writes and shows.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from ignite.engine import Engine, Events
from ignite.handlers import ProgressBar
from torch import Tensor

from medldm.errors import CheckpointError, ConfigError
from medldm.latent_diffusion.checkpoints import read_card, save_checkpoint
from medldm.runtime.distributed import broadcast_from_first, is_main_process
from medldm.training.event_files import NeutralSummaryWriter
from medldm.training.identity import TrainingIdentity
from medldm.training.sharding import gather_state

logger = logging.getLogger(__name__)

TERMS = "terms"
SELECTED_BY, LAST = "selected_by", "last"
"""Key of a card's "training": the metric that chose the weights, or "last"."""
_STEM = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class LossBar:
    """Show a progress bar with the losses of the current step where the output is a terminal, not a file.

    Args:
        description: shown before the bar.
    """

    def __init__(self, description: str) -> None:
        self.description = description

    def attach(self, trainer: Engine) -> None:
        """Follow a trainer whose output holds a mapping of scalar tensors under "terms"."""
        if not is_main_process():
            return
        bar = ProgressBar(desc=self.description, persist=False, disable=None)
        bar.attach(
            trainer, output_transform=lambda output: {n: float(term) for n, term in output[TERMS].items()}
        )


class TrainingLog:
    """Write scalars to TensorBoard and to `history.jsonl`, and one log line for each epoch.

    Args:
        directory: TensorBoard's log folder; the history lies in it.
        evaluator: the validation engine; its metrics are written after each of its runs.
    """

    def __init__(self, directory: str | Path, *, evaluator: Engine | None = None) -> None:
        self.directory = Path(directory)
        self.evaluator = evaluator
        self._values: dict[str, list[float]] = {}
        self._started = time.monotonic()

    def attach(self, trainer: Engine) -> None:
        """Follow a trainer whose output holds a mapping of scalar tensors under "terms"."""
        if not is_main_process():
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        self.writer = NeutralSummaryWriter(str(self.directory))
        trainer.add_event_handler(Events.ITERATION_COMPLETED, self._add)
        trainer.add_event_handler(Events.EPOCH_COMPLETED, self._write_epoch)
        trainer.add_event_handler(Events.COMPLETED, lambda _: self.writer.close())
        if self.evaluator is not None:
            self.evaluator.add_event_handler(Events.COMPLETED, self._write_validation, trainer)

    @property
    def history(self) -> Path:
        """The file of all values, one JSON object a line."""
        return self.directory / "history.jsonl"

    def state_dict(self) -> dict[str, Any]:
        """Return the values of the epoch under way, and how long the history and the training are."""
        return {
            "values": {name: list(values) for name, values in self._values.items()},
            "history_bytes": self.history.stat().st_size if self.history.is_file() else 0,
            "seconds": time.monotonic() - self._started,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state; the lines that were written after it are cut off, for they come again."""
        self._values = {name: list(values) for name, values in state["values"].items()}
        self._started = time.monotonic() - state["seconds"]
        if (
            is_main_process()
            and self.history.is_file()
            and self.history.stat().st_size > state["history_bytes"]
        ):
            os.truncate(self.history, state["history_bytes"])

    def _add(self, trainer: Engine) -> None:
        output: Any = trainer.state.output
        for name, term in output[TERMS].items():
            self._values.setdefault(name, []).append(float(term))

    def _write_epoch(self, trainer: Engine) -> None:
        """Write the means of the finite values; a term without any, and JSON has no NaN, is left out."""
        finite = {name: [v for v in values if math.isfinite(v)] for name, values in self._values.items()}
        means = {name: fmean(values) for name, values in finite.items() if values}
        n_bad = max((len(self._values[name]) - len(values) for name, values in finite.items()), default=0)
        self._write("train", trainer.state.epoch, means | ({"bad_batches": n_bad} if n_bad else {}))
        self._values = {}

    def _write_validation(self, evaluator: Engine, trainer: Engine) -> None:
        metrics = {name: float(value) for name, value in evaluator.state.metrics.items()}
        self._write("validation", trainer.state.epoch, metrics)

    def _write(self, stage: str, epoch: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(f"{stage}/{name}", value, epoch)
        self.writer.flush()
        line = {
            "stage": stage,
            "epoch": epoch,
            "seconds": round(time.monotonic() - self._started, 1),
            **values,
        }
        with self.history.open("a") as file:
            file.write(json.dumps(line) + "\n")
        logger.info(
            "%s epoch %d: %s",
            stage,
            epoch,
            ", ".join(f"{name} {value:.4g}" for name, value in values.items()),
        )


class CheckpointWriter:
    """Write the last and the best checkpoint, always whole files.

    Both files are there when a training has ended. Where no validation could choose the best weights, the
    last ones take their place; the card says under "training" what they were "selected_by". A training that
    goes on never replaces its own better weights by worse ones, also where they are newer than its state.

    Args:
        directory: of the checkpoints.
        name: stem of the files: `<name>.safetensors` is the best, `<name>_last.safetensors` the last.
        describe: returns the weights and the card to write, called at each save.
        evaluator: the validation engine.
        metric: of the evaluator, which decides what is best; None where there is no evaluator.
        larger_is_better: how the metric is compared.
        last_interval: epochs between two writings of the last.
        identity: of the training, which tells its own files from others'; None where states are not kept.

    Raises:
        ValueError: if `name` is more than the plain stem of a file.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        name: str,
        describe: Callable[[], tuple[Mapping[str, Tensor], dict[str, Any]]],
        evaluator: Engine | None,
        metric: str | None = None,
        larger_is_better: bool = True,
        last_interval: int = 1,
        identity: TrainingIdentity | None = None,
    ) -> None:
        if not _STEM.fullmatch(name):
            raise ConfigError(f"name is {name!r}: letters, digits, '_', '-' and '.' make the stem of a file")
        self.directory = Path(directory)
        self.name = name
        self.describe = describe
        self.evaluator = evaluator
        self.metric = metric
        self.sign = 1.0 if larger_is_better else -1.0
        self.last_interval = last_interval
        self.identity = identity
        self.best: float | None = None
        self._validated_epoch: int | None = None

    def attach(self, trainer: Engine) -> None:
        """Save during the training and at its end."""
        trainer.add_event_handler(
            Events.EPOCH_COMPLETED(every=self.last_interval) | Events.COMPLETED, self._save_last
        )
        if self.evaluator is None:
            logger.warning("no case validates: %s gets the last weights", self.best_path.name)
            return
        self.evaluator.add_event_handler(Events.COMPLETED, self._save_best, trainer)
        trainer.add_event_handler(Events.COMPLETED, self._validate_last_epoch)
        trainer.add_event_handler(Events.COMPLETED, self._save_unless_chosen)

    def state_dict(self) -> dict[str, Any]:
        """Return the best metric, and which epoch was validated last."""
        return {"best": self.best, "validated_epoch": self._validated_epoch}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state, and what a file says that is newer than it."""
        self.best, self._validated_epoch = state["best"], state["validated_epoch"]
        if self.metric is not None:
            self.best = self._best_with_file(self.best)

    def _best_with_file(self, best: float | None) -> float | None:
        """Return the better of a value and that of the file; None where the file is gone. All agree."""
        value = math.nan
        if is_main_process():
            found = self._value_of_file()
            known = [] if best is None or not self.best_path.is_file() else [best]
            value = max([*known, *found], key=lambda each: self.sign * each, default=math.nan)
        value = float(broadcast_from_first(torch.tensor(value, dtype=torch.float64)))
        return None if math.isnan(value) else value

    def _value_of_file(self) -> list[float]:
        """Return the metric of the best weights on the disk, if they are this training's."""
        if self.identity is None or not self.best_path.is_file():
            return []
        try:
            training = read_card(self.best_path).get("training", {})
        except CheckpointError as error:
            logger.warning("%s is written anew: %s", self.best_path.name, error)
            return []
        own = {"identity": self.identity.digest, SELECTED_BY: self.metric}
        return [training[self.metric]] if all(training.get(name) == own[name] for name in own) else []

    @property
    def best_path(self) -> Path:
        """The file of the best weights."""
        return self.directory / f"{self.name}.safetensors"

    def _save_last(self, trainer: Engine) -> None:
        self.save(self.directory / f"{self.name}_last.safetensors", trainer)
        if self.evaluator is None:
            self.save(self.best_path, trainer)

    def _save_unless_chosen(self, trainer: Engine) -> None:
        """Keep the promise of a file where no validation gave a number, or its file was removed."""
        is_there = torch.tensor(self.best is not None and self.best_path.is_file())
        if not bool(broadcast_from_first(is_there)):
            logger.warning("no validation chose the best weights: %s gets the last", self.best_path.name)
            self.save(self.best_path, trainer)

    def _validate_last_epoch(self, trainer: Engine) -> None:
        """Validate once more where the interval of the validations left the last epoch out."""
        if self.evaluator is not None and self._validated_epoch != trainer.state.epoch:
            self.evaluator.run()

    def _save_best(self, evaluator: Engine, trainer: Engine) -> None:
        self._validated_epoch = trainer.state.epoch
        value = float(evaluator.state.metrics[str(self.metric)])
        if not math.isfinite(value):
            logger.warning(
                "epoch %d: %s is %s, which chooses nothing", trainer.state.epoch, self.metric, value
            )
        elif self.best is None or self.sign * value > self.sign * self.best:
            self.best = value
            self.save(self.best_path, trainer, selected_by=str(self.metric), **{str(self.metric): value})
            logger.info("best %s so far: %.5g (epoch %d)", self.metric, value, trainer.state.epoch)

    def save(self, path: Path, trainer: Engine, *, selected_by: str = LAST, **said: Any) -> None:
        """Write the averaged weights; every process takes part.

        Args:
            path: of the checkpoint.
            trainer: whose epoch and iteration the card states.
            selected_by: what chose these weights.
            said: what else the card says under "training".
        """
        weights, card = self.describe()
        weights = gather_state(weights)
        if not is_main_process():
            return
        training: dict[str, Any] = {"epoch": trainer.state.epoch, "iteration": trainer.state.iteration}
        training[SELECTED_BY] = selected_by
        if self.identity is not None:
            training["identity"] = self.identity.digest
        save_checkpoint(path, weights, {**card, "training": training | said})
