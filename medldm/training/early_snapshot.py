"""Keep the weights from before the minimum of the validation loss, for privacy.

Towards the minimum a denoiser gains little and remembers more. The snapshot is the earliest one whose loss
lies within `WITHIN` of the lowest. Which one that is, is known at the end, so that candidates are kept until
then. Only a validation lower than all before can become it, and only while it lies within that share of the
lowest so far. Of these, one is kept for each quarter of the share, so that there are never more than `MOST`.
"""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events

from medldm.errors import CheckpointError
from medldm.files import move_file
from medldm.latent_diffusion.checkpoints import read_card
from medldm.runtime.distributed import barrier, broadcast_from_first, is_main_process
from medldm.training.handlers import CheckpointWriter

logger = logging.getLogger(__name__)

WITHIN = 0.02
"""Share of the lowest validation loss that the snapshot's may lie above it."""
MOST = 5
"""Files that are kept while a training runs, at most."""
EARLY = "early"
"""What a card's "selected_by" says of the snapshot."""
_APART = WITHIN / 4


def snapshot_beside(path: str | Path) -> Path | None:
    """Return the snapshot of the training whose best weights a file has; None where there is none.

    What comes after a training changes both: the decoder and the texture belong to the snapshot, too.
    """
    file = _beside(Path(path))
    if not file.is_file():
        return None
    own, best = (read_card(each).get("training", {}).get("identity") for each in (file, path))
    return file if own == best else None


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.stem}_early{path.suffix}")


class EarlySnapshot:
    """Write `<name>_early.safetensors` when a training has ended.

    Args:
        writer: of the other checkpoints; the snapshot stands beside them and has the same card.
        evaluator: the validation engine; the writer's metric is a loss.
    """

    def __init__(self, writer: CheckpointWriter, *, evaluator: Engine) -> None:
        self.writer = writer
        self.evaluator = evaluator
        self.candidates: list[tuple[int, float]] = []
        self.lowest = math.inf

    @property
    def path(self) -> Path:
        """The snapshot."""
        return _beside(self.writer.best_path)

    @property
    def folder(self) -> Path:
        """Holds the candidates while the training runs."""
        return self.writer.directory / "early_candidates"

    def attach(self, trainer: Engine) -> None:
        """Look at each validation, and choose at the end."""
        self.evaluator.add_event_handler(Events.COMPLETED, self._look, trainer)
        trainer.add_event_handler(Events.COMPLETED, lambda _: self._choose())

    def state_dict(self) -> dict[str, Any]:
        """Return epoch and loss of each candidate, and the lowest loss."""
        return {"candidates": [list(each) for each in self.candidates], "lowest": self.lowest}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state; candidates whose file is gone were given up after it."""
        known = [(int(epoch), float(loss)) for epoch, loss in state["candidates"]]
        # The first process has the files, and all must hold the same candidates: saving takes all of them.
        are_there = torch.tensor([self._file_of(epoch) is not None for epoch, _ in known])
        kept = broadcast_from_first(are_there).tolist()
        self.candidates = [each for each, is_there in zip(known, kept, strict=True) if is_there]
        self.lowest = state["lowest"]

    def _look(self, evaluator: Engine, trainer: Engine) -> None:
        loss, epoch = float(evaluator.state.metrics[str(self.writer.metric)]), trainer.state.epoch
        if not math.isfinite(loss) or epoch in (each for each, _ in self.candidates):
            return
        self.lowest = min(self.lowest, loss)
        if not self.candidates or loss < (1 - _APART) * self.candidates[-1][1]:
            self.writer.save(
                self._candidate(epoch), trainer, selected_by=EARLY, **{str(self.writer.metric): loss}
            )
            self.candidates.append((epoch, loss))
        self._give_up([each for each in self.candidates if each[1] > (1 + WITHIN) * self.lowest])

    def _give_up(self, candidates: list[tuple[int, float]]) -> None:
        self.candidates = [each for each in self.candidates if each not in candidates]
        if is_main_process():
            for epoch, _ in candidates:
                self._candidate(epoch).unlink(missing_ok=True)

    def _choose(self) -> None:
        """Put the earliest candidate in its place."""
        if is_main_process():
            if self.candidates:
                epoch, loss = self.candidates[0]
                file = self._file_of(epoch)
                if file is not None and file != self.path:
                    move_file(file, self.path)
                message = "%s has the weights of epoch %d (%.5g; the lowest is %.5g)"
                logger.info(message, self.path.name, epoch, loss, self.lowest)
            shutil.rmtree(self.folder, ignore_errors=True)
        self.candidates = self.candidates[:1]
        barrier()

    def _candidate(self, epoch: int) -> Path:
        return self.folder / f"epoch_{epoch:08d}.safetensors"

    def _file_of(self, epoch: int) -> Path | None:
        """Return the file of a candidate: its own, or the snapshot of a training that had ended with it."""
        if (candidate := self._candidate(epoch)).is_file():
            return candidate
        try:
            said = read_card(self.path).get("training", {}) if self.path.is_file() else {}
        except CheckpointError:
            return None
        identity = self.writer.identity
        is_own = identity is None or said.get("identity") == identity.digest
        return self.path if is_own and said.get("epoch") == epoch else None
