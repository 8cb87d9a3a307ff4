"""The snapshot is the earliest weights within a share of the lowest loss, of few files at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from ignite.engine import Engine

from benchmarks.tiny_trainings import EPOCHS, make_second_stage
from medldm.latent_diffusion.checkpoints import read_card
from medldm.training.early_snapshot import MOST, WITHIN, EarlySnapshot
from medldm.training.handlers import CheckpointWriter


def follow(losses: list[float], folder: Path) -> tuple[EarlySnapshot, int]:
    """Validate a made-up series; return the handler and the most files at a time."""
    evaluator, trainer = Engine(lambda *_: None), Engine(lambda *_: None)
    trainer.state.epoch = trainer.state.iteration = 0
    writer = CheckpointWriter(
        folder,
        name="latent_diffusion",
        describe=lambda: ({"w": torch.tensor([float(trainer.state.epoch)])}, {"kind": "latent_diffusion"}),
        evaluator=evaluator,
        metric="validation_loss",
        larger_is_better=False,
    )
    early, most = EarlySnapshot(writer, evaluator=evaluator), 0
    for loss in losses:
        trainer.state.epoch += 1
        evaluator.state.metrics = {"validation_loss": loss}
        early._look(evaluator, trainer)
        most = max(most, len(list(early.folder.iterdir())))
    early._choose()
    return early, most


@pytest.mark.parametrize("seed", range(6))
def test_it_is_the_earliest_within_the_share_of_the_lowest(seed: int, tmp_path: Path) -> None:
    generator = np.random.default_rng(seed)
    fall = 1 + np.exp(-np.arange(80) / generator.uniform(5, 40))
    losses = (fall + generator.normal(0, 0.01, 80)).tolist()
    early, most = follow(losses, tmp_path)
    said = read_card(early.path)["training"]
    assert said["selected_by"] == "early" and said["validation_loss"] == losses[said["epoch"] - 1]
    lowest = min(losses)
    first = next(place for place, loss in enumerate(losses, 1) if loss <= (1 + WITHIN) * lowest)
    # A loss that beats the candidate before by less than a quarter of the share is no candidate.
    first_apart = next(place for place, loss in enumerate(losses, 1) if loss <= (1 + 0.75 * WITHIN) * lowest)
    assert first <= said["epoch"] <= first_apart
    assert losses[said["epoch"] - 1] <= (1 + WITHIN) * lowest
    assert most <= MOST and not early.folder.exists()


def test_a_training_leaves_it_beside_best_and_last_and_says_what_it_is(tmp_path: Path) -> None:
    trainer = make_second_stage(tmp_path, settings={"learning_rate": 1e-2})
    trainer.run()
    card = read_card(tmp_path / "latent_diffusion_early.safetensors")
    best = read_card(tmp_path / "latent_diffusion.safetensors")["training"]
    said = card["training"]
    assert 1 <= said["epoch"] <= best["epoch"] <= EPOCHS
    assert said["validation_loss"] <= (1 + WITHIN) * best["validation_loss"]
    assert said["identity"] == best["identity"]
    assert not (tmp_path / "early_candidates").exists()
    history = (tmp_path / "logs" / "diffusion" / "history.jsonl").read_text()
    assert history.count('"training_loss"') == history.count('"gap"') == EPOCHS
