"""SIGTERM and SIGUSR1 outside of a training's loop end a command with 75, wherever they come."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from medldm.runtime.early_stop import EXIT_PREEMPTED, StoppedEarly, asked_to_stop, ending_on_signals
from medldm.runtime.endings import report_error
from medldm.training.resume.preemption import StopSignals

SIGNALS = [signal.SIGTERM, signal.SIGUSR1]


@pytest.fixture(autouse=True)
def _no_grace(monkeypatch):
    monkeypatch.setattr("medldm.runtime.early_stop._UNWINDING_S", 0.0)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_the_block_and_the_former_handler_comes_back(number, capfd) -> None:
    former = signal.getsignal(number)
    with pytest.raises(StoppedEarly) as found, ending_on_signals():
        os.kill(os.getpid(), number)
    assert found.value.code == EXIT_PREEMPTED == 75
    assert signal.getsignal(number) is former
    assert asked_to_stop() is None
    assert signal.Signals(number).name in capfd.readouterr().err


def test_what_bears_with_bad_files_does_not_bear_with_a_signal() -> None:
    with pytest.raises(StoppedEarly), ending_on_signals():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except Exception:
            pytest.fail("caught")


def test_a_signal_that_was_swallowed_reaches_the_loop_and_the_exit_code(capsys) -> None:
    with ending_on_signals():
        with contextlib.suppress(StoppedEarly):
            os.kill(os.getpid(), signal.SIGUSR1)
        assert asked_to_stop() == signal.SIGUSR1
        with StopSignals() as signals:
            assert signals.agree()
            assert signals.exit_code == 75
        assert report_error(RuntimeError("a worker was killed by signal: Terminated")) == 75
    assert report_error(RuntimeError("a bug")) == 1


def test_inside_a_loop_the_loop_decides() -> None:
    with ending_on_signals():
        with StopSignals() as signals:
            os.kill(os.getpid(), signal.SIGTERM)
            assert signals.agree()
        with pytest.raises(StoppedEarly):
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_second_signal_does_not_disturb_the_cleaning_up(monkeypatch) -> None:
    monkeypatch.setattr("medldm.runtime.early_stop._UNWINDING_S", 10.0)
    cleaned = []
    with pytest.raises(StoppedEarly), ending_on_signals():
        try:
            os.kill(os.getpid(), signal.SIGUSR1)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            cleaned.append(True)
    assert cleaned == [True]


def test_a_forked_worker_ends_as_if_there_were_no_handler() -> None:
    with ending_on_signals():
        child = os.fork()
        if not child:
            signal.pause()
            os._exit(0)
        time.sleep(0.1)
        os.kill(child, signal.SIGTERM)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM


def test_files_that_wait_to_be_read_do_not_hold_up_the_end() -> None:
    def read(number: int) -> int:
        if number == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.05)
        return number

    started = time.monotonic()
    with pytest.raises(StoppedEarly), ending_on_signals(), ThreadPoolExecutor(max_workers=2) as pool:
        list(pool.map(read, range(1000)))
    assert time.monotonic() - started < 10


SITE = """
import sys, time
from pathlib import Path
class Finder:
    def find_spec(self, wanted, path=None, target=None):
        if wanted == {module!r}:
            Path("waiting").touch()
            time.sleep(60)
sys.meta_path.insert(0, Finder())
"""
CONFIG = "run: [{_target_: medldm.workflows.initialise_run, required_packages: {}, seed: 0}]\n"
BUNDLE = ["run", "--config_file", "run.yaml"]


def stop_at_import(folder: Path, words: list[str], module: str, number: signal.Signals) -> tuple[int, str]:
    """Start a command, send it a signal when it begins to import a module, return exit code and stderr."""
    (folder / "sitecustomize.py").write_text(SITE.format(module=module))
    (folder / "run.yaml").write_text(CONFIG)
    paths = [str(folder), str(Path(__file__).parents[2])]
    process = subprocess.Popen(
        [sys.executable, *words],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 300
    while not (folder / "waiting").exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(number)
    error = process.communicate(timeout=60)[1]
    return process.returncode, error


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("words", [BUNDLE, ["train", "autoencoder", "cohort", "out"]])
def test_a_command_of_ours_ends_so_from_its_first_import_on(tmp_path, words, number) -> None:
    code, error = stop_at_import(tmp_path, ["-m", "medldm.cli", *words], "medldm.bundle_sandbox", number)
    assert code == 75, error
    assert f"{number.name} outside of a training's loop" in error
    assert "Traceback" not in error


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "module"),
    [
        (["-m", "medldm.cli", *BUNDLE], "monai"),
        (["-m", "monai.bundle", *BUNDLE], "medldm.workflows"),
        (["-m", "monai.bundle", *BUNDLE], "medldm.training"),
    ],
)
def test_a_command_ends_so_while_libraries_are_imported(tmp_path, words, module) -> None:
    code, error = stop_at_import(tmp_path, words, module, signal.SIGTERM)
    assert code == 75, error
    assert "Traceback" not in error


def test_other_commands_keep_the_systems_own_end(tmp_path) -> None:
    words = ["-m", "medldm.cli", "check", "cohort"]
    code, _ = stop_at_import(tmp_path, words, "medldm.runtime.allocation", signal.SIGTERM)
    assert code == -signal.SIGTERM
