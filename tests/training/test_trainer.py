"""LatentDiffusionTrainer: the training of the bundles from Python, stopped and shared in the same way."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Events
from torch.utils.data import DataLoader

from medldm import LatentDiffusionConfig, LatentDiffusionTrainer
from medldm.latent_diffusion.checkpoints import load_checkpoint
from medldm.training.diffusion import DiffusionTrainer
from tests.rank_processes import run_on_ranks

N_EPOCHS = 3


def cases(n: int = 4) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(1)
    volumes = [torch.rand(1, 16, 16, 16, generator=generator) * 2 - 1 for _ in range(n)]
    return DataLoader([{"image": volume, "class": i % 3} for i, volume in enumerate(volumes)])


def train(make_model: Any, folder: Path, **options: Any) -> Path:
    config = LatentDiffusionConfig(n_epochs=N_EPOCHS, learning_rate=1e-3, warmup_steps=2, ema_decay=0.9)
    trainer = LatentDiffusionTrainer(
        make_model(("class",)), config, output_dir=folder, device="cpu", batch_size=2, **options
    )
    return trainer.train(cases(), validation_loader=cases(2))


def history(folder: Path) -> list[float]:
    lines = (folder / "logs" / "diffusion" / "history.jsonl").read_text().splitlines()
    return [json.loads(line).get("loss", json.loads(line).get("validation_loss")) for line in lines]


def follow(monkeypatch: pytest.MonkeyPatch, handler: Any, **when: int) -> None:
    """Let every training of a denoiser call a handler."""
    make = DiffusionTrainer.__init__

    def make_followed(self: Any, *args: Any, **kwargs: Any) -> None:
        make(self, *args, **kwargs)
        event = Events.ITERATION_COMPLETED(**when) if when else Events.ITERATION_COMPLETED
        self.add_event_handler(event, handler)

    monkeypatch.setattr(DiffusionTrainer, "__init__", make_followed)


def test_a_stopped_training_goes_on_bit_for_bit(make_model, tmp_path, monkeypatch) -> None:
    straight = load_checkpoint(train(make_model, tmp_path / "straight")).weights

    def stop(engine: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        follow(patch, stop, once=3)
        with pytest.raises(KeyboardInterrupt):
            train(make_model, tmp_path / "stopped", save_batches=1)
    resumed = load_checkpoint(train(make_model, tmp_path / "stopped", resume="must")).weights
    assert all(torch.equal(resumed[name], tensor) for name, tensor in straight.items())
    assert history(tmp_path / "stopped") == history(tmp_path / "straight")


def test_the_rate_rises_and_falls_as_in_the_bundles(make_model, tmp_path, monkeypatch) -> None:
    rates: list[float] = []
    follow(monkeypatch, lambda engine: rates.append(engine.optimizer.param_groups[0]["lr"]))
    train(make_model, tmp_path)
    assert len(rates) == 2 * N_EPOCHS
    assert rates[0] > rates[2] > rates[4] > rates[5]
    assert rates[-1] == pytest.approx(1e-5)


def share(rank: int, make_model: Any, folder: Path) -> None:
    train(make_model, folder)


@pytest.mark.slow
def test_two_processes_train_as_one_does(make_model, tmp_path) -> None:
    """Without a word about the processes, as torchrun starts them."""
    train(make_model, tmp_path / "alone")
    work = partial(share, make_model=make_model, folder=tmp_path / "shared")
    assert run_on_ranks(work, tmp_path / "ranks", joined=False) == [0, 0]
    assert history(tmp_path / "shared") == pytest.approx(history(tmp_path / "alone"), rel=1e-3)
    shared, alone = (
        load_checkpoint(tmp_path / name / "latent_diffusion.safetensors") for name in ("shared", "alone")
    )
    assert torch.equal(shared.weights["latent_scale"], alone.weights["latent_scale"])


def test_volumes_of_several_channels_train(make_model, tmp_path) -> None:
    model = make_model(("class",), channels=("t1n", "ct"))
    config = LatentDiffusionConfig(n_epochs=1)
    batches = [
        {"image": torch.cat([batch["image"], -batch["image"]], dim=1), **batch_class(batch)}
        for batch in cases()
    ]
    LatentDiffusionTrainer(model, config, output_dir=tmp_path, device="cpu", batch_size=2).train(batches)
    card = load_checkpoint(tmp_path / "latent_diffusion.safetensors").card
    assert card["space"]["channels"] == ["t1n", "ct"] and card["autoencoder"]["config"]["out_channels"] == 2
    with pytest.raises(ValueError, match=r"\(B, 2, X, Y, Z\) is needed"):
        LatentDiffusionTrainer(model, config, output_dir=tmp_path / "other", device="cpu").train(cases())


def batch_class(batch: dict[str, Any]) -> dict[str, Any]:
    return {"class": batch["class"]}
