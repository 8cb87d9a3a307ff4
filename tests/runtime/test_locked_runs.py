"""Trainings, generations and preparations hold their output folder; a second one changes nothing there."""

from __future__ import annotations

import multiprocessing
import os
import signal
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ignite.engine import Events

from benchmarks.tiny_trainings import make_first_stage
from medldm.data.preparation.prepare import PrepareOptions, prepare
from medldm.errors import OutputExistsError
from medldm.generation.engine import GenerationEvaluator
from medldm.generation.files import SyntheticWriter
from medldm.runtime import lock_file
from medldm.runtime.lock_file import LOCK, FolderInUseError
from medldm.runtime.output_lock import locked_output, release_holds
from medldm.transforms import write_nifti
from medldm.workflows import initialise_run, run_training
from tests.rank_processes import run_on_ranks
from tests.runtime.holders import another

IN_USE = r"in use: a run \(training, process \d+ on "


@pytest.fixture(autouse=True)
def impatient(monkeypatch) -> None:
    monkeypatch.setattr(lock_file, "_PATIENCE_S", 0.2)


def content(folder: Path) -> dict[str, Any]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_training_beside_another_is_refused_before_it_loads_or_saves_a_state(tmp_path) -> None:
    trainer = make_first_stage(tmp_path, "vae", resume="never")
    with another(tmp_path):
        before = content(tmp_path)
        for run in (trainer.run, partial(run_training, trainer)):
            with pytest.raises(FolderInUseError, match=IN_USE):
                run()
        assert content(tmp_path) == before
        with pytest.raises(FolderInUseError, match=IN_USE):
            initialise_run(required_packages={}, seed=0, output_dir=tmp_path)


def train_and_die(folder: Path) -> None:
    trainer = make_first_stage(folder, "vae", save_batches=1)
    die = partial(os.kill, os.getpid(), signal.SIGKILL)
    trainer.add_event_handler(Events.ITERATION_STARTED(once=3), die)
    trainer.run()


def test_a_killed_training_goes_on_at_once_and_nothing_is_left_in_the_end(tmp_path) -> None:
    process = multiprocessing.get_context("fork").Process(target=train_and_die, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL and (tmp_path / LOCK).exists()
    (tmp_path / ".writing-0123456789abcdef.safetensors").write_bytes(b"half of the weights")
    trainer = make_first_stage(tmp_path, "vae", save_batches=1, resume="must")
    initialise_run(required_packages={}, seed=0, output_dir=tmp_path)
    begun: list[int] = []
    trainer.add_event_handler(
        Events.ITERATION_STARTED(once=3), lambda engine: begun.append((tmp_path / LOCK).exists())
    )
    after = SimpleNamespace(run=lambda: begun.append((tmp_path / LOCK).exists()))
    run_training(trainer, then=[after])
    assert begun == [True, True]
    assert not [*tmp_path.rglob(".writing-*"), *tmp_path.rglob(LOCK)]


def test_a_run_that_is_refused_while_it_is_put_together_can_be_let_go_of(tmp_path) -> None:
    initialise_run(required_packages={}, seed=0, output_dir=tmp_path)
    assert (tmp_path / LOCK).exists()
    release_holds()
    assert not (tmp_path / LOCK).exists()


class _Generation(GenerationEvaluator):
    """A generation whose model and requests do not matter."""

    def __init__(self, folder: Path) -> None:
        self.writer, self.indices, self._has_run = SyntheticWriter(folder), [0], False
        self.state = SimpleNamespace(epoch_length=0)  # type: ignore[assignment]


def test_a_generation_beside_another_and_one_that_comes_after_it_write_nothing_over(tmp_path) -> None:
    first, second = _Generation(tmp_path), _Generation(tmp_path)
    first.run()
    with another(tmp_path), pytest.raises(FolderInUseError, match=IN_USE):
        second.run()
    write_nifti(first.writer.file_of(0), np.zeros((2, 2, 2)), np.eye(4))
    with pytest.raises(OutputExistsError, match=r"synthetic_0000.* exist"):
        second.run()


def test_a_preparation_beside_another_changes_nothing(tmp_path) -> None:
    for number in range(2):
        write_nifti(
            tmp_path / "in" / f"{number}.nii.gz", np.random.default_rng(0).normal(size=(6, 5, 4)), np.eye(4)
        )
    options = PrepareOptions(key_file=tmp_path / "key", workers=1, progress=False)
    prepare(tmp_path / "in", tmp_path / "out", options=options)
    (tmp_path / "in" / "1.nii.gz").unlink()
    with another(tmp_path / "out"):
        before = content(tmp_path / "out")
        with pytest.raises(FolderInUseError, match=IN_USE):
            prepare(tmp_path / "in", tmp_path / "out", options=options)
        assert content(tmp_path / "out") == before
    assert len(prepare(tmp_path / "in", tmp_path / "out", options=options).cases) >= 1
    assert not (tmp_path / "out" / LOCK).exists()


def hold_as_rank(rank: int, *, folder: Path) -> None:
    with locked_output(folder / "out", work="training"):
        (folder / f"held_by_{rank}").touch()


def test_of_several_processes_one_holds_the_lock_and_all_learn_of_a_refusal(tmp_path, capfd) -> None:
    assert run_on_ranks(partial(hold_as_rank, folder=tmp_path), tmp_path / "a") == [0, 0]
    assert (tmp_path / "held_by_0").exists() and (tmp_path / "held_by_1").exists()
    with another(tmp_path / "out"):
        assert run_on_ranks(partial(hold_as_rank, folder=tmp_path), tmp_path / "b") == [1, 1]
    said = capfd.readouterr().err
    assert "is in use: a run" in said and "the first process of this run could not take" in said
