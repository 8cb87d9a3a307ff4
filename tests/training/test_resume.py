"""Going on where a training stopped: bit for bit the same as never having stopped."""

from __future__ import annotations

import json
import multiprocessing
import random
import shutil
from collections import namedtuple
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from monai.data import CacheDataset
from monai.handlers import ValidationHandler
from monai.transforms import Compose
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader

from medldm import LatentDiffusionConfig
from medldm.latent_diffusion import make_autoencoder
from medldm.model_files import describe_autoencoder, describe_latent_diffusion
from medldm.networks import PatchDiscriminator, PatchDiscriminatorConfig, VAEConfig, VQVAEConfig
from medldm.training import (
    AutoencoderEvaluator,
    AutoencoderLoss,
    AutoencoderLossConfig,
    AutoencoderTrainer,
    CheckpointWriter,
    DiffusionEvaluator,
    DiffusionTrainer,
    LatentDataset,
    TrainingKeeper,
    TrainingLog,
    average_weights,
    make_schedule,
    seed_everything,
    training_loader,
)
from medldm.training.data_order import EpochSampler
from medldm.training.random_state import capture_random_state
from medldm.training.resumable_trainer import GeneratorState
from medldm.training.state_folders import StateError, StateFolders
from medldm.training.state_tree import flatten_state
from medldm.training.volumes import RandomPatchd

CPU = torch.device("cpu")
SMALL = {"down_channels": (4, 8), "n_groups": 4, "mid_attention": False, "n_res_blocks": 1}
FIRST_STAGES = {"vae": VAEConfig(**SMALL), "vqvae": VQVAEConfig(**SMALL, n_codes=8, restart_after=2)}
N_CASES, BATCH, EPOCHS = 5, 2, 3
LENGTH = 3
"""Batches of an epoch."""


def volumes(n: int) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(1)
    return [{"image": torch.rand(1, 12, 12, 12, generator=generator) * 2 - 1} for _ in range(n)]


def finish(trainer_class, loader, folder, *, stage, writer_of, evaluator, keeping, **options):
    """Build a trainer with a log, a writer and a keeper."""
    log = TrainingLog(folder / "logs", evaluator=evaluator)
    writer = writer_of(evaluator)
    keeping = {"every_steps": 2} | keeping
    keeper = TrainingKeeper(folder / "state" / stage, handlers=[log, writer], evaluator=evaluator, **keeping)
    return trainer_class(
        CPU,
        EPOCHS,
        loader,
        train_handlers=[ValidationHandler(interval=1, validator=evaluator), log, writer, keeper],
        **options,
    )


def make_first_stage(folder: Path, kind: str = "vae", *, num_workers: int = 0, **keeping: Any):
    seed_everything(3)
    network = make_autoencoder(FIRST_STAGES[kind])
    discriminator = PatchDiscriminator(PatchDiscriminatorConfig(channels=4, n_layers=1))
    average = average_weights(network, 0.9)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    data = CacheDataset(volumes(N_CASES), Compose([RandomPatchd(("image",), (8, 8, 8))]), progress=False)
    evaluator = AutoencoderEvaluator(CPU, DataLoader(volumes(1)), network=average.module)
    return finish(
        AutoencoderTrainer,
        training_loader(data, batch_size=BATCH, seed=7, num_workers=num_workers),
        folder,
        stage="autoencoder",
        evaluator=evaluator,
        writer_of=lambda evaluator: CheckpointWriter(
            folder,
            name="autoencoder",
            describe=describe_autoencoder(average.module, None),
            evaluator=evaluator,
            metric="psnr",
            larger_is_better=True,
        ),
        network=network,
        optimizer=optimizer,
        schedule=make_schedule(optimizer, kind="cosine", warmup_steps=2, total_steps=9),
        loss=AutoencoderLoss(AutoencoderLossConfig(adversarial_start=2)),
        discriminator=discriminator,
        discriminator_optimizer=torch.optim.AdamW(discriminator.parameters(), lr=1e-3),
        average=average,
        keeping=keeping,
    )


