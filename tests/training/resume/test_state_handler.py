"""Going on where a training stopped: bit for bit the same as never having stopped."""

from __future__ import annotations

import multiprocessing
import random
import shutil
from collections import namedtuple
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from ignite.engine import Engine, Events
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader

from benchmarks.tiny_trainings import BATCH, EPOCHS, make_first_stage, make_second_stage
from medldm.errors import ConfigError
from medldm.seeds import seed_everything
from medldm.training import (
    TrainingLog,
    TrainingStateHandler,
)
from medldm.training.case_order import EpochSampler
from medldm.training.resume.resumable_trainer import GeneratorState
from medldm.training.resume.state_files import StateError
from medldm.training.resume.state_folders import StateFolders
from tests.training.resume.training_states import differences, everything
from tests.training.small_trainings import run_killed_after

_STRAIGHT: dict[str, dict[str, Any]] = {}


@pytest.fixture
def stages(tmp_path) -> Callable[[str], tuple[Callable[..., Any], dict[str, Any]]]:
    """Return, for a kind of training, what makes one and where one that never stopped ends."""

    def get(kind: str):
        make = make_second_stage if kind == "diffusion" else partial(make_first_stage, kind=kind)
        if kind not in _STRAIGHT:
            trainer = make(tmp_path / "straight")
            trainer.run()
            _STRAIGHT[kind] = everything(trainer)
            assert len(_STRAIGHT[kind]["history"]) == 2 * EPOCHS
        return make, _STRAIGHT[kind]

    return get


KINDS = ("vae", "vqvae", "diffusion")


@pytest.mark.parametrize("kills", [[4], [3, 8]], ids=["mid-epoch", "epoch-end-then-mid-epoch"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_training_goes_on_bit_for_bit(stages, tmp_path, kind, kills) -> None:
    make, straight = stages(kind)
    for batches in kills:
        run_killed_after(make(tmp_path / "killed"), batches)
    seed_everything(99)
    last = make(tmp_path / "killed")
    last.run()
    assert differences(straight, everything(last)) == []


@pytest.mark.parametrize("kind", ["vae", "diffusion"])
def test_a_worker_process_more_changes_nothing(stages, tmp_path, kind) -> None:
    make, straight = stages(kind)
    run_killed_after(make(tmp_path, num_workers=1), 4)
    last = make(tmp_path, num_workers=1)
    last.run()
    assert differences(straight, everything(last)) == []


@pytest.mark.parametrize("kind", ["vae", "diffusion"])
def test_a_full_disk_ends_the_training_and_once_there_is_space_it_goes_on(
    stages, tmp_path, monkeypatch, kind
) -> None:
    make, straight = stages(kind)
    trainer = make(tmp_path)
    no_space = namedtuple("usage", "total used free")(10, 10, 0)
    with monkeypatch.context() as patch:
        trainer.add_event_handler(
            Events.ITERATION_STARTED(once=6),
            lambda _: patch.setattr(shutil, "disk_usage", lambda folder: no_space),
        )
        with pytest.raises(StateError, match=r"step 6 could not be saved .* 0\.0 MB free"):
            trainer.run()
    assert next(iter(trainer.state_handler.folders.steps())) == 4
    last = make(tmp_path)
    last.run()
    assert differences(straight, everything(last)) == []


def leave_out(part: str, trainer, monkeypatch) -> None:
    """Break the resumption on purpose: a part keeps what a fresh training has."""
    if part == "random":
        monkeypatch.setattr("medldm.training.resume.state_handler.restore_random_state", lambda state: None)
    elif part == "place":
        place = EpochSampler.place
        monkeypatch.setattr(EpochSampler, "place", lambda self, *, epoch, start: place(self, epoch=epoch))
    elif part == "epoch":
        place = EpochSampler.place
        monkeypatch.setattr(
            EpochSampler, "place", lambda self, *, epoch, start: place(self, epoch=0, start=start)
        )
    elif part in ("scheduler", "history", "generator"):
        owner = {"scheduler": LambdaLR, "history": TrainingLog, "generator": GeneratorState}[part]
        monkeypatch.setattr(owner, "load_state_dict", lambda self, state: None)
    else:
        forget(trainer.state_parts()[part], monkeypatch)


def forget(owner, monkeypatch) -> None:
    """Let one object, and no other of its class, pass over the state it is given."""
    load = type(owner).load_state_dict

    def load_others(self, *arguments, **options):
        return None if self is owner else load(self, *arguments, **options)

    monkeypatch.setattr(type(owner), "load_state_dict", load_others)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "part"),
    [
        ("vae", "random"),
        ("vae", "place"),
        ("vae", "epoch"),
        ("vae", "history"),
        ("vae", "scheduler"),
        ("vae", "discriminator"),
        ("vae", "discriminator_optimiser"),
        ("vqvae", "network"),
        ("vqvae", "average"),
        ("diffusion", "denoiser"),
        ("diffusion", "optimiser"),
        ("diffusion", "average"),
        ("diffusion", "generator"),
    ],
)
def test_leaving_a_part_out_is_noticed(stages, tmp_path, monkeypatch, kind, part) -> None:
    """The tests above can fail: each part of the state is needed."""
    make, straight = stages(kind)
    run_killed_after(make(tmp_path / "killed"), 5)
    last = make(tmp_path / "killed")
    leave_out(part, last, monkeypatch)
    if part == "place":  # a batch comes that is smaller than the noise of its step
        with pytest.raises(ConfigError, match="their reconstructions"):
            last.run()
    else:
        last.run()
        assert differences(straight, everything(last)) != []


