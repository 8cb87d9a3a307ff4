"""Mishaps at random moments: is what comes out in the end that of runs that were left alone?

    python benchmarks/chaos.py                     # 40 mishaps, a few minutes
    python benchmarks/chaos.py --mishaps 400 --seed 7
    python benchmarks/chaos.py --work prepare generation

Tiny trainings of both stages, generations and preparations are killed, told to stop, started twice in one
folder, and run on a disk that fills up. Each attempt is a forked process. It ends whole, or is killed, or is
refused by name with a `MedldmError`; any other end is a failure. The same run is started again until it ends
whole, and what it has made then is compared, to the bit, with that of an undisturbed one. Temporary files and
locks that are left in the end are failures, too.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from kills import outcome
from pages import table
from tiny_trainings import SMALL, STAGES, hash_state

from medldm import LatentDiffusionConfig, LatentDiffusionModel, LatentUNetConfig, VAEConfig
from medldm.data.preparation.prepare import PrepareOptions, prepare
from medldm.errors import MedldmError
from medldm.generation.engine import SamplingConfig, generate
from medldm.latent_diffusion.checkpoints import save_checkpoint
from medldm.latent_diffusion.model_files import describe_latent_diffusion
from medldm.latent_diffusion.volume_space import VolumeSpace
from medldm.runtime import lock_file
from medldm.runtime.lock_file import LOCK
from medldm.transforms import IntensityMapping, write_nifti

Run = Callable[[Path], None]
MISHAPS = ("kill", "SIGTERM", "SIGUSR1", "second start", "full disk")
ENDED, REFUSED, FAILED = 0, 3, 4
"""Exit codes of an attempt; a training that was told to stop ends with its own."""
N_CASES, N_VOLUMES = 4, 3


def main() -> None:
    """Disturb, compare, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mishaps", type=int, default=40, help="of all kinds and works together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", nargs="+", choices=WORKS, default=list(WORKS))
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    lock_file._PATIENCE_S = 0.2
    with tempfile.TemporaryDirectory() as place:
        shared = Path(place)
        make_inputs(shared)
        share = -(-options.mishaps // len(options.work))
        results = [disturb(name, share, shared, seed=options.seed) for name in options.work]
    sys.stdout.write(describe(results) + "\n")
    if any(result["failures"] for result in results):
        sys.exit(1)


def make_inputs(place: Path) -> None:
    """Write what is prepared and generated from: scans, and a model with random weights."""
    for number in range(N_CASES):
        image = np.random.default_rng(number).normal(size=(12, 10, 8))
        write_nifti(place / "scans" / f"case_{number}.nii.gz", image, np.eye(4))
    torch.manual_seed(0)
    model = LatentDiffusionModel(
        autoencoder_config=VAEConfig(**SMALL, latent_channels=3),
        unet_config=LatentUNetConfig(down_channels=(8, 16), n_groups=4, n_heads=2, n_res_blocks=1),
        space=VolumeSpace(
            spacing_mm=(1, 1, 1), size=(16, 16, 16), intensity=IntensityMapping(kind="ct_window")
        ),
    )
    save_checkpoint(place / "model.safetensors", *describe_latent_diffusion(model, LatentDiffusionConfig())())


def train(folder: Path, *, stage: str) -> None:
    """Train a stage to its end."""
    trainer = STAGES[stage](folder, save_batches=1)
    trainer.run()
    (folder / "hash").write_text(hash_state(trainer))


def prepare_scans(folder: Path) -> None:
    """Prepare all scans."""
    options = PrepareOptions(key_file=folder.parent / "secret" / "key", workers=1, progress=False)
    prepare(folder.parent / "scans", folder, options=options)


def generate_volumes(folder: Path) -> None:
    """Draw some volumes; those of an attempt before are drawn again."""
    few = SamplingConfig(num_steps=2, seed=3)
    model = folder.parent / "model.safetensors"
    generate(model, folder, num_samples=N_VOLUMES, sampling=few, overwrite=True, device="cpu")


def hash_files(folder: Path) -> list[str]:
    """Return the names and hashes of all files."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [f"{path.relative_to(folder)} {hashlib.sha256(path.read_bytes()).hexdigest()}" for path in files]


WORKS: dict[str, tuple[Run, Callable[[Path], list[Any]]]] = {
    "autoencoder": (partial(train, stage="autoencoder"), outcome),
    "diffusion": (partial(train, stage="diffusion"), outcome),
    "prepare": (prepare_scans, hash_files),
    "generation": (generate_volumes, hash_files),
}
"""Name to what runs, and what must be equal in the end."""


def disturb(name: str, n_mishaps: int, place: Path, *, seed: int) -> dict[str, Any]:
    """Let a work meet mishaps until there were so many, always until it has ended whole."""
    run, look = WORKS[name]
    draw = random.Random(f"{seed} {name}")
    started = time.monotonic()
    if attempt(run, place / f"{name}_straight") != ENDED:
        raise RuntimeError(f"{name} does not end whole where it is left alone")
    seconds = time.monotonic() - started
    expected = look(place / f"{name}_straight")
    ends: Counter[tuple[str, str]] = Counter()
    failures, n_runs, folder = [], 0, place / name
    while ends.total() < n_mishaps:
        mishap = draw.choice(MISHAPS)
        codes = meet(mishap, run, folder, draw=draw, seconds=seconds)
        ends.update((mishap, word_end(code)) for code in codes[-1:])
        failures += [f"{mishap}: ended with {code}" for code in codes if word_end(code) == "failed"]
        if ENDED in codes or ends.total() >= n_mishaps:
            # Once more and alone: it takes up what is left, and changes nothing that is whole.
            failures += [] if attempt(run, folder) == ENDED else ["the last attempt did not end whole"]
            failures += [] if look(folder) == expected else ["what came out differs"]
            failures += [f"{path.name} is left" for path in folder.rglob("*") if is_left(path)]
            shutil.rmtree(folder)
            n_runs += 1
            sys.stderr.write(f"{name}: {ends.total()} mishaps, {n_runs} runs, {len(failures)} failures\n")
    return {"work": name, "ends": ends, "runs": n_runs, "failures": failures}


def meet(mishap: str, run: Run, folder: Path, *, draw: random.Random, seconds: float) -> list[int]:
    """Let a mishap happen to an attempt; return the codes of it and of what was started beside."""
    if mishap == "full disk":
        return [attempt(run, folder, free=draw.randrange(200, 60_000))]
    child = start(run, folder)
    time.sleep(draw.uniform(0, seconds))
    if mishap == "second start":
        second = attempt(run, folder)
        return [wait(child), second]
    os.kill(child, {"kill": signal.SIGKILL, "SIGTERM": signal.SIGTERM, "SIGUSR1": signal.SIGUSR1}[mishap])
    return [wait(child)]


def attempt(run: Run, folder: Path, *, free: int | None = None) -> int:
    """Run in a process of its own; return its exit code, negative after a signal."""
    return wait(start(run, folder, free=free))


def wait(child: int) -> int:
    """Return the exit code of a process."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def start(run: Run, folder: Path, *, free: int | None = None) -> int:
    """Fork a process that works; return its number.

    Args:
        run: the work.
        folder: it writes into.
        free: bytes that a file may have on a disk that is about to be full; None for a disk with room.
    """
    child = os.fork()
    if child:
        return child
    code = FAILED
    try:
        if free is not None:
            fill_disk(free)
        run(folder)
        code = ENDED
    except MedldmError as error:
        code = REFUSED if error.exit_code == 1 else error.exit_code
    except BaseException:
        traceback.print_exc(file=sys.__stderr__)
    finally:
        # Neither the parent's buffers nor its exit handlers are this process's to run.
        os._exit(code)


def fill_disk(free: int) -> None:
    """Let the system refuse longer files, and the disk say that it has no more room after a while."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (free, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    has_room, usage = [free // 4096], shutil.disk_usage

    def say(folder: Any) -> Any:
        has_room[0] -= 1
        return usage(folder) if has_room[0] > 0 else SimpleNamespace(free=0)

    shutil.disk_usage = say  # type: ignore[assignment]


def word_end(code: int) -> str:
    """Say how an attempt ended."""
    if code in (-signal.SIGTERM, -signal.SIGUSR1, -signal.SIGKILL):
        return "killed"
    return {ENDED: "whole", REFUSED: "refused by name", 75: "stopped, 75"}.get(code, "failed")


def is_left(path: Path) -> bool:
    """Say whether a file or folder should not be there in the end."""
    return path.name == LOCK or path.name.startswith((".writing-", ".old_", ".replaced-", "damaged_"))


def describe(results: list[dict[str, Any]]) -> str:
    """Return a table of what was done and what came out, and each failure."""
    rows = []
    for result in results:
        for mishap in MISHAPS:
            ends = {end: n for (kind, end), n in sorted(result["ends"].items()) if kind == mishap}
            words = ", ".join(f"{n} {end}" for end, n in ends.items())
            rows.append((result["work"], mishap, str(sum(ends.values())), words or "none"))
        equal = f"{result['runs']} runs, {len(result['failures'])} failures"
        rows.append((result["work"], "in the end", "", equal))
    lines = [f"- {result['work']}: {failure}" for result in results for failure in result["failures"]]
    return "\n".join([table(("work", "mishap", "how often", "how the attempt ended"), rows), *lines])


if __name__ == "__main__":
    main()