def make_second_stage(
    folder: Path, make_model, *, num_workers: int = 0, sharding: str = "ddp", **keeping: Any
):
    seed_everything(3)
    model = make_model(("class",))
    config = LatentDiffusionConfig(n_epochs=EPOCHS, learning_rate=1e-3, ema_decay=0.9)
    generator = torch.Generator().manual_seed(2)
    entries = [
        {
            "mean": torch.randn(3, 4, 4, 4, generator=generator),
            "std": torch.rand(3, 4, 4, 4, generator=generator),
            "class": torch.tensor(i % 3),
        }
        for i in range(N_CASES)
    ]
    average = average_weights(model.denoiser, 0.9)
    optimizer = torch.optim.AdamW(model.denoiser.parameters(), lr=1e-3)
    validation = DataLoader(LatentDataset(entries[:1]))
    evaluator = DiffusionEvaluator(CPU, validation, network=model, config=config, average=average, n_times=2)
    return finish(
        DiffusionTrainer,
        training_loader(LatentDataset(entries), batch_size=BATCH, seed=7, num_workers=num_workers),
        folder,
        stage="diffusion",
        evaluator=evaluator,
        writer_of=lambda evaluator: CheckpointWriter(
            folder,
            name="latent_diffusion",
            describe=describe_latent_diffusion(model, config, denoiser=average.module),
            evaluator=evaluator,
            metric="validation_loss",
            larger_is_better=False,
        ),
        network=model,
        config=config,
        optimizer=optimizer,
        schedule=make_schedule(optimizer, warmup_steps=2),
        average=average,
        sharding=sharding,
        keeping=keeping,
    )


class Killed(BaseException):
    """Stands for a kill: nothing of the process survives."""


def run_killed_after(trainer, batches: int) -> None:
    """Run, and die after a number of batches; of two batches one is saved."""

    def die(engine) -> None:
        raise Killed

    trainer.add_event_handler(Events.ITERATION_COMPLETED(once=batches), die)
    with pytest.raises(Killed):
        trainer.run()


def everything(trainer) -> dict[str, Any]:
    """Return all tensors and plain values of a training's state, and the state of the generators."""
    tensors, plain = flatten_state({"parts": trainer.training_state(), "random": capture_random_state()})
    return {**tensors, "plain": json.dumps(plain), "history": history(trainer.keeper.handlers[0].directory)}


def history(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    assert one.keys() == other.keys()
    return [
        name
        for name, value in one.items()
        if not (torch.equal(value, other[name]) if isinstance(value, torch.Tensor) else value == other[name])
    ]


_STRAIGHT: dict[str, dict[str, Any]] = {}


@pytest.fixture
def stages(make_model, tmp_path) -> Callable[[str], tuple[Callable[..., Any], dict[str, Any]]]:
    """Return, for a kind of training, what makes one and where one that never stopped ends."""

    def get(kind: str):
        if kind == "diffusion":
            make = partial(make_second_stage, make_model=make_model)
        else:
            make = partial(make_first_stage, kind=kind)
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
    assert next(iter(trainer.keeper.folders.steps())) == 4
    last = make(tmp_path)
    last.run()
    assert differences(straight, everything(last)) == []


def leave_out(part: str, trainer, monkeypatch) -> None:
    """Break the resumption on purpose: a part keeps what a fresh training has."""
    if part == "random":
        monkeypatch.setattr("medldm.training.resume.restore_random_state", lambda state: None)
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
        monkeypatch.setattr(trainer.state_parts()[part], "load_state_dict", lambda state: None)


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
    assert list(trainer.keeper.folders.steps()) == [0]
    assert list(StateFolders(tmp_path / "state" / "diffusion.before_1").steps()) == [4, 2]


def test_must_refuses_to_begin_without_a_state(stages, tmp_path) -> None:
    make, _ = stages("diffusion")
    with pytest.raises(StateError, match="no state in"):
        make(tmp_path, resume="must").run()
    with pytest.raises(ValueError, match="resume is 'maybe': choose from"):
        TrainingKeeper(tmp_path, resume="maybe")


def test_a_state_of_another_training_is_refused(stages, tmp_path, monkeypatch) -> None:
    make, _ = stages("diffusion")
    run_killed_after(make(tmp_path), 3)
    other = make(tmp_path)
    other.data_loader.batch_sampler.sampler.seed = 8
    with pytest.raises(StateError, match="seed is 8 here and 7 there"):
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
        TrainingKeeper(tmp_path).attach(Engine(lambda engine, batch: None))


def train_and_report(make, folder: Path) -> None:
    make(folder, every_steps=1).run()
    (folder / "done").touch()


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_kills_at_random_moments_change_nothing(stages, tmp_path, kind) -> None:
    """SIGKILL until 25 have hit; the training's state is saved after every batch."""
    make, straight = stages(kind)
    draw = random.Random(0)
    n_kills, folder = 0, tmp_path / "killed"
    while n_kills < 25 or not (folder / "done").exists():
        (folder / "done").unlink(missing_ok=True)
        process = multiprocessing.get_context("fork").Process(target=train_and_report, args=(make, folder))
        process.start()
        process.join(draw.uniform(0.05, 1.0) if n_kills < 25 else None)
        n_kills += process.exitcode is None
        process.kill()
        process.join()
        if (folder / "done").exists() and n_kills < 25:
            shutil.rmtree(folder / "state")
            shutil.rmtree(folder / "logs")
    last = make(folder)
    last.run()
    assert differences(straight, everything(last)) == []
    assert not list(folder.rglob("damaged*"))
