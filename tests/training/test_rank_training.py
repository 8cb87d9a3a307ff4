"""Two processes train as one does at the same batch size, and go on bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.data import CacheDataset

from benchmarks.tiny_trainings import (
    EPOCHS,
    LENGTH,
    SMALL,
    make_first_stage,
    make_run,
    make_second_stage,
    make_third_stage,
)
from medldm.data.labels import LabelSchema
from medldm.latent_diffusion.model import make_autoencoder
from medldm.networks import VAEConfig
from medldm.seeds import seed_everything
from medldm.training import AutoencoderTrainingConfig, build_autoencoder_training
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


def make_label_maps(folder: Path, **running: Any) -> Any:
    """Build a training on label maps, whose Dice loss couples the rows of a batch."""
    seed_everything(3)
    schema = LabelSchema(structures={1: "shell", 5: "core"})
    generator = torch.Generator().manual_seed(1)
    maps = [
        {"image": torch.randint(0, 3, (1, 8, 8, 8), generator=generator, dtype=torch.uint8)} for _ in range(8)
    ]
    return build_autoencoder_training(
        make_autoencoder(VAEConfig(in_channels=3, out_channels=3, **SMALL)),
        CacheDataset(maps[3:], progress=False),
        validation_set=CacheDataset(maps[:3], progress=False),
        loss=LabelMapLoss(),
        inferer=OneHotInferer(3),
        make_evaluator=partial(LabelMapEvaluator, schema=schema),
        config=AutoencoderTrainingConfig(
            n_epochs=EPOCHS, learning_rate=1e-2, warmup_steps=2, accumulation_steps=2, ema_decay=0.9, seed=7
        ),
        run=make_run(folder, **running),
    ).trainer


@pytest.fixture
def makers() -> dict[str, Callable[..., Any]]:
    makers = {
        "vae": partial(make_first_stage, kind="vae"),
        "linear": partial(make_first_stage, kind="linear"),
        "vqvae": partial(make_first_stage, kind="vqvae"),
        "label_maps": make_label_maps,
        "diffusion": make_second_stage,
        "decoder": make_third_stage,
    }
    return {kind: partial(smooth, make) for kind, make in makers.items()}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["vae", "vqvae", "linear", "label_maps", "diffusion", "decoder"])
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
    for own, other in zip(first["history"], history(alone.state_handler.handlers[0].directory), strict=True):
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