def test_a_finished_training_is_not_begun_anew(stages, tmp_path) -> None:
    make, straight = stages("diffusion")
    make(tmp_path / "done").run()
    again = make(tmp_path / "done")
    batches = []
    again.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: batches.append(1))
    again.run()
    assert batches == []
    assert differences(straight, everything(again)) == []


def test_never_begins_anew_and_keeps_the_old_states(stages, tmp_path) -> None:
    make, _ = stages("diffusion")
    run_killed_after(make(tmp_path), 5)
    trainer = make(tmp_path, resume="never")
    run_killed_after(trainer, 1)
    assert list(trainer.state_handler.folders.steps()) == [0]
    assert list(StateFolders(tmp_path / "state" / "diffusion.before_1").steps()) == [4, 2]


def test_must_refuses_to_begin_without_a_state(stages, tmp_path) -> None:
    make, _ = stages("diffusion")
    with pytest.raises(StateError, match="no state in"):
        make(tmp_path, resume="must").run()
    with pytest.raises(ValueError, match="resume is 'maybe': choose from"):
        TrainingStateHandler(tmp_path, resume="maybe")


def test_a_state_of_another_training_is_refused(stages, tmp_path, monkeypatch) -> None:
    make, _ = stages("diffusion")
    run_killed_after(make(tmp_path), 3)
    other = make(tmp_path)
    other.data_loader.batch_sampler.sampler.seed = 8
    with pytest.raises(StateError, match="seed is 8 here and 3 there"):
        other.run()
    faster = make(tmp_path)
    for group in faster.optimiser_steps[0].optimizer.param_groups:
        group["initial_lr"] = 0.5
    with pytest.raises(StateError, match=r"learning rate is 0.5 here and 0.001 in the saved state"):
        faster.run()


def test_a_loader_whose_place_cannot_be_kept_is_refused(stages, tmp_path) -> None:
    make, _ = stages("diffusion")
    trainer = make(tmp_path)
    trainer.data_loader = DataLoader(trainer.data_loader.dataset, batch_size=BATCH)
    with pytest.raises(TypeError, match=r"make the loader with medldm\.training\.training_loader"):
        trainer.run()
    with pytest.raises(TypeError, match="make it a ResumableTrainer"):
        TrainingStateHandler(tmp_path).attach(Engine(lambda engine, batch: None))


def train_and_report(make, folder: Path) -> None:
    make(folder, save_batches=1).run()
    (folder / "done").touch()


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_kills_at_random_moments_change_nothing(stages, tmp_path, kind) -> None:
    """SIGKILL until 12 have hit; the training's state is saved after every batch."""
    make, straight = stages(kind)
    draw = random.Random(0)
    n_kills, folder = 0, tmp_path / "killed"
    while n_kills < 12 or not (folder / "done").exists():
        (folder / "done").unlink(missing_ok=True)
        process = multiprocessing.get_context("fork").Process(target=train_and_report, args=(make, folder))
        process.start()
        process.join(draw.uniform(0.05, 1.0) if n_kills < 12 else None)
        n_kills += process.exitcode is None
        process.kill()
        process.join()
        if (folder / "done").exists() and n_kills < 12:
            shutil.rmtree(folder / "state")
            shutil.rmtree(folder / "logs")
    last = make(folder)
    last.run()
    assert differences(straight, everything(last)) == []
    assert not list(folder.rglob("damaged*"))
