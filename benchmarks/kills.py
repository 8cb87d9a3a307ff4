"""SIGKILL at random moments, many inside a save: are the final weights those of a run that was left alone?

    python benchmarks/kills.py                                # 28 kills in each stage
    python benchmarks/kills.py --kills 3
    python benchmarks/kills.py --write docs/results/training.md

Tiny trainings of both stages save their state after every batch. Each attempt is a forked process; a share of
the kills waits for a save, or the removal of older states, and strikes within it. A training that was killed
is started again until it ends; then the next one begins. What is compared is a hash of all tensors of the
training (weights, averages, optimiser states, codebook, generators), and the bytes of the best and the last
checkpoint's weights.
"""

from __future__ import annotations

import argparse
import mmap
import os
import random
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Events
from pages import table, write_between_marks
from tiny_trainings import STAGES, hash_state

from medldm.latent_diffusion.checkpoints import load_checkpoint
from medldm.training.resume.resumable_trainer import ResumableTrainer
from medldm.training.resume.state_folders import SavedState, StateFolders

PHASES = ("building", "loading", "step", "saving", "pruning", "epoch end", "ended")
BUILDING, LOADING, STEP, SAVING, PRUNING, EPOCH_END, ENDED = range(len(PHASES))
Make = Callable[..., ResumableTrainer]
AIMED = 0.6
"""Share of the kills that wait for a save or for the removal of older states."""


class Board:
    """One byte that a process and its parent both see: what the process is doing."""

    def __init__(self) -> None:
        self._shared = mmap.mmap(-1, 1)

    @property
    def phase(self) -> int:
        """What the process is doing."""
        return self._shared[0]

    @phase.setter
    def phase(self, phase: int) -> None:
        self._shared[0] = phase


class WatchedFolders(StateFolders):
    """State folders that say on a board when they load, save and prune."""

    def __init__(self, folders: StateFolders, board: Board) -> None:
        super().__init__(folders.given, keep=folders.keep)
        self.board = board

    def load_newest(self, *, is_strict: bool = True) -> SavedState | None:
        self.board.phase = LOADING
        return super().load_newest(is_strict=is_strict)

    def save(self, parts: Any, *, step: int, is_end: bool = False) -> Path:
        self.board.phase = SAVING
        path = super().save(parts, step=step, is_end=is_end)
        self.board.phase = EPOCH_END
        return path

    def _prune(self) -> None:
        self.board.phase = PRUNING
        super()._prune()


def main() -> None:
    """Kill, compare, and print or write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=28, help="in each stage")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", type=Path, help="page whose table is replaced")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    results = [kill_stage(name, options.kills, seed=options.seed) for name in STAGES]
    text = describe(results)
    if options.write:
        write_between_marks(options.write, "kills", text)
    sys.stdout.write(text + "\n")
    if not all(result["equal"] == result["trainings"] for result in results):
        sys.exit(1)


def kill_stage(name: str, n_kills: int, *, seed: int) -> dict[str, Any]:
    """Kill trainings of a stage until so many kills have hit, and let the last one end."""
    make, draw, board = STAGES[name], random.Random(seed), Board()
    hits: Counter[int] = Counter()
    with tempfile.TemporaryDirectory() as place:
        straight = Path(place) / "straight"
        seconds = time.monotonic()
        run_to_end(make, straight, board)
        seconds = time.monotonic() - seconds
        expected, n_trainings, n_equal, n_damaged = outcome(straight), 0, 0, 0
        while hits.total() < n_kills:
            folder = Path(place) / f"killed_{n_trainings}"
            while not (folder / "done").exists():
                if hits.total() >= n_kills:
                    run_to_end(make, folder, board)
                else:
                    hits.update(strike(make, folder, board, draw=draw, seconds=seconds))
            n_trainings += 1
            n_equal += outcome(folder) == expected
            n_damaged += len(list(folder.rglob("damaged*")))
            sys.stderr.write(f"{name}: {hits.total()} kills, {n_equal} of {n_trainings} trainings equal\n")
    return {"stage": name, "hits": hits, "trainings": n_trainings, "equal": n_equal, "damaged": n_damaged}


def strike(
    make: Make,
    folder: Path,
    board: Board,
    *,
    draw: random.Random,
    seconds: float,
) -> list[int]:
    """Start a process and kill it; return what it was doing, or nothing if it ended before."""
    board.phase = BUILDING
    child = start(make, folder, board)
    wait_until = time.monotonic() + draw.uniform(0, seconds)
    if draw.random() < AIMED:
        target, skip = draw.choice((SAVING, SAVING, PRUNING)), draw.randrange(6)
        wait_for_phase(board, target, times=skip + 1)
        wait_until = time.monotonic() + draw.uniform(0, 0.004 if target == SAVING else 0.0005)
    while time.monotonic() < wait_until and board.phase != ENDED:
        time.sleep(0.0002)
    os.kill(child, signal.SIGSTOP)
    phase = board.phase
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return [phase] if os.WIFSIGNALED(status) and phase != ENDED else []


def wait_for_phase(board: Board, target: int, *, times: int) -> None:
    """Wait until a process has begun something so many times, or has ended."""
    while times > 0 and board.phase != ENDED:
        while board.phase not in (target, ENDED):
            time.sleep(0.0001)
        times -= 1
        while times > 0 and board.phase == target:
            time.sleep(0.0001)


def run_to_end(make: Make, folder: Path, board: Board) -> None:
    """Run a training in a process that is left alone."""
    _, status = os.waitpid(start(make, folder, board), 0)
    if status != 0:
        raise RuntimeError(f"a training that was left alone ended with the status {status}")


def start(make: Make, folder: Path, board: Board) -> int:
    """Fork a process that trains, from the last saved state on; return its number."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        trainer = make(folder, save_batches=1)
        trainer.state_handler.folders = WatchedFolders(trainer.state_handler.folders, board)  # type: ignore[union-attr]
        engine: Any = trainer
        engine.add_event_handler(Events.ITERATION_STARTED, lambda _: setattr(board, "phase", STEP))
        trainer.run()
        (folder / "hash").write_text(hash_state(trainer))
        board.phase = ENDED
        (folder / "done").touch()
        status = 0
    except Exception:
        traceback.print_exc()
    finally:
        # Neither the parent's buffers nor its exit handlers are this process's to run.
        os._exit(status)


def outcome(folder: Path) -> list[Any]:
    """Return what must be equal: the hash of the training, and the weights of its checkpoints."""
    files = sorted(folder.glob("*.safetensors"))
    return [(folder / "hash").read_text(), *(load_checkpoint(path).card["weights_sha256"] for path in files)]


def describe(results: list[dict[str, Any]]) -> str:
    """Return the table and a line on what it shows."""
    rows = [
        (
            result["stage"],
            str(result["hits"].total()),
            *(str(result["hits"][phase]) for phase in range(ENDED)),
            f"{result['equal']} of {result['trainings']}",
            str(result["damaged"]),
        )
        for result in results
    ]
    header = ("stage", "kills", *PHASES[:ENDED], "trainings equal to the bit", "states damaged")
    return table(header, rows)


if __name__ == "__main__":
    main()
