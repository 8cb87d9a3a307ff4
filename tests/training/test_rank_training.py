"""Two processes train as one does at the same batch size, and go on bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.data import CacheDataset
from monai.handlers import ValidationHandler
from torch.utils.data import DataLoader

from medldm.data.labels import LabelSchema
from medldm.latent_diffusion.model import make_autoencoder
from medldm.latent_diffusion.model_files import describe_autoencoder
from medldm.networks import VAEConfig
from medldm.seeds import seed_everything
from medldm.training import (
    AutoencoderTrainer,
    CheckpointWriter,
    TrainingLog,
    TrainingStateHandler,
    ValidationBatches,
    average_weights,
    training_loader,
)
from medldm.training.label_maps import LabelMapEvaluator, OneHotInferer
from medldm.training.losses.label_maps import LabelMapLoss
from tests.rank_processes import run_on_ranks
from tests.training.rank_trainings import follow, load, smooth, straight_and_stopped
from tests.training.resume.training_states import (
    differences,
    everything,
    history,
    largest_difference,
    numbers,
)
from tests.training.small_trainings import EPOCHS, LENGTH, make_first_stage, make_second_stage

CPU = torch.device("cpu")


def make_label_maps(folder: Path, **keeping: Any) -> Any:
    """Build a training on label maps, whose Dice loss couples the rows of a batch."""
    seed_everything(3)
    schema = LabelSchema(structures={1: "shell", 5: "core"})
    config = VAEConfig(
        in_channels=3, out_channels=3, down_channels=(4, 8), n_groups=4, mid_attention=False, n_res_blocks=1
    )
    generator = torch.Generator().manual_seed(1)
    maps = [
        {"image": torch.randint(0, 3, (1, 8, 8, 8), generator=generator, dtype=torch.uint8)} for _ in range(8)
    ]
    network = make_autoencoder(config)
    average = average_weights(network, 0.9)
    batches = ValidationBatches(3)
    evaluator = LabelMapEvaluator(
        CPU, DataLoader(maps[:3], batch_sampler=batches), network=average.module, schema=schema
    )
    log = TrainingLog(folder / "logs", evaluator=evaluator)
    writer = CheckpointWriter(
        folder,
        name="autoencoder",
        describe=describe_autoencoder(average.module, None),
        evaluator=evaluator,
        metric="dice",
        larger_is_better=True,
    )
    state_handler = TrainingStateHandler(
        folder / "state" / "labels",
        handlers=[log, writer],
        evaluator=evaluator,
        **({"every_steps": 2} | keeping),
    )
    return AutoencoderTrainer(
        CPU,
        EPOCHS,
        training_loader(CacheDataset(maps[3:], progress=False), batch_size=2, seed=7),
        network=network,
        optimizer=torch.optim.AdamW(network.parameters(), lr=1e-2),
        loss=LabelMapLoss(),
        average=average,
        inferer=OneHotInferer(3),
        accumulation_steps=2,
        train_handlers=[ValidationHandler(interval=1, validator=evaluator), log, writer, state_handler],
    )


@pytest.fixture
def makers(make_model) -> dict[str, Callable[..., Any]]:
    makers = {
        "vae": make_first_stage,
        "vqvae": partial(make_first_stage, kind="vqvae"),
        "label_maps": make_label_maps,
        "diffusion": partial(make_second_stage, make_model=make_model),
    }
    return {kind: partial(smooth, make) for kind, make in makers.items()}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["vae", "vqvae", "label_maps", "diffusion"])
def test_two_processes_train_as_one_and_go_on_bit_for_bit(makers, tmp_path, kind) -> None:
    """An epoch ends with a batch of one case, less than one for each process; one may go on alone, too."""
    alone = makers[kind](tmp_path / "alone")
    expected = follow(alone)
    alone.run()
    work = partial(straight_and_stopped, make=makers[kind], folder=tmp_path)
    assert run_on_ranks(work, tmp_path / "ranks") == [0, 0]
    (terms, first), (terms_of_second, second) = (load(tmp_path / f"straight_{rank}.pt") for rank in range(2))
    assert len(terms) == len(expected) == EPOCHS * LENGTH
    for own, other in zip(terms, expected, strict=True):
        assert own == pytest.approx(other, rel=1e-4)
    assert largest_difference(first, everything(alone)) < 1e-4
    for own, other in zip(first["history"], history(tmp_path / "alone" / "logs"), strict=True):
        assert numbers(own) == pytest.approx(numbers(other), rel=1e-4)
    assert terms == terms_of_second
    assert differences(first, second) == []
    step = alone.optimiser_steps[0].accumulation_steps
    for rank, straight in enumerate((first, second)):
        code, iteration, state = load(tmp_path / f"stopped_{rank}.pt")
        assert (code, iteration) == (75, LENGTH + step)
        assert differences(straight, state) == []
    one_goes_on = makers[kind](tmp_path / "copied", resume="must")
    one_goes_on.run()
    assert largest_difference(first, everything(one_goes_on)) < 1e-4
