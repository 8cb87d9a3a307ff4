"""One of two processes is killed: the job ends, the cause is named, the same command goes on bit for bit."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Events
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from benchmarks.tiny_trainings import EPOCHS, LENGTH, make_second_stage
from medldm.runtime.distributed import init_distributed, rank
from medldm.workflows import run_training
from tests.rank_processes import run_on_ranks
from tests.training.resume.training_states import history

KILLED_IN = LENGTH + 2
"""The batch that is not finished; of two batches one is saved, the last one after 4."""
LONGEST_S = 60

Train = Callable[..., None]


def train(_: int = 0, *, make: Callable[..., Any], folder: Path, victim: int | None = None) -> None:
    """Train in one of several processes as a bundle does; the victim kills itself within a batch."""
    torch.set_num_threads(1)
    init_distributed(device="cpu")
    trainer = make(folder)
    if rank() == victim:
        die = partial(os.kill, os.getpid(), signal.SIGKILL)
        trainer.add_event_handler(Events.ITERATION_STARTED(once=KILLED_IN), die)
    run_training(trainer)


@pytest.fixture
def training() -> Train:
    return partial(train, make=make_second_stage)


def outcome(folder: Path) -> dict[str, Any]:
    """Return the hashes of all files of tensors (checkpoints, the states that are kept), and the history."""
    files = {str(file.relative_to(folder)): file for file in folder.rglob("*.safetensors")}
    hashes = {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in files.items()}
    last = [name for name in hashes if f"step_{EPOCHS * LENGTH:08d}" in name]
    assert {Path(name).stem for name in last} >= {"denoiser", "average", "optimiser", "generator", "random"}
    return {**hashes, "history": history(folder / "logs" / "diffusion")}


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_the_other_process_ends_by_itself_and_both_go_on_bit_for_bit(
    training, tmp_path, capfd, victim
) -> None:
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    assert run_on_ranks(partial(training, folder=straight), tmp_path / "a", joined=False) == [0, 0]
    started = time.monotonic()
    codes = run_on_ranks(partial(training, folder=killed, victim=victim), tmp_path / "b", joined=False)
    assert time.monotonic() - started < LONGEST_S
    assert codes[victim] == -signal.SIGKILL
    assert codes[1 - victim] == 1
    assert re.search(
        rf"error: process {1 - victim} of 2 lost touch with another one \(.+\)\. .* goes on from its last",
        capfd.readouterr().err,
        re.DOTALL,
    )
    assert not (killed / "state" / "diffusion" / f"step_{EPOCHS * LENGTH:08d}").exists()
    assert run_on_ranks(partial(training, folder=killed), tmp_path / "c", joined=False) == [0, 0]
    assert outcome(killed) == outcome(straight)


def test_torchrun_ends_the_job_and_names_the_process_and_its_signal(training, tmp_path) -> None:
    """What `torchrun --nproc_per_node=2` starts, without its command line."""
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=2,
        run_id="kill",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        start_method="fork",
    )

    def work() -> None:
        training(folder=tmp_path / "killed", victim=1)

    started = time.monotonic()
    with pytest.raises(ChildFailedError) as failure:
        elastic_launch(config, work)()
    assert time.monotonic() - started < LONGEST_S
    number, first = failure.value.get_first_failure()
    assert (number, first.exitcode, first.signal_name()) == (1, -signal.SIGKILL, "SIGKILL")
    assert re.search(r"rank +: 1 .*exitcode +: -9 .*Signal 9 \(SIGKILL\)", str(failure.value), re.DOTALL)
