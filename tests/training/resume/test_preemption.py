"""Signals: a training in a process of its own is told to stop, and goes on."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
from monai.engines import Evaluator, Trainer
from monai.handlers import ValidationHandler

from medldm.runtime.endings import report_error
from medldm.training.loader import training_loader
from medldm.training.optimisation import OptimiserStep
from medldm.training.precision import make_scaler
from medldm.training.resume.preemption import StopSignals
from medldm.training.resume.resumable_trainer import ResumableTrainer
from medldm.training.resume.state_folders import StateFolders
from medldm.training.resume.state_handler import TrainingStateHandler

CPU = torch.device("cpu")


class LineTrainer(ResumableTrainer, Trainer):
    """Fit a line; wait in one batch, or in the validation, for a signal."""

    def __init__(self, folder: Path, *, waits: str = "never") -> None:
        torch.manual_seed(0)
        self.folder, self.waits = folder, waits
        self.line = torch.nn.Linear(1, 1)
        optimizer = torch.optim.SGD(self.line.parameters(), lr=0.1)
        self.step = OptimiserStep(optimizer, scaler=make_scaler(CPU, "float32"))
        validation = Validation(CPU, [1, 2])
        validation.trainer = self
        state_handler = TrainingStateHandler(folder / "state", evaluator=validation)
        loader = training_loader(torch.arange(4.0)[:, None], batch_size=1, seed=0)
        super().__init__(CPU, 3, loader, handlers=[ValidationHandler(1, validation), state_handler])

    @property
    def optimiser_steps(self):
        return [self.step]

    def state_parts(self):
        return {"line": self.line, "optimiser": self.step}

    def _iteration(self, engine, batch):
        loss = self.line(batch).square().mean()
        self.step(loss, index=(engine.state.iteration - 1) % 4, epoch_length=4)
        if self.waits == "training" and engine.state.iteration == 6:
            self.wait()

    def wait(self) -> None:
        (self.folder / "waiting").touch()
        deadline = time.monotonic() + 300
        while self.state_handler.signals.received is None and time.monotonic() < deadline:
            time.sleep(0.01)
        (self.folder / "signalled").touch()
        time.sleep(0.3)


class Validation(Evaluator):
    """Measure nothing."""

    trainer: LineTrainer

    def _iteration(self, engine, batch):
        if self.trainer.waits == "validation":
            self.trainer.wait()


def train(folder: Path, waits: str) -> None:
    """Train, and end as a command line ends."""
    try:
        LineTrainer(folder, waits=waits).run()
    except Exception as error:
        sys.exit(report_error(error))


def start(folder: Path, waits: str) -> BaseProcess:
    """Train in another process, and return when it waits for a signal."""
    folder.mkdir(parents=True, exist_ok=True)
    process = multiprocessing.get_context("fork").Process(target=train, args=(folder, waits))
    process.start()
    wait_for(folder / "waiting")
    return process


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 300
    while not path.exists():
        assert time.monotonic() < deadline, f"no {path.name}"
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("name", "waits", "code", "step"),
    [
        ("SIGTERM", "training", 75, 6),
        ("SIGUSR1", "training", 75, 6),
        ("SIGINT", "training", 130, 6),
        ("SIGTERM", "validation", 75, 4),
    ],
)
def test_a_training_that_is_told_to_stop_saves_and_goes_on(tmp_path, name, waits, code, step) -> None:
    process = start(tmp_path / "stopped", waits)
    os.kill(process.pid, getattr(signal, name))
    process.join(60)
    assert process.exitcode == code
    assert next(iter(StateFolders(tmp_path / "stopped" / "state").steps())) == step
    trainers = [LineTrainer(tmp_path / name) for name in ("stopped", "straight")]
    for trainer in trainers:
        trainer.run()
        assert trainer.state.iteration == 12
    assert torch.equal(trainers[0].line.weight, trainers[1].line.weight)
    assert torch.equal(trainers[0].line.bias, trainers[1].line.bias)


def test_a_second_ctrl_c_stops_at_once(tmp_path) -> None:
    process = start(tmp_path, "training")
    os.kill(process.pid, signal.SIGINT)
    wait_for(tmp_path / "signalled")
    os.kill(process.pid, signal.SIGINT)
    process.join(60)
    assert process.exitcode not in (0, 75, 130)
    assert list(StateFolders(tmp_path / "state").steps()) == [0]


PROGRAM = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_preemption import train
train(Path(sys.argv[2]), "training")
"""


@pytest.mark.slow
def test_the_shell_sees_the_exit_code(tmp_path) -> None:
    command = [sys.executable, "-c", PROGRAM, str(Path(__file__).parent), str(tmp_path)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    wait_for(tmp_path / "waiting")
    process.terminate()
    log = process.communicate(timeout=60)[1]
    assert process.returncode == 75, log
    assert "run the same command again to go on (exit code 75)" in log


def test_signals_are_remembered_and_former_handlers_come_back() -> None:
    seen = []
    former = signal.signal(signal.SIGUSR1, lambda *_: seen.append("former"))
    try:
        with StopSignals() as signals:
            assert signals.received is None
            os.kill(os.getpid(), signal.SIGUSR1)
            assert signals.received == signal.SIGUSR1
            assert signals.exit_code == 75
        os.kill(os.getpid(), signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, former)
    assert seen == ["former"]


def test_the_second_ctrl_c_is_not_caught() -> None:
    with StopSignals() as signals:
        os.kill(os.getpid(), signal.SIGINT)
        assert signals.exit_code == 130
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_another_thread_than_the_main_one_catches_nothing() -> None:
    former = signal.getsignal(signal.SIGTERM)
    found = []

    def enter() -> None:
        with StopSignals():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert found == [former]
