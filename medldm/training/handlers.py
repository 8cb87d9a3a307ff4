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

from ignite.engine import Engine, Events
from ignite.handlers import ProgressBar
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from medldm.errors import ConfigError
from medldm.latent_diffusion.checkpoints import save_checkpoint
from medldm.runtime.distributed import is_main_process
from medldm.training.sharding import gather_state

logger = logging.getLogger(__name__)

TERMS = "terms"
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
        self.writer = SummaryWriter(str(self.directory))
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

    Args:
        directory: of the checkpoints.
        name: stem of the files: `<name>.safetensors` is the best, `<name>_last.safetensors` the last.
        describe: returns the weights and the card to write, called at each save.
        evaluator: the validation engine.
        metric: of the evaluator, which decides what is best; None where there is no evaluator.
        larger_is_better: how the metric is compared.
        last_interval: epochs between two writings of the last.

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
        self.best: float | None = None
        self._validated_epoch: int | None = None

    def attach(self, trainer: Engine) -> None:
        """Save during the training and at its end."""
        trainer.add_event_handler(
            Events.EPOCH_COMPLETED(every=self.last_interval) | Events.COMPLETED, self._save_last
        )
        if self.evaluator is not None:
            self.evaluator.add_event_handler(Events.COMPLETED, self._save_best, trainer)
            trainer.add_event_handler(Events.COMPLETED, self._validate_last_epoch)

    def state_dict(self) -> dict[str, Any]:
        """Return the best metric, and which epoch was validated last."""
        return {"best": self.best, "validated_epoch": self._validated_epoch}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state."""
        self.best, self._validated_epoch = state["best"], state["validated_epoch"]

    @property
    def best_path(self) -> Path:
        """The file of the best weights."""
        return self.directory / f"{self.name}.safetensors"

    def _save_last(self, trainer: Engine) -> None:
        self._save(self.directory / f"{self.name}_last.safetensors", trainer)
        if self.evaluator is None:
            self._save(self.best_path, trainer)

    def _validate_last_epoch(self, trainer: Engine) -> None:
        """Validate once more where the interval of the validations left the last epoch out."""
        if self.evaluator is not None and self._validated_epoch != trainer.state.epoch:
            self.evaluator.run()

    def _save_best(self, evaluator: Engine, trainer: Engine) -> None:
        self._validated_epoch = trainer.state.epoch
        value = float(evaluator.state.metrics[str(self.metric)])
        if self.best is None or self.sign * value > self.sign * self.best:
            self.best = value
            self._save(self.best_path, trainer)
            logger.info("best %s so far: %.5g (epoch %d)", self.metric, value, trainer.state.epoch)

    def _save(self, path: Path, trainer: Engine) -> None:
        weights, card = self.describe()
        weights = gather_state(weights)
        if not is_main_process():
            return
        training: dict[str, Any] = {"epoch": trainer.state.epoch, "iteration": trainer.state.iteration}
        if self.metric is not None:
            training[self.metric] = self.best
        save_checkpoint(path, weights, {**card, "training": training})
